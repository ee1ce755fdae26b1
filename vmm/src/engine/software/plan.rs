//! What the monitor and its supervisor tell each other, over a socket that is the supervisor's standard input.
//!
//! The monitor sends one [`Plan`] with descriptors and then nothing: when its end closes, or it says that it will
//! write no more, QEMU is killed. The supervisor sends [`Report`]s, one JSON line each.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_sys::fd_passing;

use crate::engine::JailReport;

/// The number under which QEMU finds the first of the descriptors that were made for it.
///
/// Far above what the supervisor has open itself, so that none of those is in the way.
pub(super) const FIRST_DESCRIPTOR: i32 = 100;

/// The most descriptors that travel with a plan.
const MAX_DESCRIPTORS: usize = 256;

/// The largest plan and the longest report.
const MAX_MESSAGE: usize = 256 << 10;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The program.
    pub program: PathBuf,
    /// Its loader and libraries. Empty: not known, so no file system can be made that has only what it needs.
    pub libraries: Vec<PathBuf>,
    /// The program needs no libraries (it is static), so an empty list is the whole list.
    pub is_static: bool,
    /// Firmware files: shown to it in one folder, which is named to it by `-L`.
    pub firmware: Vec<PathBuf>,
    /// Its arguments, but for those that name files.
    pub arguments: Vec<String>,
    /// Options that each take the path of a file: the first descriptors of the plan, in this order.
    pub files: Vec<String>,
    /// Its own filter is among the arguments.
    pub own_filter: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// QEMU runs. A pidfd of it comes along.
    Started {
        /// Its process number, as the monitor sees it.
        process: u32,
        /// What keeps it in.
        jail: JailReport,
    },
    /// It could not be started.
    Refused {
        /// Why, in a sentence.
        reason: String,
    },
    /// It ended.
    Ended {
        /// Its exit status.
        status: Option<i32>,
        /// The signal that killed it.
        signal: Option<i32>,
        /// The last of what it wrote to its error output.
        errors: String,
    },
}

/// Sends the plan and its descriptors: first those of [`Plan::files`], then those that are numbered from
/// [`FIRST_DESCRIPTOR`].
pub(super) fn send_plan(socket: &UnixStream, plan: &Plan, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(plan)?;
    let lengths = [u32::try_from(text.len()), u32::try_from(descriptors.len())];
    for length in lengths {
        let length = length.map_err(io::Error::other)?;
        (&*socket).write_all(&length.to_le_bytes())?;
    }
    for batch in descriptors.chunks(fd_passing::MAX_DESCRIPTORS) {
        fd_passing::send(socket, &[0], batch)?;
    }
    (&*socket).write_all(&text)
}

/// Receives what [`send_plan`] sent. `None`: the monitor is gone, or died in the midst of it.
pub(super) fn receive_plan(socket: &UnixStream) -> io::Result<Option<(Plan, Vec<OwnedFd>)>> {
    let mut lengths = [0u8; 8];
    if let Err(error) = (&*socket).read_exact(&mut lengths) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(io::Error::other)?;
    let count = usize::try_from(u32::from_le_bytes([e, f, g, h])).map_err(io::Error::other)?;
    if length > MAX_MESSAGE || count > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the plan is larger than any can be"));
    }
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        let (bytes, mut batch) = fd_passing::receive(socket, &mut [0])?;
        if bytes == 0 {
            return Ok(None);
        }
        descriptors.append(&mut batch);
    }
    let mut text = vec![0u8; length];
    (&*socket).read_exact(&mut text)?;
    Ok(Some((serde_json::from_slice(&text)?, descriptors)))
}

/// Sends one report, with a descriptor where one belongs to it.
pub(super) fn send_report(
    socket: &UnixStream,
    report: &Report,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(report)?;
    text.push(b'\n');
    let sent = fd_passing::send(socket, &text, descriptor.as_slice())?;
    (&*socket).write_all(&text[sent..])
}

/// Takes reports out of what arrives on the monitor's side.
#[derive(Default)]
pub(super) struct ReportReader {
    buffer: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// What a reading brought.
pub(super) enum Reading {
    /// A report; the descriptor that came along, if one did.
    Report(Report, Option<OwnedFd>),
    /// Nothing whole yet.
    Nothing,
    /// The supervisor is gone.
    End,
}

impl ReportReader {
    /// Reads once from the socket (blocking, if it does) and takes out a report, if one is whole.
    pub(super) fn read(&mut self, socket: impl AsFd) -> io::Result<Reading> {
        if let Some(report) = self.take()? {
            return Ok(report);
        }
        let mut bytes = [0u8; 4096];
        let (count, descriptors) = fd_passing::receive(socket, &mut bytes)?;
        if count == 0 {
            return Ok(Reading::End);
        }
        self.descriptors.extend(descriptors);
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the report is longer than any can be"));
        }
        Ok(self.take()?.unwrap_or(Reading::Nothing))
    }

    fn take(&mut self) -> io::Result<Option<Reading>> {
        let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(Reading::Report(serde_json::from_slice(&line)?, self.descriptors.pop())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            program: "/usr/bin/qemu".into(),
            libraries: vec!["/lib/libc.so.6".into()],
            is_static: false,
            firmware: Vec::new(),
            arguments: vec!["-display".to_owned(), "none".to_owned()],
            files: vec!["-kernel".to_owned()],
            own_filter: true,
        }
    }

    #[test]
    fn a_plan_arrives_with_more_descriptors_than_one_message_holds() {
        let (monitor, supervisor) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let descriptors = vec![file.as_fd(); 40];
        send_plan(&monitor, &plan(), &descriptors).unwrap();
        let (received, descriptors) = receive_plan(&supervisor).unwrap().unwrap();
        assert_eq!(received, plan());
        assert_eq!(descriptors.len(), 40);
    }

    #[test]
    fn a_monitor_that_dies_before_its_plan_is_no_error() {
        let (monitor, supervisor) = UnixStream::pair().unwrap();
        drop(monitor);
        assert!(receive_plan(&supervisor).unwrap().is_none());
    }

    #[test]
    fn a_plan_larger_than_any_is_refused_before_it_is_read() {
        let (mut monitor, supervisor) = UnixStream::pair().unwrap();
        monitor.write_all(&u32::MAX.to_le_bytes()).unwrap();
        monitor.write_all(&0u32.to_le_bytes()).unwrap();
        assert!(receive_plan(&supervisor).is_err());
    }

    #[test]
    fn reports_arrive_one_by_one_with_their_descriptor() {
        let (monitor, supervisor) = UnixStream::pair().unwrap();
        let started = Report::Started { process: 7, jail: JailReport::default() };
        let ended = Report::Ended { status: Some(0), signal: None, errors: "two\nlines".to_owned() };
        send_report(&supervisor, &started, Some(supervisor.as_fd())).unwrap();
        send_report(&supervisor, &ended, None).unwrap();
        drop(supervisor);
        let mut reader = ReportReader::default();
        let mut reports = Vec::new();
        loop {
            match reader.read(&monitor).unwrap() {
                Reading::Report(report, descriptor) => reports.push((report, descriptor.is_some())),
                Reading::Nothing => {}
                Reading::End => break,
            }
        }
        assert_eq!(reports, [(started, true), (ended, false)]);
    }
}
