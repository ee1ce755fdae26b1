//! What those have who embed vmm: the shared library, the examples, Python.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the work tree.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the tests lie in the work tree")
}

/// The folder that cargo has put the tests' own programs into: `<target>/<profile>`.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its program");
    test.ancestors().nth(2).expect("a test lies in cargo's folder").to_path_buf()
}

/// The shared library.
pub fn library() -> PathBuf {
    let path = built().join("libvmm.so");
    assert!(path.is_file(), "there is no {}: run `cargo build -p vmm-capi`", path.display());
    path
}

/// An example of the library's, in Rust.
pub fn example(name: &str) -> PathBuf {
    let path = built().join("examples").join(name);
    assert!(path.is_file(), "there is no {}: run `cargo build -p vmm --examples`", path.display());
    path
}

/// The interpreter of a Python environment in this folder, with pip and nothing else if it is new. Otherwise why there
/// can be none.
pub fn python_environment(folder: &Path) -> Result<PathBuf, String> {
    let python = folder.join("bin/python");
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if runs(Command::new(&python).args(["-m", "pip", "--version"])) {
        return Ok(python);
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder).output();
    match made {
        Err(error) => Err(format!("python3 cannot be started: {error}")),
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            Err(format!("python3 makes no environment: {}", said.lines().next().unwrap_or_default()))
        }
    }
}
