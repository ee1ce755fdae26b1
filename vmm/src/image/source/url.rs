//! A file on a web server, over HTTP or HTTPS.
//!
//! What came is kept in the store's folder of downloads until the file is complete: a pull that ends midway, however it
//! ends, is gone on with by the next one, which asks for the missing bytes only. Names that cannot be resolved and
//! networks without a way out end it at once; what may be better soon is tried again.

mod partial;
mod proxies;
mod request;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use snafu::ResultExt;

use super::super::catalog::Pin;
use super::super::digest::Digest;
use super::super::downloads::Downloads;
use super::super::error::{
    CancelledSnafu, DownloadSnafu, ImageError, MismatchSnafu, OfflineSnafu, Result, StorageSnafu,
    TooLargeSnafu,
};
use super::super::progress::{Stage, Step};
use super::super::waiting::lock_patiently;
use super::{Source, Workshop};
use partial::Partial;
pub(in crate::image) use partial::is_partial;
pub(in crate::image) use proxies::Proxies;
use request::{Event, Failure, Head, Request};

/// How often in a row something may go wrong before the download is given up.
const ATTEMPTS: u32 = 5;

/// How much more than ever before must be there for the count to begin anew.
const WORTH_AN_ATTEMPT: u64 = 1 << 20;

/// How often it is looked whether the download should be given up.
const GLANCE: Duration = Duration::from_millis(50);

/// A file with a URL, of which the catalog knows size and checksum.
#[derive(Debug)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the tests' catalog pins files on a web server so far")
)]
pub(in crate::image) struct Url {
    pub(in crate::image) url: &'static str,
}

/// How servers are reached.
#[derive(Clone, Debug)]
pub(in crate::image) struct Network {
    pub(in crate::image) proxies: Proxies,
    /// A file of certificate authorities that are trusted instead of those that come with the program.
    pub(in crate::image) authorities: Option<PathBuf>,
    pub(in crate::image) patience: Patience,
    /// Whether packets can leave this machine.
    pub(in crate::image) has_route: fn() -> bool,
}

/// How long servers are waited for.
#[derive(Clone, Debug)]
pub(in crate::image) struct Patience {
    /// To find the address, and to connect.
    pub(in crate::image) connect: Duration,
    /// For a sign of life.
    pub(in crate::image) read: Duration,
    /// Before the second attempt; twice as long before each that follows.
    pub(in crate::image) pause: Duration,
    /// A server that brings less than so many bytes in such a time is given up.
    pub(in crate::image) slowest: (u64, Duration),
}

impl Network {
    /// Whether packets can leave this machine: there is a route that is not its own loopback's. Where that cannot be
    /// known, they can.
    fn has_route() -> bool {
        let leads_out = |line: &str| line.split_whitespace().next_back().is_some_and(|word| word != "lo");
        let of_4 = std::fs::read_to_string("/proc/net/route");
        let of_6 = std::fs::read_to_string("/proc/net/ipv6_route");
        let (Ok(of_4), of_6) = (of_4, of_6.unwrap_or_default()) else { return true };
        // The first line has the columns' names. A line begins, or ends, with the interface.
        of_4.lines().skip(1).any(|line| !line.starts_with("lo\t")) || of_6.lines().any(leads_out)
    }

    /// As this process's environment says.
    pub(in crate::image) fn from_environment() -> Self {
        let authorities =
            std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let has_route = Self::has_route;
        Self { proxies: Proxies::from_environment(), authorities, patience: Patience::default(), has_route }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(20),
            pause: Duration::from_millis(500),
            slowest: (64 << 10, Duration::from_secs(60)),
        }
    }
}

/// How large a file may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// It has so many bytes.
    Exactly(u64),
    /// Nobody knows, but no more than so many.
    AtMost(u64),
}

impl Source for Url {
    fn describe(&self) -> String {
        self.url.to_owned()
    }

    fn fetch(&self, workshop: &Workshop<'_>, expected: &Pin, destination: &Path) -> Result<()> {
        let good = |path: &Path| expected.check(path, self.url, workshop.progress).is_ok();
        let complete = download_good(self.url, Size::Exactly(expected.size), workshop, good)?;
        // Whether it is good at last is the caller's to see, and to forget what is not. Who dies before that has not lost
        // it: whoever takes what was kept looks at its contents.
        workshop.downloads.keep(complete.path(), expected.sha256)?;
        complete.finish(destination)
    }
}

/// Downloads a file whole. If parts of it came earlier and it is not good, it is downloaded once more from its first
/// byte: parts of two files may have been put together, or a power cut may have taken some bytes.
pub(super) fn download_good(
    url: &str,
    size: Size,
    workshop: &Workshop<'_>,
    good: impl Fn(&Path) -> bool,
) -> Result<Partial> {
    let mut download = Download::open(url, size, workshop)?;
    let continued = download.partial.length() > 0;
    download.run()?;
    if continued && !good(download.partial.path()) && !workshop.progress.cancelled() {
        tracing::warn!(url, "what an earlier pull left of it is of no use: all of it is fetched");
        download.partial.empty()?;
        download.run()?;
    }
    Ok(download.partial)
}

/// Downloads a small file of text, all of it.
pub(super) fn download_text(url: &str, limit: u64, workshop: &Workshop<'_>) -> Result<String> {
    let mut download = Download::open(url, Size::AtMost(limit), workshop)?;
    download.partial.empty()?;
    let text = download.run().and_then(|()| {
        let path = download.partial.path();
        std::fs::read_to_string(path).context(StorageSnafu { action: "read", path })
    });
    // The first error is the one to tell.
    let discarded = download.partial.discard();
    text.and_then(|text| discarded.map(|()| text))
}

/// A download at work.
struct Download<'a> {
    url: &'a str,
    size: Size,
    workshop: &'a Workshop<'a>,
    partial: Partial,
    /// The server has answered: there is a way to it.
    answered: bool,
}

/// Why an attempt ended before the file was complete.
enum Stop {
    Error(ImageError),
    Failure(Failure),
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Error(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl<'a> Download<'a> {
    fn open(url: &'a str, size: Size, workshop: &'a Workshop<'a>) -> Result<Self> {
        let (data, lock) = workshop.downloads.places_of(url)?;
        let lock = lock_patiently(&lock, workshop.image, workshop.progress)?;
        let mut partial = Partial::open(data, url, lock)?;
        if partial.length() > size.most() {
            partial.empty()?;
        }
        Ok(Self { url, size, workshop, partial, answered: false })
    }

    fn run(&mut self) -> Result<()> {
        let mut failures = 0;
        // What came and was thrown away again is no progress.
        let mut most = self.partial.length();
        while !self.is_complete() {
            let reason = match self.attempt() {
                Ok(()) => break,
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Failure(Failure::NoWay(reason))) if !self.answered => {
                    // What is cached the caller knows, and fills in.
                    return OfflineSnafu { reason, missing: self.url, cached: String::new() }.fail();
                }
                Err(Stop::Failure(Failure::Final(reason))) => return self.failed(reason),
                Err(Stop::Failure(Failure::NoWay(reason) | Failure::Broken(reason))) => reason,
            };
            if self.partial.length() >= most.saturating_add(WORTH_AN_ATTEMPT) {
                most = self.partial.length();
                failures = 0;
            }
            failures += 1;
            if failures == ATTEMPTS {
                return self.failed(format!("{reason}, {ATTEMPTS} times in a row"));
            }
            tracing::warn!(url = self.url, reason, "the download is gone on with");
            self.pause(self.workshop.network.patience.pause * 2_u32.pow(failures - 1))?;
        }
        Ok(())
    }

    /// Asks for what is missing, once.
    fn attempt(&mut self) -> Result<(), Stop> {
        let request = Request {
            url: self.url.to_owned(),
            from: self.partial.length(),
            validator: self.partial.validator().map(str::to_owned),
        };
        let network = self.workshop.network;
        let events = request::send(request, network)
            .map_err(|error| Failure::Final(format!("no thread can be started: {error}")))?;
        let mut pace = Pace::new(network.patience.slowest);
        loop {
            match events.recv_timeout(GLANCE) {
                Ok(Event::Head(head)) => {
                    self.answered = true;
                    self.begin(&head)?;
                    pace = Pace::new(network.patience.slowest);
                }
                Ok(Event::Bytes(bytes)) => {
                    self.append(&bytes)?;
                    pace.count(bytes.len());
                }
                Ok(Event::End) => return self.end(),
                Ok(Event::Failed(failure)) => return Err(failure.into()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Broken("the connection broke".to_owned()).into());
                }
            }
            self.tell();
            self.check_cancelled()?;
            pace.check()?;
        }
    }

    /// Decides by an answer's head what its bytes are.
    fn begin(&mut self, head: &Head) -> Result<(), Stop> {
        let from = self.partial.length();
        match head.status {
            200 => {
                self.check_total(head.length)?;
                self.partial.begin(head, head.length)?;
                Ok(())
            }
            206 if from > 0 && self.partial.is_continued_by(head) => Ok(()),
            // It is another file by now, or the server counts in its own way.
            206 | 416 if from > 0 => {
                self.partial.empty()?;
                Err(Failure::Broken(format!("it answered {} to the rest of a file", head.status_line)).into())
            }
            408 | 425 | 429 | 500..=599 => {
                Err(Failure::Broken(format!("it answered {}", head.status_line)).into())
            }
            _ => Err(Failure::Final(format!("it answered {}", head.status_line)).into()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.partial.length().saturating_add(bytes.len() as u64);
        self.check_total(Some(length).filter(|length| *length > self.size.most()))?;
        self.partial.append(bytes)
    }

    fn end(&mut self) -> Result<(), Stop> {
        let length = self.partial.length();
        match (self.size, self.partial.total()) {
            (Size::AtMost(_), None) => Ok(()),
            _ if self.is_complete() => Ok(()),
            (Size::Exactly(total), _) | (Size::AtMost(_), Some(total)) => {
                Err(Failure::Broken(format!("the connection broke after {length} of {total} bytes")).into())
            }
        }
    }

    fn is_complete(&self) -> bool {
        match (self.size, self.partial.total()) {
            (Size::Exactly(size), _) => self.partial.length() == size,
            (Size::AtMost(_), total) => total == Some(self.partial.length()),
        }
    }

    /// Refuses a file of another length than the wanted one's before it comes.
    fn check_total(&mut self, total: Option<u64>) -> Result<()> {
        let Some(total) = total else { return Ok(()) };
        match self.size {
            Size::Exactly(size) if total != size => {
                self.partial.empty()?;
                let (found, expected) = (total.to_string(), size.to_string());
                MismatchSnafu { what: self.url, property: "size", found, expected }.fail()
            }
            Size::AtMost(limit) if total > limit => {
                self.partial.empty()?;
                TooLargeSnafu { what: self.url, limit }.fail()
            }
            _ => Ok(()),
        }
    }

    fn tell(&self) {
        let total = match self.size {
            Size::Exactly(size) => Some(size),
            Size::AtMost(_) => self.partial.total(),
        };
        let subject = self.url.rsplit('/').next().unwrap_or(self.url);
        let done = self.partial.length();
        self.workshop.progress.step(Step { stage: Stage::Downloading, subject, done, total });
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.workshop.progress.cancelled() {
            return CancelledSnafu { image: self.workshop.image }.fail();
        }
        Ok(())
    }

    /// Waits before the next attempt.
    fn pause(&self, time: Duration) -> Result<()> {
        // Nothing is ever sent: the time passes, unless the download is given up.
        let (_sender, never) = channel::<()>();
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.check_cancelled()?;
            let _ = never.recv_timeout(left.min(GLANCE));
        }
        Ok(())
    }

    fn failed(&self, reason: String) -> Result<()> {
        DownloadSnafu { url: self.url, reason }.fail()
    }
}

impl Size {
    fn most(self) -> u64 {
        match self {
            Self::Exactly(size) | Self::AtMost(size) => size,
        }
    }
}

/// Whether bytes come fast enough to be waited for.
struct Pace {
    slowest: (u64, Duration),
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(slowest: (u64, Duration)) -> Self {
        Self { slowest, since: Instant::now(), bytes: 0 }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    fn check(&mut self) -> Result<(), Failure> {
        let (least, time) = self.slowest;
        if self.since.elapsed() < time {
            return Ok(());
        }
        if self.bytes < least {
            let reason = format!("it is too slow: {} bytes came in {} s", self.bytes, time.as_secs_f32());
            return Err(Failure::Final(reason));
        }
        *self = Self::new(self.slowest);
        Ok(())
    }
}

/// The digest of a URL, by which its download is found.
pub(in crate::image) fn key_of(url: &str) -> Digest {
    Digest::of(url.as_bytes())
}

impl Downloads {
    /// Where the bytes of a URL are, and the lock of whoever fetches them.
    fn places_of(&self, url: &str) -> Result<(PathBuf, PathBuf)> {
        self.places(&key_of(url).to_string())
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod nginx_tests;
