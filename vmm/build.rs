//! Builds the guest agent for the architecture that this library is built for, and hands it over to be embedded: one
//! file is then all that a user copies to another machine.
//!
//! The agent is a static Linux program with a profile of its own, so an inner cargo builds it, in a target folder of
//! its own: sharing the outer one's would wait for the outer one's lock for ever. That folder is shared by every
//! kind of outer build (check, clippy, test, release), so that the agent is rarely built twice.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let embedded = variable_path("OUT_DIR")?.join("vmm-agent");
    let workspace = variable_path("CARGO_MANIFEST_DIR")?.join("..");
    for source in ["guest-agent", "vmm/sys", "Cargo.toml", "Cargo.lock"] {
        for path in sources(&workspace.join(source)) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    // The guest is Linux whatever this library runs on; only a Linux toolchain makes its agent. A fuzzer needs none.
    let agent = if env::var("CARGO_CFG_TARGET_OS")? == "linux" && env::var_os("CARGO_CFG_FUZZING").is_none() {
        fs::read(build_agent(&workspace)?)?
    } else {
        Vec::new()
    };
    // A file that stays as it is keeps its time, and what includes it is not compiled again.
    if fs::read(&embedded).ok().as_ref() != Some(&agent) {
        fs::write(&embedded, agent)?;
    }
    Ok(())
}

/// What the agent is made of, without the folders that tests and fuzzers fill.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let parts =
            ["src", "Cargo.toml", "archive/src", "archive/Cargo.toml", "protocol/src", "protocol/Cargo.toml"];
        parts.map(|part| path.join(part)).into_iter().filter(|part| part.exists()).collect()
    } else {
        vec![path.to_owned()]
    }
}

fn build_agent(workspace: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let triple = env::var("TARGET")?;
    let target = shared_target_folder()?.join("agent");
    // What cargo needs has been fetched for the outer build; only a lock file that differs from the outer one's (when
    // this library is a dependency of another workspace) may need more.
    let built =
        run_cargo(workspace, &triple, &target, true)? || run_cargo(workspace, &triple, &target, false)?;
    if !built {
        return Err(format!("cannot build the guest agent for {triple}: see above").into());
    }
    Ok(target.join(triple).join("agent").join("vmm-agent"))
}

fn run_cargo(workspace: &Path, triple: &str, target: &Path, offline: bool) -> Result<bool, Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "guest-agent", "--bin", "vmm-agent", "--profile", "agent", "--locked"]);
    cargo.arg("--manifest-path").arg(workspace.join("guest-agent/Cargo.toml"));
    cargo.args(["--target", triple]).arg("--target-dir").arg(target);
    if offline {
        cargo.arg("--offline");
    }
    // What is set for the outer build (lints of clippy, sanitizers, coverage, another target folder) is not for the
    // agent, and would have it built again and again.
    for (name, _) in env::vars_os().filter(|(name, _)| is_for_the_outer_build(name)) {
        cargo.env_remove(name);
    }
    // Static, so that it runs in any root file system.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    Ok(cargo.status().map_err(|error| format!("run cargo to build the guest agent: {error}"))?.success())
}

fn is_for_the_outer_build(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return false };
    let kept = ["CARGO_HOME", "CARGO_MAKEFLAGS"].contains(&name)
        || ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || (name.starts_with("CARGO_TARGET_") && name.ends_with("_LINKER"));
    let ours = name.starts_with("CARGO_")
        || [
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
            "RUSTC_BOOTSTRAP",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
        ]
        .contains(&name);
    ours && !kept
}

/// The outer build's target folder, or this script's own when it cannot be told.
fn shared_target_folder() -> Result<PathBuf, Box<dyn Error>> {
    let out = variable_path("OUT_DIR")?;
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    Ok(target.unwrap_or(&out).to_owned())
}

fn variable_path(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {name}").into())
}
