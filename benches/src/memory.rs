//! What processes take of the host's memory.

use std::fs;
use std::io::ErrorKind;

use crate::trouble::Trouble;

/// The memory of one VM's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Footprint {
    /// Pages that they have for themselves, without the guest's memory; in bytes.
    pub(crate) private: u64,
    /// Their share of all pages, the guest's among them; in bytes.
    pub(crate) pss: u64,
}

/// Adds up what these processes have. The guest's memory is where so much is mapped at once, or a memory file.
pub(crate) fn footprint(pids: &[u32], guest_bytes: u64) -> Result<Footprint, Trouble> {
    let mut sum = Footprint::default();
    let mut seen = 0;
    for pid in pids {
        let smaps = match fs::read_to_string(format!("/proc/{pid}/smaps")) {
            Ok(smaps) => smaps,
            // One that may not be looked at would be missing from the sum.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Trouble::Failed(format!("its process {pid} cannot be looked at: {error}")));
            }
            // It has just ended.
            Err(_) => continue,
        };
        seen += 1;
        let one = read(&smaps, guest_bytes);
        sum.private += one.private;
        sum.pss += one.pss;
    }
    if seen == 0 {
        return Err(Trouble::Failed("its processes cannot be looked at".to_owned()));
    }
    Ok(sum)
}

fn read(smaps: &str, guest_bytes: u64) -> Footprint {
    let mut of_guest = false;
    let mut sum = Footprint::default();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let kib = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10;
        match words.next() {
            Some("Pss:") => sum.pss += kib(words.next()),
            Some("Private_Clean:" | "Private_Dirty:") if !of_guest => sum.private += kib(words.next()),
            // A mapping begins: its addresses, and its file at the end of the line.
            Some(first) if !first.ends_with(':') => {
                // What QEMU translates into is as large as that, and executable: it is its own.
                let executes = words.next().is_some_and(|permissions| permissions.contains('x'));
                let large = span(first).is_some_and(|span| span >= guest_bytes / 2);
                of_guest = line.contains("memfd:") || (large && !executes);
            }
            _ => {}
        }
    }
    sum
}

/// How much a mapping spans: `7f00-8f00`.
fn span(addresses: &str) -> Option<u64> {
    let (from, to) = addresses.split_once('-')?;
    let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).ok());
    to?.checked_sub(from?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_shared_out_and_not_the_monitors_own() {
        let smaps = "\
5000-6000 rw-p 00000000 00:00 0 [heap]
Pss:                  10 kB
Private_Clean:         1 kB
Private_Dirty:         8 kB
7f0000000000-7f0008000000 rw-s 00000000 00:01 5 /memfd:guest (deleted)
Pss:                 100 kB
Private_Dirty:       100 kB
7f1000000000-7f1010000000 rw-p 00000000 00:00 0
Pss:                1000 kB
Private_Dirty:      1000 kB
7f2000000000-7f2040000000 rwxp 00000000 00:00 0
Pss:                  20 kB
Private_Dirty:        20 kB
";
        let footprint = read(smaps, 256 << 20);
        assert_eq!((footprint.private >> 10, footprint.pss >> 10), (29, 1130));
    }

    #[test]
    fn a_process_has_some_memory_and_one_that_is_none_has_no_figure() {
        let ours = footprint(&[std::process::id()], 1 << 40).unwrap();
        assert!(ours.private > 0 && ours.pss > 0);
        assert!(footprint(&[u32::MAX], 1 << 40).is_err());
    }
}
