//! A program that embeds the library and does what programs do that know nothing of it: it forks, closes every descriptor, ends
//! without stopping anything. Its argument says what.

use std::error::Error;
use std::process::{ExitCode, exit};
use std::time::Duration;

use vmm::Sandbox;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let sandbox = Sandbox::builder("alpine").start()?;
    match what.as_str() {
        // Its copy of the machine is not the child's to stop.
        "forks" => {
            let child = fork(|| {
                drop(sandbox_of(&sandbox));
                0
            });
            assert_eq!(status_of(child), 0);
            assert!(sandbox.command(["true"]).output()?.status.success());
            drop(sandbox);
        }
        // A child that has copies of all descriptors does not keep the machine.
        "leaves-a-child" => {
            let child = fork(wait_to_be_killed);
            drop(sandbox);
            println!("gone");
            kill(child);
        }
        "closes-all" => {
            close_all();
            // It has what it needs opened anew, and a machine that ends with its lifeline.
            let said = sandbox.command(["true"]).output().map(|output| output.status);
            println!("{}", said.map_or_else(|error| error.code().to_owned(), |status| status.to_string()));
            let end = sandbox.wait(None);
            println!(
                "{}",
                end.map_or_else(|error| error.code().to_owned(), |end| end.reason.code().to_owned())
            );
            // What it has closed cannot be closed again: Rust takes that for a broken program.
            std::mem::forget(sandbox);
        }
        "exits" => end(3),
        "panics" => {
            let _sandbox = sandbox;
            panic!("on purpose");
        }
        _ => return Err("forks, leaves-a-child, closes-all, exits or panics".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Another owner of the same memory, as a forked interpreter has it: what it drops is dropped as the last handle would be.
fn sandbox_of(sandbox: &Sandbox) -> Sandbox {
    #[expect(unsafe_code, reason = "a fork is a copy of everything, which no safe code can make")]
    // SAFETY: the child ends right after this is dropped, without looking at the original.
    unsafe {
        std::ptr::read(sandbox)
    }
}

fn fork(child: impl FnOnce() -> i32) -> i32 {
    #[expect(unsafe_code, reason = "programs fork, whatever threads they have")]
    // SAFETY: the child does no more than this program's few lines, which take no lock that another thread could hold.
    match unsafe { libc::fork() } {
        0 => end(child()),
        pid => pid,
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is dropped, as with a program that ends so")]
fn end(status: i32) -> ! {
    exit(status)
}

fn wait_to_be_killed() -> i32 {
    std::thread::park_timeout(Duration::from_secs(600));
    1
}

fn close_all() {
    #[expect(unsafe_code, reason = "programs do it before they become daemons")]
    // SAFETY: what the descriptors belonged to fails from now on, which is what is to be seen.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    assert_eq!(closed, 0);
}

fn status_of(pid: i32) -> i32 {
    let pid = rustix::process::Pid::from_raw(pid);
    let waited = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
    waited.ok().flatten().and_then(|(_, status)| status.exit_status()).unwrap_or(-1)
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    status_of(pid);
}
