//! Files into a machine and out of it: a tree of small ones beside `tar` piped through `vmm exec`, and a large one beside what
//! the vsock carries by itself (`vmm exec`, with `cat` at one end and nothing at the other).
//!
//! All of them are runs of the `vmm` executable, in turn, so that what the host does meanwhile meets all.

mod tree;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use vmm::{DiskSize, Home, MemorySize, Sandbox};

use vmm_benches::host;
use vmm_benches::statistics::{Ratio, Sample};

/// How much faster than `tar` through `vmm exec` a tree is to go.
const TREE_GOAL: f64 = 1.0;

/// What part of the vsock's own throughput a large file is to reach.
const FILE_GOAL: f64 = 0.8;

const NAME: &str = "vmm-bench-files";

/// What is copied, and how often.
pub(crate) struct Comparison {
    /// Where the trees are made.
    pub(crate) folder: PathBuf,
    pub(crate) json: PathBuf,
    pub(crate) rounds: usize,
    /// The small files of the tree.
    pub(crate) files: usize,
    /// The length of the large file.
    pub(crate) mebibytes: u64,
}

/// Two ways to do the same: ours, and what it is measured by.
struct Pair {
    what: &'static str,
    ours: &'static str,
    other: &'static str,
    goal: f64,
}

/// In the shell, with `$vmm`, `$vm` and, in the folder, `tree` and `large`. What an earlier round has left is cleared away
/// before.
const PAIRS: [Pair; 4] = [
    Pair {
        what: "tree, in",
        ours: "\"$vmm\" cp tree $vm:/srv/cp",
        other: "tar -C tree -cf - . | \"$vmm\" exec -i $vm -- tar -C /srv/tar -xf -",
        goal: TREE_GOAL,
    },
    Pair {
        what: "tree, out",
        ours: "\"$vmm\" cp $vm:/srv/cp out/cp",
        other: "\"$vmm\" exec $vm -- tar -C /srv/tar -cf - . | tar -C out/tar -xf -",
        goal: TREE_GOAL,
    },
    Pair {
        what: "large file, in",
        ours: "\"$vmm\" cp large $vm:/srv/large",
        other: "\"$vmm\" exec -i $vm -- sh -c 'cat > /dev/null' < large",
        goal: FILE_GOAL,
    },
    Pair {
        what: "large file, out",
        ours: "\"$vmm\" cp $vm:/srv/large out/large",
        other: "\"$vmm\" exec $vm -- cat /srv/large > /dev/null",
        goal: FILE_GOAL,
    },
];

pub(crate) fn run(comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let host = host::describe();
    println!("{host}");
    let folder = &comparison.folder;
    fs::create_dir_all(folder)?;
    tree::make(&folder.join("tree"), comparison.files)?;
    make_large(&folder.join("large"), comparison.mebibytes << 20)?;
    let home = Home::open_default()?;
    // What an earlier run has left that was cut off.
    if let Ok(left) = Sandbox::attach(&home, NAME) {
        left.remove(true)?;
    }
    // Room for what both ways leave in the guest.
    let disk: DiskSize = format!("{}M", 2 * comparison.mebibytes + 4096).parse()?;
    let sandbox = Sandbox::builder("alpine")
        .home(&home)
        .name(NAME)
        .memory(MemorySize::mebibytes(1024)?)
        .disk_size(disk)
        .start()?;
    let mut times: Vec<[Vec<f64>; 2]> = PAIRS.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    // A round before the first: nobody pays for cold caches.
    for round in 0..=comparison.rounds {
        let clear = "rm -rf /srv/cp /srv/tar /srv/large; mkdir -p /srv/tar; sync";
        if !sandbox.command(["sh", "-c", clear]).output()?.status.success() {
            return Err("the guest cannot be cleared".into());
        }
        let _ = fs::remove_dir_all(folder.join("out"));
        fs::create_dir_all(folder.join("out/tar"))?;
        for (pair, times) in PAIRS.iter().zip(&mut times) {
            for (script, times) in [pair.ours, pair.other].into_iter().zip(times) {
                let seconds = time(folder, script)?;
                if round > 0 {
                    times.push(seconds);
                }
                println!("round {round}: {}: {seconds:.2} s: {script}", pair.what);
            }
        }
        check(folder, &sandbox)?;
    }
    sandbox.remove(true)?;
    let mut report = serde_json::Map::new();
    println!("\n| | `vmm cp` | the other way | times as fast | goal |\n|---|---|---|---|---|");
    for (pair, [ours, other]) in PAIRS.iter().zip(times) {
        let (ours, other) = (Sample::new(ours), Sample::new(other));
        let ratio = Ratio::of(&other, &ours);
        let verdict = match ratio.reaches(pair.goal) {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "within the noise, no verdict",
        };
        let shown = |sample: &Sample| {
            format!("{:.2} s ({:.2} to {:.2})", sample.median(), sample.quantile(0.0), sample.quantile(1.0))
        };
        println!(
            "| {} | {} | {} | {:.2} ({:.2} to {:.2}) | {}: {verdict} |",
            pair.what,
            shown(&ours),
            shown(&other),
            ratio.ratio,
            ratio.low,
            ratio.high,
            pair.goal
        );
        let measured = json!({
            "cp_s": ours.median(), "other_s": other.median(), "ratio": ratio.ratio, "low": ratio.low,
            "high": ratio.high, "goal": pair.goal,
        });
        report.insert(pair.what.to_owned(), measured);
    }
    println!(
        "\n{} files, {} MiB, {} rounds in turn.",
        comparison.files, comparison.mebibytes, comparison.rounds
    );
    let report = json!({ "host": host, "files": comparison.files, "mebibytes": comparison.mebibytes, "measured": report });
    fs::write(&comparison.json, serde_json::to_string_pretty(&report)?)?;
    println!("written to {}", comparison.json.display());
    Ok(())
}

/// Runs a line of the shell's. How many seconds it took.
fn time(folder: &Path, script: &str) -> Result<f64, Box<dyn Error>> {
    let vmm = std::env::var_os("VMM_BIN").ok_or("VMM_BIN names the vmm to be measured")?;
    let script = format!("set -e; {script}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(folder).env("vmm", vmm).env("vm", NAME).stdin(Stdio::null());
    let began = Instant::now();
    let status = shell.status()?;
    let took = began.elapsed().as_secs_f64();
    if status.success() { Ok(took) } else { Err(format!("{script}: {status}").into()) }
}

/// What came back is what went in.
fn check(folder: &Path, sandbox: &Sandbox) -> Result<(), Box<dyn Error>> {
    tree::compare(&folder.join("tree"), &folder.join("out/cp"))?;
    let same = Command::new("cmp").args(["large", "out/large"]).current_dir(folder).status()?;
    if !same.success() {
        return Err("the large file came back changed".into());
    }
    let there = sandbox.stat("/srv/large")?.length;
    if there != fs::metadata(folder.join("large"))?.len() {
        return Err("the large file is shorter in the guest".into());
    }
    Ok(())
}

/// A file of bytes that look random, without a hole.
fn make_large(path: &Path, length: u64) -> Result<(), Box<dyn Error>> {
    if fs::metadata(path).is_ok_and(|there| there.len() == length) {
        return Ok(());
    }
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&buffer)?;
    }
    Ok(())
}
