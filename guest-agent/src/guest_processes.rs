//! All processes of the guest, as its kernel tells of them: a worker's work.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::param::{clock_ticks_per_second, page_size};
use vmm_protocol::{ByteString, ErrorKind, GuestProcess, Reply};

use crate::refusal::Refusal;
use crate::server::listed;
use crate::worker::{PAGE, Stop, tell};
use crate::{clock, users};

/// It is not looked at what they do for longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Tells of all processes but this one.
pub(crate) fn serve(client: &File, over_ms: u64) -> Result<Option<Reply>, Stop> {
    let over = Duration::from_millis(over_ms).min(LONGEST);
    let before = if over.is_zero() { HashMap::new() } else { cpu_times()? };
    let began = clock::monotonic();
    if !over.is_zero() {
        // A client that leaves is not waited for.
        let over = Timespec::try_from(over).ok();
        if poll(&mut [PollFd::new(client, PollFlags::IN)], over.as_ref()) == Ok(1) {
            return Ok(None);
        }
    }
    let passed = u64::try_from((clock::monotonic() - began).as_millis()).unwrap_or(u64::MAX).max(1);
    let names = users::names();
    let mut page = Vec::new();
    let mut size = 0;
    for pid in pids()? {
        // One that is gone by now is none.
        let Some(mut process) = look(pid) else { continue };
        if let Some(before) = before.get(&(pid, process.started_ms)) {
            let worked = process.cpu_ms.saturating_sub(*before).saturating_mul(1000) / passed;
            process.cpu_permille = u32::try_from(worked).unwrap_or(u32::MAX);
        }
        process.user = names.get(&process.uid).map(|name| name[..name.len().min(64)].into());
        let words: usize = process.argv.iter().map(|word| word.as_bytes().len() + 8).sum();
        size += 128 + words + process.name.as_bytes().len();
        page.push(process);
        if size >= PAGE {
            tell(client, Reply::GuestProcesses(std::mem::take(&mut page)))?;
            size = 0;
        }
    }
    if !page.is_empty() {
        tell(client, Reply::GuestProcesses(page))?;
    }
    Ok(Some(Reply::Done))
}

fn pids() -> Result<Vec<u32>, Refusal> {
    let entries = fs::read_dir("/proc")
        .map_err(|error| Refusal::system(ErrorKind::Internal, "list the guest's processes", error))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = names.filter(|pid| *pid != std::process::id()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// How long processors have worked for each process, by its number and its start: the number may be another's later.
fn cpu_times() -> Result<HashMap<(u32, u64), u64>, Refusal> {
    let looked_at = pids()?.into_iter().filter_map(|pid| {
        let process = parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)?;
        Some(((pid, process.started_ms), process.cpu_ms))
    });
    Ok(looked_at.collect())
}

fn look(pid: u32) -> Option<GuestProcess> {
    let folder = Path::new("/proc").join(pid.to_string());
    let mut process = parse(pid, &fs::read(folder.join("stat")).ok()?)?;
    process.uid = fs::metadata(&folder).ok()?.uid();
    process.argv = command(&fs::read(folder.join("cmdline")).unwrap_or_default());
    Some(process)
}

/// `7 (name) S 1 …`: the name may have any bytes, parentheses too.
fn parse(pid: u32, stat: &[u8]) -> Option<GuestProcess> {
    let begin = stat.iter().position(|byte| *byte == b'(')?;
    let end = stat.iter().rposition(|byte| *byte == b')').filter(|end| *end > begin)?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let milliseconds = |ticks: u64| ticks.saturating_mul(1000) / clock_ticks_per_second().max(1);
    Some(GuestProcess {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        uid: 0,
        user: None,
        state: (*fields.first()?).to_owned(),
        cpu_ms: milliseconds(number(11)?.saturating_add(number(12)?)),
        cpu_permille: 0,
        memory: number(21)?.saturating_mul(page_size() as u64),
        started_ms: milliseconds(number(19)?),
        name: stat[begin + 1..end].into(),
        argv: Vec::new(),
    })
}

/// Words, each with a zero behind it.
fn command(cmdline: &[u8]) -> Vec<ByteString> {
    if cmdline.is_empty() {
        return Vec::new();
    }
    let words = cmdline.strip_suffix(b"\0").unwrap_or(cmdline).split(|byte| *byte == 0);
    listed(&words.map(ByteString::from).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_is_read_whatever_the_name_is() {
        let stat = b"42 (a) R (b) S 7 1 1 0 -1 4194560 1 2 3 4 250 50 6 7 20 0 1 0 900 1000000 3 1 2\n";
        let process = parse(42, stat).unwrap();
        assert_eq!(
            (process.name.as_bytes(), process.state.as_str(), process.parent),
            (&b"a) R (b"[..], "S", 7)
        );
        let tick = 1000 / clock_ticks_per_second();
        assert_eq!((process.cpu_ms, process.started_ms), (300 * tick, 900 * tick));
        assert_eq!(process.memory, 3 * page_size() as u64);
        for broken in [&b""[..], b"42", b"42 (a)", b"42 )a( S 7", b"42 (a) S"] {
            assert_eq!(parse(42, broken), None);
        }
    }

    #[test]
    fn a_command_is_its_words() {
        assert_eq!(command(b""), []);
        assert_eq!(command(b"sh\0-c\0\0"), ["sh".into(), "-c".into(), ByteString::from("")]);
        assert_eq!(command(b"no zero"), [ByteString::from("no zero")]);
    }

    #[test]
    fn this_process_is_known() {
        let process = look(std::process::id()).unwrap();
        assert!(process.memory > 0 && !process.argv.is_empty());
        assert_eq!(process.uid, rustix::process::getuid().as_raw());
    }
}
