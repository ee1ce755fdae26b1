//! Debian's and Ubuntu's packages, with Debian's backports where the release's QEMU is too old.
//!
//! What sources the machine has is asked of apt itself, which reads every layout there is (one-line `.list`,
//! deb822 `.sources`, lists of mirrors). A source of ours is only added where nothing configured will do.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Manager;
use super::manager::as_root;
use super::qemu::{self, Version};
use super::tool::Tool;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

/// The source that we add, if any.
const OUR_SOURCE: &str = "/etc/apt/sources.list.d/vmm-backports.sources";

/// Installs the packages of the tools; QEMU from the first suite that has it new enough.
pub(super) fn install(tools: &[Tool]) -> Outcome {
    command::quietly(apt_get()?.arg("update"))?;
    let packages = |of_qemu: bool| -> Vec<&str> {
        let tools = tools.iter().filter(|tool| tool.is_of_qemu() == of_qemu);
        tools.flat_map(|tool| tool.packages(Manager::Apt)).copied().collect()
    };
    install_from(&Suite::Usual, &packages(false))?;
    let qemu = packages(true);
    // Its tools come from the same suite: apt would remove one version for the other's sake.
    if qemu.is_empty() { Ok(()) } else { install_from(&suite_with_qemu()?, &qemu) }
}

fn install_from(suite: &Suite, packages: &[&str]) -> Outcome {
    if packages.is_empty() {
        return Ok(());
    }
    let mut install = apt_get()?;
    install.args(["install", "-y", "--no-install-recommends", "--no-remove"]);
    if let Suite::Named(name) = suite {
        install.arg("-t").arg(name);
    }
    command::quietly(install.args(packages))
}

/// Where a package is to come from.
#[derive(Debug, PartialEq, Eq)]
enum Suite {
    /// What apt takes by itself.
    Usual,
    /// One that apt takes from only when told.
    Named(String),
}

fn suite_with_qemu() -> Outcome<Suite> {
    let package = Tool::Qemu.packages(Manager::Apt).first().copied().unwrap_or_default();
    if let Some(suite) = suite_with(package) {
        return Ok(suite);
    }
    let best = offers(&madison(package)).iter().map(|offer| offer.version).max();
    let release = Release::of_this_machine();
    let has = match best {
        Some(version) => {
            format!("{} has QEMU {version}, and {} or later is needed", release.name, qemu::NEEDED)
        }
        None => format!("apt knows no package {package}"),
    };
    let Some(archive) = release.debian.then(|| archive_of(&release.codename)).flatten() else {
        return Err(Failure::new(has).hint(
            "Is this machine online, and are its apt sources complete? Otherwise install QEMU by hand, so that \
             it is on the path, and start again.",
        ));
    };
    println!("  {has}: taking it from {}", archive.backports);
    add_source(&archive)?;
    command::quietly(apt_get()?.arg("update"))?;
    suite_with(package).ok_or_else(|| {
        Failure::new(format!("{} has no QEMU {} or later either", archive.backports, qemu::NEEDED))
            .hint("Install QEMU by hand, so that it is on the path, and start again.")
    })
}

fn suite_with(package: &str) -> Option<Suite> {
    let candidate = command::output("apt-cache", &["policy", package]).and_then(|text| candidate(&text));
    choose(candidate, &offers(&madison(package)))
}

fn choose(candidate: Option<Version>, offers: &[Offer]) -> Option<Suite> {
    if candidate.is_some_and(|version| version >= qemu::NEEDED) {
        return Some(Suite::Usual);
    }
    let offer = offers.iter().find(|offer| offer.version >= qemu::NEEDED)?;
    Some(Suite::Named(offer.suite.clone()))
}

/// The version that apt would take by itself, from the words of `apt-cache policy`.
fn candidate(policy: &str) -> Option<Version> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Version::of_package(line.trim())
}

fn madison(package: &str) -> String {
    command::output("apt-cache", &["madison", package]).unwrap_or_default()
}

/// A version of a package, and the suite that has it.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    version: Version,
    suite: String,
}

/// Reads lines like `qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | <mirror> bookworm-backports/main amd64 Packages`.
fn offers(madison: &str) -> Vec<Offer> {
    let offer = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let version = Version::of_package(columns.nth(1)?)?;
        let (suite, _component) = columns.next()?.split_whitespace().nth(1)?.split_once('/')?;
        Some(Offer { version, suite: suite.to_owned() })
    };
    madison.lines().filter_map(offer).collect()
}

/// The distribution of this machine.
struct Release {
    name: String,
    codename: String,
    debian: bool,
}

impl Release {
    fn of_this_machine() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(os_release: &str) -> Self {
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        Self {
            name: field("PRETTY_NAME"),
            codename: field("VERSION_CODENAME"),
            debian: field("ID") == "debian",
        }
    }
}

/// Where this machine gets its release from, as apt is configured.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    mirror: String,
    backports: String,
    /// The file that configures it: it may name the key.
    configured_in: String,
}

const TARGET_FORMAT: &str = "$(REPO_URI) $(ORIGIN) $(CODENAME) $(COMPONENT) $(SOURCESENTRY)";

fn archive_of(codename: &str) -> Option<Archive> {
    let targets =
        command::output("apt-get", &["indextargets", "--format", TARGET_FORMAT, "Created-By: Packages"])?;
    archive_in(&targets, codename)
}

fn archive_in(targets: &str, codename: &str) -> Option<Archive> {
    targets.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            [mirror, "Debian", name, "main", entry, ..] if *name == codename => Some(Archive {
                mirror: (*mirror).to_owned(),
                backports: format!("{codename}-backports"),
                configured_in: entry.rsplit_once(':').map_or(*entry, |(file, _line)| file).to_owned(),
            }),
            _ => None,
        }
    })
}

/// The key file that the configuration names, in either of its layouts.
fn key_in(configuration: &str) -> Option<String> {
    configuration.lines().find_map(|line| {
        let (_, value) = match line.strip_prefix("Signed-By:") {
            Some(value) => ("", value),
            None => line.split_once("signed-by=")?,
        };
        let value = value.trim().split([' ', ']']).next()?;
        value.starts_with('/').then(|| value.to_owned())
    })
}

fn source_text(archive: &Archive, key: Option<&str>) -> String {
    let mut text = format!(
        "# Added by vmm's `cargo quickstart`: this release's own QEMU is older than {}. Safe to remove.\n\
         Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n",
        qemu::NEEDED,
        archive.mirror,
        archive.backports
    );
    if let Some(key) = key {
        text.push_str(&format!("Signed-By: {key}\n"));
    }
    text
}

fn add_source(archive: &Archive) -> Outcome {
    let key = key_in(&fs::read_to_string(&archive.configured_in).unwrap_or_default());
    let ready = project::target().join("vmm-backports.sources");
    fs::write(&ready, source_text(archive, key.as_deref()))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", ready.display())))?;
    let ready: &Path = &ready;
    command::quietly(as_root("install")?.args(["-m", "0644"]).arg(ready).arg(OUR_SOURCE))
}

fn apt_get() -> Outcome<Command> {
    // `sudo` drops the environment, so what must reach apt goes through `env`.
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str =
        "qemu-system-x86 | 1:7.2+dfsg-7+deb12u13 | http://mirror.example/debian bookworm/main amd64 Packages";
    const NEW: &str = "qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages";

    #[test]
    fn a_release_that_is_new_enough_is_taken_as_it_is() {
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:8.2.2+ds-0ubuntu1.4\n";
        assert_eq!(choose(candidate(policy), &[]), Some(Suite::Usual));
    }

    #[test]
    fn backports_are_named_where_only_they_are_new_enough() {
        let offers = offers(&format!("{NEW}\n{OLD}\n"));
        assert_eq!(offers.len(), 2);
        let policy = "  Installed: 1:7.2+dfsg-7\n  Candidate: 1:7.2+dfsg-7+deb12u13\n";
        assert_eq!(choose(candidate(policy), &offers), Some(Suite::Named("bookworm-backports".to_owned())));
    }

    #[test]
    fn nothing_is_chosen_where_everything_is_too_old_or_unknown() {
        assert_eq!(choose(candidate("  Candidate: 1:7.2+dfsg-7\n"), &offers(OLD)), None);
        assert_eq!(choose(candidate("  Candidate: (none)\n"), &[]), None);
        assert_eq!(choose(None, &offers("N: Unable to locate package\n")), None);
    }

    #[test]
    fn the_mirror_is_the_one_that_the_release_itself_comes_from() {
        let targets = "\
http://security.example/debian-security/ Debian bookworm-security main /etc/apt/sources.list.d/debian.sources:7
http://tools.example/ Tools bookworm main /etc/apt/sources.list.d/tools.list:1
http://mirror.example/debian/ Debian bookworm main /etc/apt/sources.list.d/debian.sources:1
";
        let archive = archive_in(targets, "bookworm").unwrap();
        assert_eq!(archive.mirror, "http://mirror.example/debian/");
        assert_eq!(archive.configured_in, "/etc/apt/sources.list.d/debian.sources");
        assert_eq!(archive_in(targets, "trixie"), None);
    }

    #[test]
    fn the_source_that_is_added_is_signed_as_the_one_beside_it() {
        let archive = Archive {
            mirror: "http://mirror.example/debian/".to_owned(),
            backports: "bookworm-backports".to_owned(),
            configured_in: String::new(),
        };
        let deb822 = "Types: deb\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let one_line = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main\n";
        for configuration in [deb822, one_line] {
            let text = source_text(&archive, key_in(configuration).as_deref());
            assert!(text.ends_with(
                "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm-backports\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            ), "{text}");
        }
        assert_eq!(key_in("deb http://mirror.example/debian bookworm main\n"), None);
        assert_eq!(key_in("Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n"), None);
    }

    #[test]
    fn only_debian_itself_gets_debians_backports() {
        let debian = Release::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n",
        );
        assert!(debian.debian && debian.codename == "bookworm");
        let ubuntu = Release::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n");
        assert!(!ubuntu.debian);
    }
}
