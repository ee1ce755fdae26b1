//! Fetching a Python package's file with pip, or with uv, whichever there is.
//!
//! The user's own configuration of pip (indexes, mirrors, proxies, certificates) is honoured. Nothing of the package is
//! executed: only wheels are taken, and pip only downloads.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use snafu::ResultExt;
use vmm_sys::child::die_with_parent;
use vmm_sys::process::Process;

use super::super::error::{
    CancelledSnafu, FetchSnafu, ImageError, NoPipSnafu, OfflineSnafu, Result, SpawnSnafu, StorageSnafu,
};
use super::super::files;
use super::super::progress::{Stage, Step};
use super::{PythonPackage, Workshop};

/// How often a download that breaks off is begun again.
const ATTEMPTS: usize = 3;

/// How often the growing file is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// How much of what pip says is read.
const LONGEST_LOG: u64 = 4 << 20;

/// The ways to run pip, in the order in which they are tried. `uvx` fetches pip itself first.
const TOOLS: [&[&str]; 5] = [
    &["python3", "-m", "pip"],
    &["pip3"],
    &["pip"],
    &["python", "-m", "pip"],
    &["uvx", "--quiet", "--from", "pip", "pip"],
];

/// What became of a run of pip.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Fetched,
    /// There is no pip behind this command.
    NoPip,
    /// There is no way to the index.
    Offline(String),
    /// The way broke off midway.
    Interrupted(String),
    Failed(String),
}

/// Downloads the package's file into the workshop, and gives its path. What is in it is not looked at.
pub(super) fn download(package: &PythonPackage, workshop: &Workshop<'_>) -> Result<PathBuf> {
    let folder = workshop.folder.join("download");
    for tool in TOOLS {
        let Some(program) = find_program(tool[0], workshop) else { continue };
        let name = tool.join(" ");
        if !(workshop.network.has_route)()
            && !has_settings(Path::new("/"), &env::vars_os().collect::<Vec<_>>())
        {
            let reason = "this machine has no way to any other";
            return OfflineSnafu { reason, missing: package.to_string(), cached: String::new() }.fail();
        }
        for attempt in 1.. {
            files::remove_folder(&folder)?;
            files::make_folder(&folder)?;
            let mut command = Command::new(&program);
            command.args(&tool[1..]);
            let reason = match run(command, &name, package, workshop, &folder)? {
                Outcome::Fetched => return Ok(folder.join(package.file)),
                Outcome::NoPip => break,
                Outcome::Offline(reason) => {
                    // What is cached the caller knows, and fills in.
                    return OfflineSnafu { reason, missing: package.to_string(), cached: String::new() }
                        .fail();
                }
                Outcome::Interrupted(reason) if attempt < ATTEMPTS => {
                    tracing::warn!(package = %package, reason, "the download broke off; it is begun again");
                    continue;
                }
                Outcome::Interrupted(reason) | Outcome::Failed(reason) => reason,
            };
            return FetchSnafu { what: package.to_string(), tool: name, reason }.fail();
        }
    }
    NoPipSnafu { package: package.to_string(), install: install_command(workshop) }.fail()
}

/// Whether somebody may have told pip of an index, a proxy or packages that are on this very machine: by a variable, or in
/// a file where pip looks for its settings (pip's documentation, "Configuration"). Only pip itself knows what they mean.
fn has_settings(root: &Path, variables: &[(OsString, OsString)]) -> bool {
    let here = words_of_here(&fs::read_to_string(root.join("etc/hosts")).unwrap_or_default());
    let is_of_here = |text: &str| {
        let text = text.to_ascii_lowercase();
        here.iter().any(|word| text.contains(word))
    };
    let variable = |wanted: &str| {
        let (_, value) = variables.iter().find(|(name, _)| name == wanted)?;
        Some(PathBuf::from(value))
    };
    let of_environment = variables.iter().any(|(name, value)| {
        let name = name.to_string_lossy().to_ascii_lowercase();
        let is_told = name.starts_with("pip_") || name.starts_with("uv_") || name.ends_with("_proxy");
        is_told && name != "no_proxy" && is_of_here(&format!("{name}={}", value.to_string_lossy()))
    });
    let home = variable("HOME");
    let settings = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let places = [
        Some(root.join("etc")),
        Some(root.join("etc/xdg/pip")),
        Some(root.join("usr")),
        Some(root.join("usr/local")),
        home.as_ref().map(|home| home.join(".pip")),
        home.as_ref().map(|home| home.join("Library/Application Support/pip")),
        settings.map(|settings| settings.join("pip")),
        variable("VIRTUAL_ENV"),
    ];
    let files = places.into_iter().flatten().map(|place| place.join("pip.conf"));
    let mut files = files.chain(variable("PIP_CONFIG_FILE"));
    let in_files = files.any(|file| match files::read(&file, LONGEST_LOG) {
        Ok(text) => text.is_some_and(|text| is_of_here(&String::from_utf8_lossy(&text))),
        // What cannot be read may say anything.
        Err(_) => true,
    });
    of_environment
        || in_files
        || variable("XDG_CONFIG_DIRS").is_some_and(|folders| !folders.as_os_str().is_empty())
}

/// What names this machine in an address, with the names that its list of hosts gives it; and what names files.
fn words_of_here(hosts: &str) -> Vec<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let loopback = lines.filter(|line| line.starts_with("127.") || line.starts_with("::1"));
    let names = loopback.flat_map(|line| line.split_whitespace().skip(1));
    let fixed = ["localhost", "127.", "::1", "0.0.0.0", "file:", "find-links", "find_links"];
    fixed.into_iter().chain(names).map(str::to_ascii_lowercase).collect()
}

/// Runs one command to its end, and tells how far it is meanwhile.
fn run(
    mut command: Command,
    tool: &str,
    package: &PythonPackage,
    workshop: &Workshop<'_>,
    folder: &Path,
) -> Result<Outcome> {
    let log_path = workshop.folder.join("pip.log");
    files::remove_file(&log_path)?;
    let log = files::create(&log_path)?;
    let storage = StorageSnafu { action: "write", path: &log_path };
    command
        // No cached copy stays behind: what is fetched is kept in the store. `-vv` has pip say why it found nothing.
        .args(["download", "-vv", "--no-input", "--no-color", "--no-cache-dir", "--retries", "0"])
        .args(["--timeout", "10", "--progress-bar", "off", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary", ":all:", "--python-version", "3.13"])
        .args(["--platform", package.platform, "--dest"])
        .arg(folder)
        .arg(format!("{}=={}", package.name, package.version))
        // Whoever pulls does so anywhere, perhaps in a stranger's folder: Python must not look for code there.
        .current_dir(folder)
        .env("PATH", &workshop.search_path)
        .env("TMPDIR", folder)
        .env("UV_CACHE_DIR", folder.join("uv"))
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUTF8", "1")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("PYTHONPATH")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context(storage)?)
        .stderr(log);
    let mut child = match die_with_parent(&mut command).spawn() {
        Ok(child) => Running(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::NoPip),
        Err(error) => return Err(error).context(SpawnSnafu { tool }),
    };
    let process = Process::open(child.0.id()).context(SpawnSnafu { tool })?;
    let mut most = 0;
    let status = loop {
        if workshop.progress.cancelled() {
            return CancelledSnafu { image: workshop.image }.fail();
        }
        if let Some(process) = &process {
            process.wait(GLANCE).context(SpawnSnafu { tool })?;
        }
        let status = child.0.try_wait().context(SpawnSnafu { tool })?;
        // pip moves the file from one place to another at the end: the largest one is what has come so far.
        most = largest_file(folder, 3).min(package.pin.size).max(most);
        let (done, total) = (most, Some(package.pin.size));
        workshop.progress.step(Step { stage: Stage::Downloading, subject: package.file, done, total });
        if let Some(status) = status {
            break status;
        }
    };
    // Ctrl-C reaches pip too, and may reach it first.
    if workshop.progress.cancelled() {
        return CancelledSnafu { image: workshop.image }.fail();
    }
    if !status.success() && !has_room(folder, package.pin.size) {
        // There was no room for its own words either.
        return Ok(Outcome::Failed(format!("no space left: it has {} bytes", package.pin.size)));
    }
    let log = read_log(&log_path)?;
    Ok(judge(status, &log, folder.join(package.file).is_file(), most > 0))
}

/// Whether a folder's disk has room for so many bytes, where that can be known.
fn has_room(folder: &Path, bytes: u64) -> bool {
    let free = rustix::fs::statvfs(folder).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    free.map_or(true, |free| free >= bytes)
}

/// A child that is killed when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run's end means, by its status and what it said.
fn judge(status: ExitStatus, log: &str, file_is_there: bool, bytes_came: bool) -> Outcome {
    if status.success() {
        return if file_is_there {
            Outcome::Fetched
        } else {
            Outcome::Failed("it fetched another file than the one that is wanted".to_owned())
        };
    }
    let says = |words: &[&str]| {
        log.lines().find(|line| {
            let line = line.to_ascii_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    };
    if says(&NO_PIP).is_some() || status.code() == Some(127) {
        return Outcome::NoPip;
    }
    if !bytes_came {
        if says(&NO_NAMES).is_some() {
            return Outcome::Offline("host names cannot be resolved".to_owned());
        }
        if let Some(line) = says(&NO_CONNECTION) {
            return Outcome::Offline(connection_failure(line).to_owned());
        }
    }
    if bytes_came && says(&BROKEN).is_some() {
        return Outcome::Interrupted("the connection broke".to_owned());
    }
    // `ERROR:` lines are pip's own summary; a traceback, which `-vv` adds, is not for users.
    let mut errors = log.lines().filter_map(|line| line.trim().strip_prefix("ERROR: "));
    let reason = errors.next_back().or_else(|| log.lines().rfind(|line| !line.trim().is_empty()));
    let reason = reason.unwrap_or("it said nothing").trim();
    let printable = reason.chars().filter(|character| !character.is_control()).take(300).collect();
    Outcome::Failed(printable)
}

const NO_PIP: [&str; 3] = ["no module named pip", "no module named 'pip'", "ensurepip is disabled"];

const NO_NAMES: [&str; 7] = [
    "name or service not known",
    "temporary failure in name resolution",
    "nodename nor servname",
    "name does not resolve",
    "failed to resolve",
    "getaddrinfo failed",
    "dns error",
];

const NO_CONNECTION: [&str; 9] = [
    "network is unreachable",
    "no route to host",
    "connection refused",
    "failed to establish a new connection",
    "connecttimeouterror",
    "timed out",
    "cannot connect to proxy",
    "unable to connect to proxy",
    "tcp connect error",
];

const BROKEN: [&str; 8] = [
    "incompleteread",
    "incomplete-download",
    "incomplete download",
    "timed out",
    "connection broken",
    "connection reset",
    "connection aborted",
    "protocolerror",
];

fn connection_failure(line: &str) -> &'static str {
    let line = line.to_ascii_lowercase();
    let reasons = [
        ("unreachable", "the network cannot be reached"),
        ("no route", "there is no route to the package index"),
        ("refused", "the package index refuses the connection"),
        ("timed out", "the package index does not answer"),
        ("timeout", "the package index does not answer"),
        ("proxy", "the proxy does not answer"),
    ];
    let known = reasons.into_iter().find(|(word, _)| line.contains(word));
    known.map_or("the package index cannot be reached", |(_, reason)| reason)
}

fn read_log(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut log = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_LOG).read_to_end(&mut log))
        .context(StorageSnafu { action: "read", path })?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// The size of the largest file beneath a folder. Files come and go meanwhile.
fn largest_file(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

fn find_program(name: &str, workshop: &Workshop<'_>) -> Option<PathBuf> {
    let candidates = env::split_paths(&workshop.search_path).filter(|folder| folder.is_absolute());
    candidates.map(|folder| folder.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// The command that installs pip on this machine.
fn install_command(workshop: &Workshop<'_>) -> String {
    let managers = [
        ("apt-get", "apt-get install python3-pip"),
        ("dnf", "dnf install python3-pip"),
        ("pacman", "pacman -S python-pip"),
        ("apk", "apk add py3-pip"),
        ("zypper", "zypper install python3-pip"),
        ("brew", "brew install python3"),
    ];
    let known = managers.into_iter().find(|(manager, _)| find_program(manager, workshop).is_some());
    let Some((manager, command)) = known else {
        return "python3 -m ensurepip".to_owned();
    };
    let sudo = if manager == "brew" || rustix::process::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}{command}")
}

impl PythonPackage {
    /// The package as its users write it.
    fn label(&self) -> String {
        format!("the Python package {} {}", self.name, self.version)
    }
}

impl std::fmt::Display for PythonPackage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label())
    }
}

/// Adds what works without a network to the error that there is none.
pub(in crate::image) fn with_cached(error: ImageError, cached: String) -> ImageError {
    match error {
        ImageError::Offline { reason, missing, .. } => ImageError::Offline { reason, missing, cached },
        other => other,
    }
}

#[cfg(test)]
mod tests;
