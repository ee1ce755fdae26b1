//! Programs that are run for so long and no longer, and of which nothing is left: each is the head of a process group, and
//! what it started itself is found by its parents.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use vmm::CancelToken;
use vmm_sys::process::Process;

use crate::trouble::Trouble;

/// How often a wait looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program may take to clean up after itself when it is asked to end.
const GRACE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };

/// How much of what a program says of its troubles is kept, and how long a line of it may be.
const KEPT: usize = 2000;

/// How many of its last lines are told of a program that crashed.
const LAST: usize = 3;

/// Lines that a program may say before somebody listens.
const AHEAD: usize = 4096;

/// Until when something may take, and what cuts it short.
#[derive(Clone)]
pub(crate) struct Limit {
    cancel: CancelToken,
    span: Duration,
    until: Instant,
}

impl Limit {
    pub(crate) fn new(cancel: &CancelToken, span: Duration) -> Self {
        Self { cancel: cancel.clone(), span, until: Instant::now() + span }
    }

    pub(crate) fn token(&self) -> &CancelToken {
        &self.cancel
    }

    /// How long is left; otherwise why there is no more.
    pub(crate) fn left(&self, what: &str) -> Result<Duration, Trouble> {
        if self.cancel.is_cancelled() {
            return Err(Trouble::Cancelled);
        }
        let left = self.until.saturating_duration_since(Instant::now());
        let late = || Trouble::TimedOut { what: what.to_owned(), after: self.span };
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }
}

/// A line that a program said, and when it came.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// A program that runs. Dropping it ends it, and all that it started.
pub(crate) struct Running {
    what: String,
    began: Instant,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// What it said last of which nobody made anything: a guest's last words, where it is a guest's console.
    passed_over: Vec<String>,
    /// Its end was taken note of: from then on its number may be another's.
    waited_for: bool,
    ended: bool,
}

impl Running {
    /// Starts a program; `what` is its name where it is spoken of.
    pub(crate) fn start(mut command: Command, what: &str) -> Result<Self, Trouble> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let began = Instant::now();
        let mut child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            Trouble::Failed(format!("cannot start {program}: {error}"))
        })?;
        let (sender, lines) = sync_channel(AHEAD);
        let complaints = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || tell_lines(stdout, &sender));
        }
        if let Some(stderr) = child.stderr.take() {
            let complaints = Arc::clone(&complaints);
            thread::spawn(move || keep_last(stderr, &complaints));
        }
        let stdin = child.stdin.take();
        Ok(Self {
            what: what.to_owned(),
            began,
            child,
            stdin,
            lines,
            complaints,
            passed_over: Vec::new(),
            waited_for: false,
            ended: false,
        })
    }

    /// When it was started.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Writes a line to it.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Trouble> {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush()),
            None => Ok(()),
        };
        // One that has ended hears nothing; whoever waits for its answer is told how it ended.
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits for a line that something can be made of; others are passed over.
    pub(crate) fn wait_for<T>(
        &mut self,
        limit: &Limit,
        mut wanted: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, Trouble> {
        loop {
            let left = limit.left(&format!("the answer of {}", self.what))?;
            match self.lines.recv_timeout(left.min(LOOK)) {
                Ok(line) => {
                    if let Some(value) = wanted(&line) {
                        return Ok(value);
                    }
                    self.passed_over.push(line.text);
                    if self.passed_over.len() > LAST {
                        self.passed_over.remove(0);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let how = self.wait_for_end(limit)?.0;
                    return Err(self.crashed(how));
                }
            }
        }
    }

    /// Waits for its end: how, and when.
    fn wait_for_end(&mut self, limit: &Limit) -> Result<(ExitStatus, Instant), Trouble> {
        let process = Process::open(self.child.id())?;
        while let Some(process) = &process {
            let left = limit.left(&format!("the end of {}", self.what))?;
            if process.wait(left.min(LOOK))? {
                break;
            }
        }
        let at = Instant::now();
        let status = self.child.wait()?;
        self.waited_for = true;
        Ok((status, at))
    }

    /// Waits until it has ended as it should. When that was.
    pub(crate) fn finish(mut self, limit: &Limit) -> Result<Instant, Trouble> {
        self.stdin = None;
        let (status, at) = self.wait_for_end(limit)?;
        if !status.success() {
            return Err(self.crashed(status));
        }
        self.ended = true;
        Ok(at)
    }

    /// All processes that it started, and those that they started; not itself.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        descendants(self.child.id())
    }

    /// Its own process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn crashed(&self, status: ExitStatus) -> Trouble {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&complaints);
        let said = self.passed_over.iter().map(String::as_str).chain(text.lines());
        let lines: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(LAST)..).unwrap_or_default();
        Trouble::Crashed { what: self.what.clone(), how: status.to_string(), said: last.join(" | ") }
    }

    /// Asks it to end, and ends what is left then.
    fn end(&mut self) {
        self.stdin = None;
        let leader = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let family = if self.waited_for { Vec::new() } else { self.ask_to_end(leader) };
        if let Some(leader) = leader {
            // The group lives as long as one of it does.
            let _ = kill_process_group(leader, Signal::KILL);
        }
        for pid in family {
            if let Ok(Some(process)) = Process::open(pid) {
                let _ = process.kill();
            }
        }
        let _ = self.child.wait();
    }

    /// Gives it time to clean up; says who belonged to it.
    fn ask_to_end(&self, leader: Option<Pid>) -> Vec<u32> {
        let mut family = self.descendants();
        if let Some(leader) = leader {
            // One that has ended already is no failure.
            let _ = kill_process(leader, Signal::TERM);
        }
        let in_time = Process::open(self.child.id()).and_then(|process| match process {
            Some(process) => process.wait(GRACE),
            None => Ok(true),
        });
        if !matches!(in_time, Ok(true)) {
            // Who came into the world since it was asked.
            family.extend(self.descendants());
        }
        family
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// Runs a program to its end; what it said on its standard output.
pub(crate) fn output(command: Command, what: &str, limit: &Limit) -> Result<String, Trouble> {
    let mut running = Running::start(command, what)?;
    running.stdin = None;
    let mut said = String::new();
    let all = running.wait_for(limit, |line| {
        said.push_str(&line.text);
        said.push('\n');
        None::<()>
    });
    match all {
        // It has nothing more to say: then it has ended.
        Err(Trouble::Crashed { .. }) => running.finish(limit).map(|_| said),
        Err(trouble) => Err(trouble),
        Ok(()) => Ok(said),
    }
}

fn tell_lines(stdout: impl Read, sender: &SyncSender<Line>) {
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // A line without an end is cut: nobody's memory is ours to fill.
        let mut bounded = reader.by_ref().take(64 << 10);
        match bounded.read_until(b'\n', &mut bytes) {
            Ok(1..) => {}
            _ => return,
        }
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if sender.send(Line { at: Instant::now(), text }).is_err() {
            return;
        }
    }
}

fn keep_last(mut stderr: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut bytes) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

/// The processes below one, by what `/proc` says of their parents.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name before may have blanks and brackets of its own.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![of];
    while let Some(parent) = next.pop() {
        // Each has one parent, so that nobody is found twice.
        let below = children.remove(&parent).unwrap_or_default();
        next.extend(&below);
        found.extend(below);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command, "the script").unwrap()
    }

    fn limit(milliseconds: u64) -> Limit {
        Limit::new(&CancelToken::new().unwrap(), Duration::from_millis(milliseconds))
    }

    fn lives(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn an_answer_is_waited_for_and_others_are_passed_over() {
        let mut running = shell("echo hello; read word; echo ready $word; exit 0");
        running.say("now").unwrap();
        let word = running.wait_for(&limit(5000), |line| line.text.strip_prefix("ready ").map(str::to_owned));
        assert_eq!(word.unwrap(), "now");
        assert!(running.finish(&limit(5000)).is_ok());
    }

    #[test]
    fn a_program_that_hangs_is_bounded_and_its_children_are_ended() {
        let mut running =
            shell("setsid sleep 1000 & sleep 1000 & echo started; trap '' TERM; cat > /dev/null; wait");
        running.wait_for(&limit(5000), |line| (line.text == "started").then_some(())).unwrap();
        let mut family = running.descendants();
        family.push(running.pid());
        assert!(family.len() >= 3, "{family:?}");
        let trouble = running.wait_for(&limit(50), |_| None::<()>).unwrap_err();
        assert!(matches!(trouble, Trouble::TimedOut { .. }), "{trouble}");
        // It heeds no request to end; the child of a session of its own is not in its group.
        drop(running);
        let deadline = Instant::now() + Duration::from_secs(5);
        while family.iter().any(|&pid| lives(pid)) {
            assert!(Instant::now() < deadline, "some of {family:?} live");
            thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_crashes_is_told_with_its_last_words() {
        let mut running = shell("echo broken >&2; exit 3");
        let trouble = running.wait_for(&limit(5000), |_| None::<()>).unwrap_err();
        let text = trouble.to_string();
        assert!(text.contains("the script ended: exit status: 3"), "{text}");
    }

    #[test]
    fn whoever_cancels_waits_no_longer() {
        let token = CancelToken::new().unwrap();
        token.cancel();
        let mut running = shell("sleep 1000");
        let limit = Limit::new(&token, Duration::from_secs(1000));
        assert!(matches!(running.wait_for(&limit, |_| None::<()>), Err(Trouble::Cancelled)));
    }

    #[test]
    fn output_is_what_a_program_says_until_it_ends_well() {
        let command = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        assert_eq!(output(command("echo one; echo two"), "sh", &limit(5000)).unwrap(), "one\ntwo\n");
        assert!(matches!(
            output(command("echo one; exit 1"), "sh", &limit(5000)),
            Err(Trouble::Crashed { .. })
        ));
    }
}
