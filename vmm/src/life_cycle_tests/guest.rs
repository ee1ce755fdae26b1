//! An engine that plays a script: its machine is a thread that behaves as a guest and its agent would.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use vmm_disk::{DiskImage, LiveDisk};
use vmm_protocol::{
    AgentMessage, Answer, BOOT_PORT, Configuration, ErrorKind, Exit, Failed, FrameHeader, FrameKind, Health,
    Hello, Outcome, ProcessId, Ready, Reply, Request, Version, header,
};

use super::fixture::Script;
use crate::engine::{EngineError, EngineKind, LaunchReport, MachineEnd, RunningMachine};
use crate::home::{Home, VmSpec};
use crate::machine::BalloonControl;
use crate::monitor::{LaunchFailure, Launcher};
use crate::threads::{self, Role};
use crate::virtio::balloon::Balloon;

pub(super) struct ScriptedLauncher;

type Ended = Arc<Mutex<Option<Box<dyn FnOnce(MachineEnd) + Send>>>>;

fn end(ended: &Ended, how: MachineEnd) {
    let ended = ended.lock().unwrap().take();
    if let Some(ended) = ended {
        ended(how);
    }
}

impl Launcher for ScriptedLauncher {
    fn launch(
        &self,
        home: &Home,
        spec: &VmSpec,
        console: OwnedFd,
        built: &dyn Fn(Weak<LiveDisk>),
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, LaunchFailure> {
        let script = Script::of(spec);
        let launched = home.folder(&spec.id).path().join("was-launched");
        let before = script == Script::NeverTwice && launched.exists();
        if script == Script::NoEngine || before {
            let hint = Some("build one".to_owned());
            return Err(LaunchFailure { message: "there is no engine".to_owned(), hint });
        }
        if script == Script::NeverTwice {
            File::create_new(launched).unwrap();
        }
        let disks = spec.machine.disks.first().map(|disk| vmm_disk::LiveDisk::open(&disk.layers));
        let disk = disks.map(|opened| Arc::new(opened.unwrap().unwrap()));
        built(disk.as_ref().map(Arc::downgrade).unwrap_or_default());
        let ended: Ended = Arc::new(Mutex::new(Some(ended)));
        let socket = spec.machine.vsock.socket.clone();
        let listener = UnixListener::bind(&socket).unwrap();
        let console = UnixStream::from(console);
        let its = disk.as_ref().map(Arc::downgrade).unwrap_or_default();
        let guest =
            Guest { script, socket, console, ended: ended.clone(), disk: its, freezes: 0, commands: 0 };
        thread::spawn(move || guest.run(&listener));
        let balloon = spec.machine.balloon.then(|| Balloon::new().control());
        Ok(Box::new(ScriptedMachine { ended, report: report(), balloon, _disk: disk }))
    }
}

fn report() -> LaunchReport {
    LaunchReport { engine: EngineKind::Software, program: None, jail: None, processor_us: None }
}

struct ScriptedMachine {
    ended: Ended,
    report: LaunchReport,
    _disk: Option<Arc<LiveDisk>>,
    balloon: Option<BalloonControl>,
}

impl RunningMachine for ScriptedMachine {
    fn pause(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), EngineError> {
        end(&self.ended, MachineEnd::Stopped);
        Ok(())
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn report(&self) -> &LaunchReport {
        &self.report
    }

    fn balloon(&self) -> Option<BalloonControl> {
        self.balloon.clone()
    }
}

struct Guest {
    script: Script,
    socket: PathBuf,
    console: UnixStream,
    ended: Ended,
    disk: Weak<LiveDisk>,
    freezes: u8,
    commands: u64,
}

impl Guest {
    fn run(mut self, listener: &UnixListener) {
        self.console.write_all(b"booting\n").unwrap();
        if self.script == Script::Silent {
            return;
        }
        let Some(_boot) = self.boot() else { return };
        for stream in listener.incoming() {
            self.answer(&mut stream.unwrap());
        }
    }

    /// Reports to the host as the agent does. `None`: it did not get ready.
    fn boot(&self) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(boot_socket(&self.socket)).unwrap();
        let hello = AgentMessage::Hello(Hello { agent: "scripted".to_owned(), kernel: "none".to_owned() });
        match self.script {
            Script::OtherVersion => {
                let version = Version { major: 9, minor: 0 };
                stream.write_all(&header::encode_as(version, &hello).unwrap()).unwrap();
            }
            Script::Garbage => stream.write_all(b"\x05\0\0\0hello").unwrap(),
            Script::AgentFails => {
                header::write(&mut stream, &hello).unwrap();
                header::read::<Configuration>(&mut stream).unwrap();
                let failed = Failed { what: "mount the root".to_owned(), why: "no such device".to_owned() };
                header::write(&mut stream, &AgentMessage::Failed(failed)).unwrap();
                end(&self.ended, MachineEnd::PowerOff);
            }
            _ => {
                header::write(&mut stream, &hello).unwrap();
                let told = header::read::<Configuration>(&mut stream).unwrap();
                assert_eq!(told.host_name.as_deref(), Some("box"));
                assert!(told.time_ns.is_some() && told.entropy.len() >= 32);
                header::write(&mut stream, &AgentMessage::Ready(Ready::default())).unwrap();
                return Some(stream);
            }
        }
        // The host hangs up on such an agent.
        let _ = stream.read(&mut [0]);
        None
    }

    /// Answers one request on the agent's port.
    fn answer(&mut self, stream: &mut UnixStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "CONNECT 1023\n");
        stream.write_all(b"OK 1\n").unwrap();
        let request: Request = header::read(&mut reader).unwrap();
        let reply = match (request, self.script) {
            (Request::Health, Script::Panics) => {
                self.console.write_all(b"Kernel panic - not syncing: test\n").unwrap();
                return end(&self.ended, MachineEnd::Reset);
            }
            (Request::Health, Script::EngineDies | Script::NeverTwice) => {
                return end(&self.ended, MachineEnd::Failed("QEMU was killed".to_owned()));
            }
            (Request::Health, Script::Escapes) => {
                let escape = || drop(File::open("/etc/passwd"));
                threads::spawn(Role::Queue, "escaper", escape).unwrap().join().unwrap();
                Reply::Health(Health { agent: "scripted".to_owned(), ..Health::default() })
            }
            (Request::Health, Script::PowersOff) => return end(&self.ended, MachineEnd::PowerOff),
            (Request::Health, _) => {
                Reply::Health(Health { agent: "scripted".to_owned(), ..Health::default() })
            }
            (Request::Shutdown(_), Script::RefusesShutdown) => {
                let answer = Answer::Error { kind: ErrorKind::Internal, message: "no".to_owned() };
                return header::write(stream, &answer).unwrap();
            }
            (Request::Shutdown(_), Script::IgnoresShutdown) => Reply::Done,
            (Request::Shutdown(_), _) => {
                header::write(stream, &Answer::Ok(Reply::Done)).unwrap();
                self.console.write_all(b"shutting down\n").unwrap();
                return end(&self.ended, MachineEnd::PowerOff);
            }
            (Request::Start(_), Script::SickLater) => return self.run_command(stream),
            (Request::SetClock { time_ns }, _) => {
                assert!(time_ns > 1_700_000_000_000_000_000);
                self.console.write_all(b"clock set\n").unwrap();
                Reply::Done
            }
            (Request::Freeze, Script::OldAgent) => {
                let answer = Answer::Error { kind: ErrorKind::Malformed, message: "what?".to_owned() };
                return header::write(stream, &answer).unwrap();
            }
            (Request::Freeze, _) => return self.freeze(stream),
            (request, _) => panic!("{request:?}"),
        };
        header::write(stream, &Answer::Ok(reply)).unwrap();
    }
}

impl Guest {
    /// Plays a command: the first succeeds.
    fn run_command(&mut self, stream: &mut UnixStream) {
        self.commands += 1;
        let code = u8::from(self.commands > 1);
        let started = Reply::Started { process: ProcessId(self.commands), pid: 7 };
        header::write(stream, &Answer::Ok(started)).unwrap();
        let exit = Exit { outcome: Outcome::Code(code), timed_out: false };
        for (kind, data) in
            [(FrameKind::Stdout, b"no\x1b".to_vec()), (FrameKind::Exit, serde_json::to_vec(&exit).unwrap())]
        {
            let frame = [FrameHeader::new(kind, data.len()).to_bytes().to_vec(), data].concat();
            stream.write_all(&frame).unwrap();
        }
    }

    /// Writes how often it was frozen until now to its disk, and stands still; what it writes then belongs to later.
    fn freeze(&mut self, stream: &mut UnixStream) {
        self.freezes += 1;
        let disk = self.disk.upgrade().unwrap();
        disk.write(&[IoSlice::new(&[self.freezes; 512])], 0).unwrap();
        header::write(stream, &Answer::Ok(Reply::Frozen)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        disk.write(&[IoSlice::new(&[0xff; 512])], 0).unwrap();
        let _ = header::write(stream, &Answer::Ok(Reply::Thawed { frozen_us: 1500, expired: false }));
    }
}

pub(super) fn boot_socket(vsock: &Path) -> PathBuf {
    let mut path = vsock.as_os_str().to_owned();
    path.push(format!("_{BOOT_PORT}"));
    path.into()
}
