//! What the kernel said, as `/dev/kmsg` tells it: a worker's work.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use vmm_protocol::{ErrorKind, KernelRecord, Reply};

use crate::clock;
use crate::refusal::Refusal;
use crate::worker::{PAGE, Stop, tell};

/// A record, as it is read, is no longer (`PRINTK_MESSAGE_MAX` of Linux).
const LONGEST: usize = 8 << 10;

/// A kernel keeps fewer. One that writes faster than it is read here must not fill the guest's memory.
const MOST: usize = 1 << 16;

/// Tells of all records, on the monotonic clock.
///
/// The kernel stamps its lines by another clock, which begins earlier and is not to be read from here. So a line is said that
/// has the time in it.
pub(crate) fn serve(client: &File) -> Result<Option<Reply>, Stop> {
    let (records, ahead) = read().map_err(|error| {
        Stop::Refused(Refusal::system(ErrorKind::Internal, "read the kernel's log", error))
    })?;
    let mut page = Vec::new();
    let mut size = 0;
    for mut record in records {
        record.at_us = record.at_us.saturating_sub(ahead);
        size += 64 + record.text.as_bytes().len();
        page.push(record);
        if size >= PAGE {
            tell(client, Reply::KernelLog(std::mem::take(&mut page)))?;
            size = 0;
        }
    }
    if !page.is_empty() {
        tell(client, Reply::KernelLog(page))?;
    }
    Ok(Some(Reply::Done))
}

/// All records, and how far the kernel's clock is ahead of the monotonic one.
fn read() -> io::Result<(Vec<KernelRecord>, i64)> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let mut log = File::options().read(true).write(true).custom_flags(nonblocking).open("/dev/kmsg")?;
    let now = clock::monotonic_us();
    let mark = format!("vmm: the monotonic clock says {now} us");
    // Of the priority's number, the lower three bits are the level (syslog(2)): 7, for debugging.
    log.write_all(format!("<7>{mark}").as_bytes())?;
    let mut records: Vec<KernelRecord> = Vec::new();
    let mut marked = None;
    let mut buffer = [0; LONGEST];
    // The mark is the last: what the kernel says meanwhile could go on and on.
    while marked.is_none() && records.len() < MOST {
        match log.read(&mut buffer) {
            Ok(length) => {
                let Some(record) = parse(&buffer[..length]) else { continue };
                if record.text.as_bytes() == mark.as_bytes() {
                    marked = Some(record.at_us);
                } else {
                    records.push(record);
                }
            }
            // EPIPE: the oldest was written over meanwhile.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted) => {}
            // Of a log that is written to too often, the kernel drops some.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    Ok((records, marked.map_or(0, |marked: i64| marked.saturating_sub(now))))
}

/// `6,339,5140900,-,…;text\n KEY=value\n…`: priority, number, microseconds (Documentation/ABI/testing/dev-kmsg).
fn parse(record: &[u8]) -> Option<KernelRecord> {
    let semicolon = record.iter().position(|byte| *byte == b';')?;
    let mut fields = std::str::from_utf8(&record[..semicolon]).ok()?.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let at_us = fields.nth(1)?.parse().ok()?;
    let text = record[semicolon + 1..].split(|byte| *byte == b'\n').next()?;
    Some(KernelRecord { at_us, level: u8::try_from(priority & 7).ok()?, text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart() {
        let record = parse(b"30,17,123456,-,caller=T1;initcall a;b returned 0\n SUBSYSTEM=acpi\n").unwrap();
        assert_eq!(record, KernelRecord { at_us: 123_456, level: 6, text: "initcall a;b returned 0".into() });
    }

    #[test]
    fn what_is_no_record_is_none() {
        for record in [&b""[..], b"6,1", b"6;text", b"x,1,2,-;text", b"6,1,\xff,-;text"] {
            assert!(parse(record).is_none(), "{record:?}");
        }
    }
}
