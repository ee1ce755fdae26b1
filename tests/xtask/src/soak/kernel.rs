//! A kernel of ours, built twice from Debian's source: the same bits, with which every test passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Suite;
use crate::failure::{Failure, Outcome};
use crate::verify;
use crate::{command, project};

/// Where Debian's package puts it.
const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

const BUILDS: [&str; 2] = ["first build", "second build"];

pub(super) struct Kernel;

impl Suite for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn purpose(&self) -> &'static str {
        "`vmm kernel build` twice from Debian's source, in two homes: the same bits; then `cargo verify` with them"
    }

    fn prepare(&self) -> Outcome {
        if !Path::new(SOURCE).exists() {
            let hint = "install it: apt-get install linux-source-6.12 flex bison bc libelf-dev";
            return Err(Failure::new(format!("there is no {SOURCE}")).hint(hint));
        }
        verify::prepare()
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        Ok(BUILDS.into_iter().chain(["the same bits, and every test"]).map(str::to_owned).collect())
    }

    /// A build takes all processors, and the last piece wants what the others made.
    fn at_once(&self) -> usize {
        1
    }

    fn run(&self, piece: &str) -> Outcome<String> {
        if BUILDS.contains(&piece) {
            let home = home_of(piece);
            // What an interrupted run has built is built again.
            let _ = fs::remove_dir_all(&home);
            let mut build = Command::new(project::vmm_binary());
            build.args(["--quiet", "kernel", "build", SOURCE]).env("VMM_HOME", &home);
            command::quietly(&mut build)?;
            let size = read(&kernel_of(piece))?.len();
            return Ok(format!("{size} bytes"));
        }
        let kernels = BUILDS.map(kernel_of);
        if read(&kernels[0])? != read(&kernels[1])? {
            return Err(Failure::new("the two builds differ"));
        }
        let home = home_of(BUILDS[0]);
        let mut choose = Command::new(project::vmm_binary());
        command::quietly(choose.args(["--quiet", "kernel", "use", "fast"]).env("VMM_HOME", &home))?;
        let mut verify = project::cargo();
        verify.arg("verify").env("VMM_TEST_KERNELS", &home);
        let output = verify.stdin(Stdio::null()).output();
        let output = output.map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match said.lines().find_map(|line| line.strip_prefix("verify: ")) {
            Some(closing) if output.status.success() => Ok(closing.to_owned()),
            _ => Err(Failure::new("not every test passes with it").hint(said)),
        }
    }
}

fn home_of(build: &str) -> PathBuf {
    project::target().join("soak-kernel").join(build.replace(' ', "-"))
}

fn kernel_of(build: &str) -> PathBuf {
    home_of(build).join("kernels/fast/vmlinux")
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}
