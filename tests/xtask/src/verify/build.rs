//! Builds the tests and finds the programs that hold them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

/// A program with tests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestBinary {
    /// What it tests, such as `vmm/disk` or `tests::engines`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The folder of its package, in which cargo runs it.
    pub(super) folder: PathBuf,
    system: bool,
}

impl TestBinary {
    /// Whether its tests start machines: each of them is then a process of its own.
    pub(crate) fn is_system(&self) -> bool {
        self.system
    }

    /// Whether its tests are about what each engine does in its own way, and are run with each.
    pub(crate) fn is_for_every_engine(&self) -> bool {
        const OTHERS: [&str; 2] = ["tests::once", "tests::structure"];
        self.system && !OTHERS.contains(&self.name.as_str())
    }

    /// A command that runs it, as cargo would. Whoever runs the tests in the background of a script ignores what a
    /// terminal sends; tests do not.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(&self.path)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("VMM_BIN", project::vmm_binary())
            .env("VMM_TEST_IMAGES", project::test_images())
            .stdin(Stdio::null());
        command
    }
}

/// Builds every test of the workspace.
pub(crate) fn test_binaries() -> Outcome<Vec<TestBinary>> {
    let mut cargo = project::cargo();
    cargo.args(["test", "--workspace", "--no-run"]);
    println!("  $ {}", command::line(&cargo));
    let built = built_by(&mut cargo)?;
    // No test links the shared library, so that cargo makes it for none; other programs load it. What it is made of is
    // there: the same packages with the same features.
    let mut library = project::cargo();
    library.args(["build", "--quiet", "--workspace", "--lib", "--tests"]);
    command::show(&mut library)?;
    Ok(built)
}

/// Builds one program of system tests.
pub(crate) fn system_test(name: &str) -> Outcome<TestBinary> {
    let mut cargo = project::cargo();
    cargo.args(["test", "--package", "vmm-tests", "--test", name, "--no-run"]);
    let built = built_by(&mut cargo)?.into_iter().next();
    built.ok_or_else(|| Failure::new(format!("cargo names no program for the tests in {name}")))
}

/// The test programs that this `cargo test --no-run` builds.
fn built_by(cargo: &mut Command) -> Outcome<Vec<TestBinary>> {
    let output = cargo
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new("the tests do not build"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut binaries: Vec<TestBinary> =
        text.lines().filter_map(|line| read(line, &project::root())).collect();
    binaries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(binaries)
}

/// Reads one of cargo's messages.
fn read(message: &str, root: &Path) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message.get("reason")? != "compiler-artifact" || message.pointer("/profile/test")? != true {
        return None;
    }
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_path_buf();
    let package = folder.strip_prefix(root).unwrap_or(&folder).display().to_string();
    let target = message.pointer("/target/name")?.as_str()?;
    let is_test = message.pointer("/target/kind/0")? == "test";
    let name = if is_test { format!("{package}::{target}") } else { package.clone() };
    Some(TestBinary { name, path, folder, system: is_test && package == "tests" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(manifest: &str, kind: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": manifest,
            "target": { "name": "engines", "kind": [kind] },
            "profile": { "test": test },
            "executable": if test { Some("/project/target/debug/deps/engines-1") } else { None },
        })
        .to_string()
    }

    #[test]
    fn a_system_test_is_told_from_a_unit_test() {
        let root = Path::new("/project");
        let system = read(&message("/project/tests/Cargo.toml", "test", true), root).unwrap();
        assert!(system.is_system() && system.name == "tests::engines");
        let of_harness = read(&message("/project/tests/Cargo.toml", "lib", true), root).unwrap();
        assert!(!of_harness.is_system() && of_harness.name == "tests");
        let of_cli = read(&message("/project/vmm/cli/Cargo.toml", "test", true), root).unwrap();
        assert!(!of_cli.is_system() && of_cli.name == "vmm/cli::engines");
    }

    #[test]
    fn what_holds_no_tests_is_passed_over() {
        let root = Path::new("/project");
        assert_eq!(read(&message("/project/vmm/Cargo.toml", "lib", false), root), None);
        assert_eq!(read(r#"{"reason":"build-finished","success":true}"#, root), None);
        assert_eq!(read("warning: something", root), None);
    }
}
