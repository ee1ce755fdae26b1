//! Connections on which an agent waits for another request: making one costs an emulated guest more than answering.

use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dev, fstat};

/// More are closed: a program that had sixty requests at once will not have them for ever.
const MOST: usize = 4;

/// The agent waits twice as long, and so does not leave while we ask.
const LONGEST: Duration = Duration::from_secs(60);

/// Connections to one guest's agent that nobody uses now.
#[derive(Debug)]
pub(crate) struct KeptConnections {
    all: Mutex<Vec<Kept>>,
    /// A child that was forked has copies of all, and would ask at the same time.
    process: u32,
}

impl Default for KeptConnections {
    fn default() -> Self {
        Self { all: Mutex::default(), process: std::process::id() }
    }
}

impl KeptConnections {
    /// One that can be asked on.
    pub(super) fn take(&self) -> Option<UnixStream> {
        if self.is_a_copy() {
            return None;
        }
        loop {
            let kept = self.lock().pop()?;
            if let Some(stream) = kept.into_usable() {
                return Some(stream);
            }
        }
    }

    /// Everything was said on this one.
    pub(super) fn put(&self, stream: UnixStream) {
        if self.is_a_copy() {
            return;
        }
        let Some(kept) = Kept::new(stream) else { return };
        let mut all = self.lock();
        all.retain(Kept::is_fresh);
        if all.len() < MOST {
            all.push(kept);
        }
    }

    fn is_a_copy(&self) -> bool {
        self.process != std::process::id()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Kept {
    /// None, once it is taken.
    stream: Option<UnixStream>,
    /// Which file it is: a program may close every descriptor, and then that number is another file.
    file: (Dev, u64),
    since: Instant,
}

impl Kept {
    fn new(stream: UnixStream) -> Option<Self> {
        Some(Self { file: file_of(&stream)?, stream: Some(stream), since: Instant::now() })
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < LONGEST
    }

    fn into_usable(mut self) -> Option<UnixStream> {
        let is_fresh = self.is_fresh();
        let stream = self.stream.take_if(|stream| is_fresh && file_of(stream) == Some(self.file))?;
        // An agent says nothing before it is asked: whoever speaks or leaves is no good any more.
        let mut fds = [PollFd::new(&stream, PollFlags::IN)];
        let is_quiet = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0);
        is_quiet.then_some(stream)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take_if(|stream| file_of(stream) != Some(self.file)) {
            // It is not ours to close.
            let _ = stream.into_raw_fd();
        }
    }
}

/// The device and the number of a file.
fn file_of(fd: impl AsFd) -> Option<(Dev, u64)> {
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use vmm_protocol::{Answer, FrameHeader, FrameKind, ProcessId, Reply, Request, header};

    use super::super::{AgentClient, AgentError, Connector, OutputLimits, ProcessSpec};
    use super::*;

    #[test]
    fn what_is_kept_is_used_again_and_no_more_than_a_few() {
        let kept = KeptConnections::default();
        assert!(kept.take().is_none());
        let pairs: Vec<_> = (0..=MOST).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, mut theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        ours.into_iter().for_each(|stream| kept.put(stream));
        assert_eq!(theirs[MOST].read(&mut [0]).unwrap(), 0);
        let mut last = kept.take().unwrap();
        last.write_all(b"x").unwrap();
        theirs[MOST - 1].read_exact(&mut [0]).unwrap();
        assert_eq!(std::iter::from_fn(|| kept.take()).count(), MOST - 1);
    }

    /// An agent that keeps each connection for a second request, and says how many it took.
    #[derive(Debug, Default)]
    struct Patient(AtomicUsize);

    impl Connector for Patient {
        fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            (&ours).write_all(first).unwrap();
            thread::spawn(move || {
                for keep in [true, false] {
                    let request = header::read_whole::<Request>(&mut theirs).unwrap();
                    assert_eq!(request, header::Header { body: Request::Processes, keep: true });
                    let answer = Answer::Ok(Reply::Processes(Vec::new()));
                    theirs.write_all(&header::encode_keeping(&answer, keep).unwrap()).unwrap();
                }
            });
            Ok(ours)
        }
    }

    #[test]
    fn a_client_asks_again_where_the_agent_waits_for_it_and_connects_where_not() {
        let patient = Arc::new(Patient::default());
        let client = AgentClient::with_connector(patient.clone()).keeping(Arc::default());
        let connections = [1, 1, 2, 2, 3];
        for expected in connections {
            client.processes().unwrap();
            assert_eq!(patient.0.load(Ordering::SeqCst), expected);
        }
    }

    /// An agent of which each connection brings a process's end, and these bytes behind it.
    #[derive(Debug)]
    struct Talkative(AtomicUsize, &'static [u8]);

    impl Connector for Talkative {
        fn connect(&self, _port: u32, first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            (&ours).write_all(first).unwrap();
            let behind = self.1;
            thread::spawn(move || {
                while header::read::<Request>(&mut theirs).is_ok() {
                    let answer = Answer::Ok(Reply::Started { process: ProcessId(1), pid: 2 });
                    let json = br#"{"outcome":{"code":0}}"#;
                    let exit = FrameHeader::new(FrameKind::Exit, json.len()).to_bytes();
                    let said = [&header::encode_keeping(&answer, true).unwrap(), &exit[..], json, behind];
                    theirs.write_all(&said.concat()).unwrap();
                }
            });
            Ok(ours)
        }
    }

    #[test]
    fn after_a_process_s_end_the_connection_is_used_again_unless_something_is_behind_it() {
        for (behind, connections) in [(&b""[..], 1), (b"x", 3)] {
            let talkative = Arc::new(Talkative(AtomicUsize::new(0), behind));
            let client = AgentClient::with_connector(talkative.clone()).keeping(Arc::default());
            for _ in 0..3 {
                let process = client.start(&ProcessSpec::command(["true"])).unwrap();
                process.collect(b"", OutputLimits::default(), None, None).unwrap();
            }
            assert_eq!(talkative.0.load(Ordering::SeqCst), connections);
            // Nor while somebody else could end it.
            let process = client.start(&ProcessSpec::command(["true"])).unwrap();
            let closer = process.closer();
            process.collect(b"", OutputLimits::default(), None, None).unwrap();
            client.start(&ProcessSpec::command(["true"])).unwrap();
            assert_eq!(talkative.0.load(Ordering::SeqCst), connections + 1 + usize::from(!behind.is_empty()));
            closer.close();
        }
    }

    #[test]
    fn whoever_left_or_speaks_unasked_is_used_no_more() {
        let kept = KeptConnections::default();
        let (good, _stays) = UnixStream::pair().unwrap();
        let file = file_of(&good);
        let (left, leaves) = UnixStream::pair().unwrap();
        let (loud, mut speaks) = UnixStream::pair().unwrap();
        for stream in [good, left, loud] {
            kept.put(stream);
        }
        drop(leaves);
        speaks.write_all(b"x").unwrap();
        assert_eq!(file_of(kept.take().unwrap()), file);
        assert!(kept.take().is_none());
    }

    #[test]
    fn what_is_old_or_of_another_process_is_used_no_more() {
        let mut kept = KeptConnections::default();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let another = || ours.try_clone().unwrap();
        kept.put(another());
        for kept in kept.lock().iter_mut() {
            kept.since = kept.since.checked_sub(LONGEST).unwrap();
        }
        assert!(kept.take().is_none());
        kept.process += 1;
        kept.put(another());
        kept.process -= 1;
        assert!(kept.take().is_none());
        kept.put(another());
        kept.process += 1;
        assert!(kept.take().is_none());
        kept.process -= 1;
        assert!(kept.take().is_some());
    }

    #[test]
    fn a_descriptor_that_became_another_file_is_left_alone() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut kept = Kept::new(ours).unwrap();
        kept.file.1 += 1;
        assert!(kept.into_usable().is_none());
        theirs.set_nonblocking(true).unwrap();
        let open = theirs.read(&mut [0]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    }
}
