//! A VM as a service of systemd's: started at boot, stopped in order at shutdown.
//!
//! The unit's process is `vmm start --wait`: it starts the VM, or finds it running, and ends when the VM has ended, with a
//! failure if that is a crash. So there is one who starts anew: the VM's keeper where it has a policy for that, within
//! one life of the unit, or systemd, if the unit says so.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use snafu::{OptionExt, ResultExt};
use vmm_sys::file::if_there;

use super::error::{InvalidSnafu, SystemSnafu};
use super::{Error, Sandbox};
use crate::home::VmId;

/// Beyond what the guest may take to shut down: the monitor gives it some, the engine some, then it clears away.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// Whose systemd starts the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceScope {
    /// The user's own, when they log in; at boot, if they linger (`loginctl enable-linger`).
    User,
    /// The system's, at boot, as the user who owns the home. Only root can install it.
    System,
}

/// When systemd starts a VM anew that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceRestart {
    /// Never: that is for the VM's keeper.
    #[default]
    No,
    /// When it has crashed.
    OnFailure,
    /// Always, unless it was stopped by systemd.
    Always,
}

impl ServiceRestart {
    /// Its name, as systemd writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for ServiceRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A unit that is to be installed, or is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceUnit {
    /// What systemd calls it.
    pub name: String,
    /// What is in its file.
    pub text: String,
    id: VmId,
    scope: ServiceScope,
}

impl Sandbox {
    /// A unit for it, which runs this `vmm`. It finds the VM by its id, so that another name changes nothing.
    pub fn service(
        &self,
        scope: ServiceScope,
        restart: ServiceRestart,
        vmm: &Path,
    ) -> Result<ServiceUnit, Error> {
        let folder = self.link.folder();
        let spec = folder.spec()?.ok_or_else(|| self.gone())?;
        if spec.ephemeral() {
            let message =
                format!("{} is gone when it ends: there would be nothing to start at boot", self.name());
            return InvalidSnafu { message }.fail();
        }
        let (vmm, home) = (text_of(vmm)?, text_of(folder.home().root())?);
        let (id, name) = (self.id().clone(), self.name());
        let program = quote(vmm);
        let home = quote(&format!("VMM_HOME={home}"));
        let timeout = (spec.stop_grace() + STOP_MARGIN).as_secs();
        let (user, target) = match scope {
            ServiceScope::User => (String::new(), "default.target"),
            ServiceScope::System => {
                let user = rustix::process::geteuid().as_raw();
                (format!("User={user}\n"), "multi-user.target")
            }
        };
        let again = match restart {
            ServiceRestart::No => String::new(),
            _ => "RestartSec=5s\n".to_owned(),
        };
        let text = format!(
            "{mark}\n\
             [Unit]\n\
             Description=VM {name}\n\
             \n\
             [Service]\n\
             Type=exec\n\
             {user}\
             Environment={home}\n\
             ExecStart={program} start --wait {id}\n\
             ExecStop={program} stop {id}\n\
             TimeoutStopSec={timeout}s\n\
             Restart={restart}\n\
             {again}\
             \n\
             [Install]\n\
             WantedBy={target}\n",
            mark = mark(&id),
        );
        Ok(ServiceUnit { name: format!("vmm-{name}.service"), text, id, scope })
    }

    /// Takes the unit away that was installed for it, whatever it was called then. Says whether there was one.
    pub fn remove_service(&self, scope: ServiceScope) -> Result<bool, Error> {
        let folder = scope.folder()?;
        let removed = remove_units(&folder, scope, self.id(), None)?;
        if removed {
            scope.reload();
        }
        Ok(removed)
    }
}

impl ServiceUnit {
    /// Installs it, to be started at the next boot or login; one that was installed for the VM before is replaced.
    /// Returns its file.
    pub fn install(&self) -> Result<PathBuf, Error> {
        let folder = self.scope.folder()?;
        let path = folder.join(&self.name);
        let cannot = || SystemSnafu { what: format!("write {}", path.display()) };
        let wants = folder.join(self.scope.wants());
        fs::create_dir_all(&wants).with_context(|_| cannot())?;
        remove_units(&folder, self.scope, &self.id, Some(&self.name))?;
        let partial = path.with_extension("partial");
        fs::write(&partial, &self.text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|_| cannot())?;
        match symlink(Path::new("..").join(&self.name), wants.join(&self.name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked.with_context(|_| cannot())?,
        }
        self.scope.reload();
        Ok(path)
    }
}

impl ServiceScope {
    /// Where its units lie.
    fn folder(self) -> Result<PathBuf, Error> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        match self {
            Self::System => Ok("/etc/systemd/system".into()),
            Self::User => {
                let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
                let message = "there is no folder for units of systemd's: HOME is not set";
                Ok(config.context(InvalidSnafu { message })?.join("systemd/user"))
            }
        }
    }

    /// The folder in it with what is started by itself.
    fn wants(self) -> &'static str {
        match self {
            Self::User => "default.target.wants",
            Self::System => "multi-user.target.wants",
        }
    }

    /// Has systemd read its units anew. Where none runs, the next one reads them.
    fn reload(self) {
        let mut systemctl = Command::new("systemctl");
        if self == Self::User {
            systemctl.arg("--user");
        }
        let null = Stdio::null;
        let _ = systemctl.arg("daemon-reload").stdin(null()).stdout(null()).stderr(null()).status();
    }
}

/// Removes the units of a VM, but for the one with this name.
fn remove_units(folder: &Path, scope: ServiceScope, id: &VmId, kept: Option<&str>) -> Result<bool, Error> {
    let mut removed = false;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let is_unit = name.starts_with("vmm-") && name.ends_with(".service") && Some(name.as_str()) != kept;
        if !is_unit || !fs::read_to_string(&path).is_ok_and(|text| text.starts_with(&mark(id))) {
            continue;
        }
        let what = || SystemSnafu { what: format!("remove {}", path.display()) };
        if_there(fs::remove_file(folder.join(scope.wants()).join(&name))).with_context(|_| what())?;
        if_there(fs::remove_file(&path)).with_context(|_| what())?;
        removed = true;
    }
    Ok(removed)
}

/// The first line, by which the unit of a VM is known.
fn mark(id: &VmId) -> String {
    format!("# vmm made this for the VM {id}, and removes it again: vmm service --remove")
}

fn text_of(path: &Path) -> Result<&str, Error> {
    let message = || format!("{} cannot be written into a unit: it is no text", path.display());
    path.to_str().with_context(|| InvalidSnafu { message: message() })
}

/// A word as systemd would have it written (systemd.syntax(7), systemd.unit(5)): quoted, without a specifier in it.
fn quote(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                quoted.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn what_systemd_would_read_otherwise_is_quoted() {
        assert_eq!(quote("/usr/bin/vmm"), r#""/usr/bin/vmm""#);
        assert_eq!(quote(r#"/a b/50%/"c"\d"#), r#""/a b/50%%/\"c\"\\d""#);
        assert_eq!(quote("a\nb"), r#""a\x0ab""#);
    }
}
