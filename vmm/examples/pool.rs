//! Judges programs that nobody trusts, each in a sandbox of its own that is warm already: a pool of ten.
//!
//! cargo run --example pool -- PROGRAM...

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use vmm::{Error, Sandbox, SandboxPool};

/// Runs one program in a sandbox that nobody had before, and that nobody gets after.
fn judge(pool: &SandboxPool, program: &str) -> Result<String, Error> {
    let sandbox = pool.take(Some(Duration::from_secs(300)), None)?;
    let output = sandbox.command(["sh", "-c", program]).timeout(Duration::from_secs(10)).output()?;
    Ok(format!(
        "status {}: {}",
        output.status.shell_status(),
        String::from_utf8_lossy(&output.stdout).trim_end()
    ))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let programs: Vec<String> = std::env::args().skip(1).collect();
    let machine = Sandbox::builder("alpine").memory("128M".parse()?);
    let pool = SandboxPool::builder(machine).size(10).open()?;
    let verdicts = Mutex::new(vec![None; programs.len()]);
    thread::scope(|scope| {
        for (number, program) in programs.iter().enumerate() {
            let (pool, verdicts) = (&pool, &verdicts);
            scope.spawn(move || {
                let verdict =
                    judge(pool, program).unwrap_or_else(|error| format!("{}: {error}", error.code()));
                if let Ok(mut verdicts) = verdicts.lock() {
                    verdicts[number] = Some(verdict);
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().map_err(|_| "a judge panicked")?;
    for (program, verdict) in programs.iter().zip(verdicts) {
        println!("{program}: {}", verdict.unwrap_or_default());
    }
    // Those that are warm, and those that are about to be, end with the pool.
    Ok(())
}
