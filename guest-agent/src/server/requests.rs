//! What is done for each request.

use std::time::{Duration, Instant};

use vmm_protocol::guest_process::{MAX_COMMAND, MAX_WORDS};
use vmm_protocol::{
    Answer, Attach, ByteString, ErrorKind, FrameKind, OnDisconnect, ProcessId, ProcessInfo, Reply, Request,
    Signal, SignalTarget, Start, TerminalSize,
};

use super::connection::Role;
use super::process::{Process, Timer};
use super::streams::Streams;
use super::{Place, Server};
use crate::clock;
use crate::refusal::Refusal;

/// More processes than this do not run at once: each has up to three of our descriptors.
const MAX_PROCESSES: usize = 512;

/// How much of a command is remembered for lists, so that all processes that there can be fit into one answer.
const LISTED_ARGUMENTS: usize = MAX_WORDS;
const LISTED_BYTES: usize = MAX_COMMAND;

impl Server {
    /// Does what a client asks, and answers.
    pub(super) fn handle(&mut self, client: u64, request: Request) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.keep &= request.can_be_followed();
        }
        let result = match request {
            Request::Transfer(_) | Request::File(_) | Request::GuestProcesses { .. } | Request::KernelLog => {
                return self.hand_over(client, &request);
            }
            Request::Start(start) => return self.start(client, &start),
            Request::Attach(attach) => return self.attach(client, attach),
            Request::Output { process } => return self.show_output(client, process),
            Request::Wait { process } => return self.wait_for(client, process),
            Request::Signal { process, signal, target } => self.signal(process, signal, target),
            Request::Resize { process, size } => self.resize(process, size),
            Request::Detach { process } => self.detach(process),
            Request::Processes => Ok(Reply::Processes(self.list())),
            Request::Health => Ok(Reply::Health(self.observer.measure(self.running.len()))),
            Request::Freeze => return self.freeze_for(client),
            Request::SetClock { time_ns } => set_clock(time_ns),
            Request::Shutdown(shutdown) => return self.shut_down_for(client, shutdown),
        };
        self.reply(client, &result.map_or_else(Answer::from, Answer::Ok));
    }

    fn start(&mut self, client: u64, start: &Start) {
        match self.start_process(client, start) {
            Err(refusal) => self.reply(client, &refusal.into()),
            Ok((id, reply)) if start.attach => {
                if let Some(connection) = self.connections.get_mut(&client) {
                    connection.role = Role::Attached(id);
                    connection.answer(&Answer::Ok(reply));
                }
                // The client may have sent input behind its request.
                self.again.insert(id);
            }
            Ok((_, reply)) => self.reply(client, &Answer::Ok(reply)),
        }
    }

    fn start_process(&mut self, client: u64, start: &Start) -> Result<(u64, Reply), Refusal> {
        if self.shutting_down.is_some() {
            return Err(Refusal::new(ErrorKind::ShuttingDown, "the guest is shutting down"));
        }
        if self.running.len() >= MAX_PROCESSES {
            let message = format!("{MAX_PROCESSES} processes run already");
            return Err(Refusal::new(ErrorKind::Resources, message));
        }
        let group = self.groups.take();
        let launched = match self.launcher.launch(start, group.as_ref()) {
            Ok(launched) => launched,
            Err(refusal) => {
                if let Some(group) = group {
                    self.groups.give_back(group);
                }
                return Err(refusal);
            }
        };
        let id = self.new_id();
        let pid = i32::try_from(launched.pid).unwrap_or(i32::MAX);
        let terminal = start.terminal.is_some();
        let info = ProcessInfo {
            process: ProcessId(id),
            pid: launched.pid,
            argv: listed(&start.argv),
            uid: launched.uid,
            terminal,
            attached: false,
            started_ms: clock::monotonic().as_millis().try_into().unwrap_or(u64::MAX),
            exit: None,
        };
        let mut process = Process::new(pid, info, Streams::new(launched.streams, terminal), group);
        if start.attach {
            process.client = Some(client);
            process.on_disconnect = start.on_disconnect;
        }
        process.timer = start.timeout_ms.and_then(|timeout| {
            Some((Instant::now().checked_add(Duration::from_millis(timeout))?, Timer::TimeOut))
        });
        // From here on the process is ours to wait for, whatever happens.
        self.running.insert(pid, id);
        let watched = self.watch(id, &process);
        self.processes.insert(id, process);
        if let Err(error) = watched {
            if let Some(process) = self.processes.get_mut(&id) {
                process.on_disconnect = OnDisconnect::Kill;
                process.client_gone();
            }
            return Err(Refusal::system(ErrorKind::Resources, "watch the streams of a process", error));
        }
        Ok((id, Reply::Started { process: ProcessId(id), pid: launched.pid }))
    }

    fn attach(&mut self, client: u64, attach: Attach) {
        if let Err(refusal) = self.let_go(attach.process) {
            return self.reply(client, &refusal.into());
        }
        let id = attach.process.0;
        let (Some(process), Some(connection)) =
            (self.processes.get_mut(&id), self.connections.get_mut(&client))
        else {
            return;
        };
        let positions = [attach.stdout_from.unwrap_or(0), attach.stderr_from.unwrap_or(0)];
        let [stdout_from, stderr_from] = process.streams.replay_starts(positions);
        let terminal = process.info.terminal;
        let stdin = process.streams.has_stdin();
        connection.answer(&Answer::Ok(Reply::Attached { terminal, stdin, stdout_from, stderr_from }));
        process.streams.replay(connection, positions);
        match process.info.exit.filter(|_| process.complete) {
            Some(exit) => self.send_exit(client, exit),
            None => {
                connection.role = Role::Attached(id);
                process.client = Some(client);
                process.on_disconnect = attach.on_disconnect;
                self.again.insert(id);
            }
        }
    }

    /// Shows what is kept of a process's output; whoever is attached to it stays.
    fn show_output(&mut self, client: u64, id: ProcessId) {
        if let Err(refusal) = self.known(id) {
            return self.reply(client, &refusal.into());
        }
        let (Some(process), Some(connection)) =
            (self.processes.get(&id.0), self.connections.get_mut(&client))
        else {
            return;
        };
        let [stdout_from, stderr_from] = process.streams.replay_starts([0; 2]);
        let terminal = process.info.terminal;
        connection.answer(&Answer::Ok(Reply::Attached { terminal, stdin: false, stdout_from, stderr_from }));
        process.streams.replay(connection, [0; 2]);
        match process.info.exit.filter(|_| process.complete) {
            Some(exit) => self.send_exit(client, exit),
            None => {
                connection.send_frame(FrameKind::Detached, &[]);
                self.close(client);
            }
        }
    }

    fn wait_for(&mut self, client: u64, process: ProcessId) {
        match self.known(process).map(|process| process.info.exit.filter(|_| process.complete)) {
            Ok(Some(exit)) => self.reply(client, &Answer::Ok(Reply::Ended(exit))),
            Ok(None) => {
                if let Some(connection) = self.connections.get_mut(&client) {
                    connection.role = Role::Waiting(process.0);
                }
            }
            Err(refusal) => self.reply(client, &refusal.into()),
        }
    }

    fn signal(&self, id: ProcessId, signal: Signal, target: SignalTarget) -> Result<Reply, Refusal> {
        let process = self.known(id)?;
        if !process.runs() {
            return Err(Refusal::new(ErrorKind::Ended, format!("process {id} has ended already")));
        }
        process.signal(signal, target).map_err(|error| {
            let what = format!("send signal {} to process {id}", signal.number());
            Refusal::system(ErrorKind::Internal, what, error)
        })?;
        Ok(Reply::Done)
    }

    fn resize(&self, id: ProcessId, size: TerminalSize) -> Result<Reply, Refusal> {
        let process = self.known(id)?;
        if !process.info.terminal {
            return Err(Refusal::new(ErrorKind::NoTerminal, format!("process {id} has no terminal")));
        }
        if !process.runs() {
            return Err(Refusal::new(ErrorKind::Ended, format!("process {id} has ended already")));
        }
        process.streams.resize(size).map_err(|error| {
            Refusal::system(ErrorKind::Internal, format!("resize the terminal of process {id}"), error)
        })?;
        Ok(Reply::Done)
    }

    fn detach(&mut self, id: ProcessId) -> Result<Reply, Refusal> {
        self.let_go(id)?;
        Ok(Reply::Done)
    }

    /// Whoever is attached to a process is told that it no longer is.
    fn let_go(&mut self, id: ProcessId) -> Result<(), Refusal> {
        self.known(id)?;
        let Some(process) = self.processes.get_mut(&id.0) else { return Ok(()) };
        if let Some(client) = process.client.take() {
            if let Some(connection) = self.connections.get_mut(&client) {
                connection.keep = false;
                connection.send_frame(FrameKind::Detached, &[]);
            }
            self.close(client);
            // What waited for the client now goes into the rings.
            self.again.insert(id.0);
        }
        Ok(())
    }

    fn list(&self) -> Vec<ProcessInfo> {
        let processes = self.processes.values();
        processes
            .map(|process| ProcessInfo { attached: process.client.is_some(), ..process.info.clone() })
            .collect()
    }

    fn known(&self, id: ProcessId) -> Result<&Process, Refusal> {
        self.processes.get(&id.0).ok_or_else(|| {
            let message = format!("there is no process {id}: it never was, or ended long ago");
            Refusal::new(ErrorKind::NoSuchProcess, message)
        })
    }

    fn shut_down_for(&mut self, client: u64, shutdown: vmm_protocol::Shutdown) {
        if self.place == Place::Alone {
            let refusal = Refusal::new(ErrorKind::Internal, "this agent is not part of a machine");
            return self.reply(client, &refusal.into());
        }
        self.reply(client, &Answer::Ok(Reply::Done));
        self.shut_down(shutdown.mode, Duration::from_millis(shutdown.grace_ms));
    }
}

fn set_clock(time_ns: u64) -> Result<Reply, Refusal> {
    clock::set(time_ns)
        .map(|()| Reply::Done)
        .map_err(|error| Refusal::system(ErrorKind::Internal, "set the clock", error))
}

/// The start of a command.
pub(crate) fn listed(argv: &[ByteString]) -> Vec<ByteString> {
    let mut listed = Vec::new();
    let mut left = LISTED_BYTES;
    for argument in argv.iter().take(LISTED_ARGUMENTS) {
        let bytes = argument.as_bytes();
        let mut length = bytes.len().min(left);
        // A character that is cut apart would make an array of numbers of the whole text.
        while length > 0 && bytes.get(length).is_some_and(|byte| byte & 0xc0 == 0x80) {
            length -= 1;
        }
        listed.push(bytes[..length].into());
        left -= length;
        if length < bytes.len() {
            break;
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_all_processes_that_there_can_be_fits_into_an_answer() {
        let argv: Vec<ByteString> = (0..100).map(|_| "é\"".repeat(1000).into()).collect();
        let info = ProcessInfo {
            process: ProcessId(u64::MAX),
            pid: u32::MAX,
            argv: listed(&argv),
            uid: u32::MAX,
            terminal: false,
            attached: false,
            started_ms: u64::MAX,
            exit: None,
        };
        assert!(std::str::from_utf8(info.argv[0].as_bytes()).is_ok());
        let all = vec![info; MAX_PROCESSES + super::super::REMEMBERED];
        vmm_protocol::header::encode(&Answer::Ok(Reply::Processes(all))).unwrap();
    }

    #[test]
    fn a_short_command_is_listed_in_full() {
        let argv: Vec<ByteString> = ["sh", "-c", "", "x"].map(Into::into).to_vec();
        assert_eq!(listed(&argv), argv);
    }
}
