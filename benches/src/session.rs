//! What is done in a machine that runs: many commands at once, copies of files, the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::benchmark::Plan;
use crate::bounded::Limit;
use crate::peers::Machine;
use crate::trouble::Trouble;

/// Figures, by the metric that they belong to.
pub(crate) type Figures = Vec<(&'static str, Vec<f64>)>;

/// Where copies and disk tests lie in the guest.
const GUEST: &str = "/srv/vmm-bench";

/// What is written at a time by the disk test, in MiB: it lies in the guest's memory, and is written again and again.
const PIECE: u64 = 16;

/// A small file's length.
const SMALL: usize = 2048;

pub(crate) fn many(machine: &mut dyn Machine, plan: &Plan, limit: &Limit) -> Result<Figures, Trouble> {
    let (count, at_once) = plan.many;
    let took = machine.exec_many(count, at_once, limit)?;
    Ok(vec![("exec-many.rate", vec![rate(count as f64, took)])])
}

pub(crate) fn files(
    machine: &mut dyn Machine,
    plan: &Plan,
    folder: &Path,
    limit: &Limit,
) -> Result<Figures, Trouble> {
    let (large, small) = plan.files;
    let (source, back) = (folder.join("files"), folder.join("back"));
    make_files(&source, large, small)?;
    // What another subject has brought back.
    let _ = fs::remove_dir_all(&back);
    fs::create_dir_all(&back)?;
    machine.shell(&format!("rm -rf {GUEST}; mkdir -p {GUEST}"), limit)?;
    let large_in = machine.copy_in(&source.join("large"), &format!("{GUEST}/large"), limit)?;
    let small_in = machine.copy_in(&source.join("small"), &format!("{GUEST}/small"), limit)?;
    let large_out = machine.copy_out(&format!("{GUEST}/large"), &back.join("large"), limit)?;
    let small_out = machine.copy_out(&format!("{GUEST}/small"), &back.join("small"), limit)?;
    check(&source, &back, small)?;
    machine.shell(&format!("rm -rf {GUEST}"), limit)?;
    Ok(vec![
        ("files.large-in", vec![rate(large as f64, large_in)]),
        ("files.large-out", vec![rate(large as f64, large_out)]),
        ("files.small-in", vec![rate(small as f64, small_in)]),
        ("files.small-out", vec![rate(small as f64, small_out)]),
    ])
}

pub(crate) fn disk(machine: &mut dyn Machine, plan: &Plan, limit: &Limit) -> Result<Figures, Trouble> {
    if !machine.has_own_kernel() {
        return Err(Trouble::Unsupported("its disk is the host's, and so is the cache in front of it"));
    }
    let (size, files) = plan.disk;
    let empty_cache = "sync; echo 3 > /proc/sys/vm/drop_caches";
    // Noise, since zeros are special to disks; and tools that each Alpine has.
    machine.shell(
        &format!(
            "rm -rf {GUEST}; mkdir -p {GUEST}/files && cd {GUEST} && \
             dd if=/dev/urandom of=/dev/shm/piece bs=1M count={PIECE} 2>&1 && \
             dd if=/dev/urandom bs=4096 count={files} 2>/dev/null | split -b 4096 -a 4 - files/f && \
             cd files && ls | shuf > /dev/shm/order && sync"
        ),
        limit,
    )?;
    let pieces = " /dev/shm/piece".repeat(usize::try_from(size.div_ceil(PIECE)).unwrap_or(1));
    let write = machine.shell(&format!("cat{pieces} > {GUEST}/large && sync"), limit)?;
    machine.shell(empty_cache, limit)?;
    let read = machine.shell(&format!("dd if={GUEST}/large of=/dev/null bs=1M 2>&1"), limit)?;
    machine.shell(empty_cache, limit)?;
    let random =
        machine.shell(&format!("cd {GUEST}/files && xargs cat < /dev/shm/order > /dev/null"), limit)?;
    machine.shell(&format!("rm -rf {GUEST} /dev/shm/piece /dev/shm/order; sync"), limit)?;
    let written = (size.div_ceil(PIECE) * PIECE) as f64;
    Ok(vec![
        ("disk.write", vec![rate(written, write)]),
        ("disk.read", vec![rate(written, read)]),
        ("disk.random", vec![rate(files as f64, random)]),
    ])
}

/// How much in a second.
fn rate(amount: f64, milliseconds: f64) -> f64 {
    amount * 1000.0 / milliseconds
}

/// Makes what is copied, unless it is there.
fn make_files(source: &Path, mebibytes: u64, files: usize) -> Result<(), Trouble> {
    if source.is_dir() {
        return Ok(());
    }
    let partial = source.with_extension("partial");
    fs::create_dir_all(partial.join("small"))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = vec![0; 1 << 20];
    let mut large = File::create(partial.join("large"))?;
    for _ in 0..mebibytes {
        for word in noise.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        large.write_all(&noise)?;
    }
    for number in 0..files {
        let content = noise.get(number % 512..).and_then(|rest| rest.get(..SMALL)).unwrap_or_default();
        fs::write(partial.join(format!("small/{number}")), content)?;
    }
    Ok(fs::rename(partial, source)?)
}

/// What came back is what went in.
fn check(source: &Path, back: &Path, files: usize) -> Result<(), Trouble> {
    let names = (0..files).map(|number| format!("small/{number}")).chain(["large".to_owned()]);
    for name in names {
        if fs::read(source.join(&name))? != fs::read(back.join(&name)).unwrap_or_default() {
            return Err(Trouble::Failed(format!("{name} came back otherwise than it went in")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_made_once_and_compared_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [source, back] = ["files", "back"].map(|name| folder.path().join(name));
        make_files(&source, 1, 3).unwrap();
        make_files(&back, 1, 3).unwrap();
        check(&source, &back, 3).unwrap();
        fs::write(back.join("small/2"), "other").unwrap();
        let refused = check(&source, &back, 3).unwrap_err().to_string();
        assert!(refused.contains("small/2"), "{refused}");
    }

    #[test]
    fn a_rate_is_per_second() {
        assert_eq!(rate(256.0, 2000.0), 128.0);
    }
}
