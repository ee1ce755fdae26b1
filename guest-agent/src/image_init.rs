//! The image's own init, when it is process 1 and we are a process beside it.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::mount_bind;
use vmm_protocol::{ShutdownMode, Start};
use vmm_sys::file::if_there;
use vmm_sys::kill::kill;

use crate::console;
use crate::launch::Launcher;

/// Where an init is looked for, as the kernel does.
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

/// Executes the image's init in our place, as the kernel would have.
pub(crate) fn become_it() -> io::Result<Infallible> {
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for init in INITS {
        if !Path::new(init).exists() {
            continue;
        }
        error = Command::new(init)
            .env_clear()
            .envs([("HOME", "/"), ("TERM", "linux"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
            .exec();
    }
    Err(error)
}

/// Keeps the image's init from starting these services.
pub(crate) fn mask(services: &[String]) {
    for service in services.iter().filter(|service| !service.is_empty() && !service.contains('/')) {
        if let Err(error) =
            mask_openrc(Path::new("/"), service).and_then(|()| mask_systemd(Path::new("/"), service))
        {
            console::line(&format!("cannot mask the service {service}: {error}"));
        }
    }
}

/// OpenRC starts what a runlevel links to.
fn mask_openrc(root: &Path, service: &str) -> io::Result<()> {
    let Ok(runlevels) = fs::read_dir(root.join("etc/runlevels")) else { return Ok(()) };
    for runlevel in runlevels.flatten() {
        let link = runlevel.path().join(service);
        match fs::remove_file(&link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // What cannot be removed is covered: nothing that is executed.
            Err(error) if error.raw_os_error() == Some(Errno::ROFS.raw_os_error()) => {
                if link.exists() {
                    mount_bind("/dev/null", root.join("etc/init.d").join(service))?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// systemd does not start a unit that is a link to nothing.
fn mask_systemd(root: &Path, service: &str) -> io::Result<()> {
    let units = root.join("etc/systemd/system");
    if !units.is_dir() {
        return Ok(());
    }
    let link = units.join(format!("{service}.service"));
    if_there(fs::remove_file(&link))?;
    symlink("/dev/null", link)
}

/// Asks the image's init to shut down, in its own way. Says whether it could be asked.
pub(crate) fn ask(mode: ShutdownMode, launcher: &mut Launcher) -> bool {
    let program = fs::read_link("/proc/1/exe").unwrap_or_default();
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let power_off = mode == ShutdownMode::PowerOff;
    match name {
        // systemd(1): SIGRTMIN+4 is poweroff.target, SIGRTMIN+5 reboot.target.
        "systemd" => kill(1, if power_off { 38 } else { 39 }).is_ok(),
        // busybox's init: SIGUSR2 powers off, SIGTERM reboots.
        "busybox" => kill(1, if power_off { 12 } else { 15 }).is_ok(),
        "openrc-init" => {
            let order: &[u8] = if power_off { b"poweroff" } else { b"reboot" };
            tell(&PathBuf::from("/run/openrc/init.ctl"), order).is_ok()
        }
        // Every other one brings the commands.
        _ => {
            let command = if power_off { "poweroff" } else { "reboot" };
            let start = Start { argv: vec![command.into()], ..Start::default() };
            // It is none of the clients' processes; whoever is left of it dies with the rest.
            launcher.launch(&start, None).is_ok()
        }
    }
}

/// Writes into a pipe that somebody reads; never waits for one.
fn tell(pipe: &Path, order: &[u8]) -> io::Result<()> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    fs::File::options().write(true).custom_flags(flags).open(pipe)?.write_all(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_service_is_in_no_runlevel_and_its_unit_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for folder in ["etc/runlevels/boot", "etc/runlevels/default", "etc/init.d", "etc/systemd/system"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for service in ["foreign", "sshd"] {
            fs::write(path("etc/init.d").join(service), "").unwrap();
            symlink(format!("/etc/init.d/{service}"), path("etc/runlevels/default").join(service)).unwrap();
        }
        for _ in 0..2 {
            mask_openrc(root.path(), "foreign").unwrap();
            mask_systemd(root.path(), "foreign").unwrap();
        }
        assert!(path("etc/runlevels/default/foreign").symlink_metadata().is_err());
        assert!(path("etc/runlevels/default/sshd").symlink_metadata().is_ok());
        let unit = fs::read_link(path("etc/systemd/system/foreign.service")).unwrap();
        assert_eq!(unit, Path::new("/dev/null"));
    }
}
