//! What an agent says to each request of the host's client, from the first byte to the end of its connection.
//!
//! Nothing may panic, hang or take more memory than the protocol allows. The first byte says what is asked.
#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use vmm::agent::{
    AgentClient, AgentError, AttachSpec, Connector, OutputLimits, ProcessId, ProcessSpec, Signal, SignalTarget,
};
use vmm_protocol::{Holds, Pack, Totals, Unpack};

/// Whoever waits longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// An agent that has said everything already.
#[derive(Debug)]
struct Said(Mutex<Option<UnixStream>>);

impl Connector for Said {
    fn connect(&self, port: u32, _first: &[u8], _deadline: Instant) -> Result<UnixStream, AgentError> {
        self.0.lock().expect("no panic").take().ok_or(AgentError::Refused { port })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&asked, said)) = bytes.split_first() else { return };
    // More would wait for a reader.
    let said = &said[..said.len().min(64 << 10)];
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.write_all(said).expect("room in the socket");
    theirs.shutdown(std::net::Shutdown::Write).expect("the end of it");
    let client = AgentClient::with_connector(Arc::new(Said(Mutex::new(Some(ours))))).with_answer_timeout(PATIENCE);
    let deadline = Instant::now().checked_add(PATIENCE);
    let process = ProcessId(1);
    match asked % 20 {
        0 => drop(client.health()),
        1 => drop(client.processes()),
        2 => {
            let limits = OutputLimits { stdout: 1 << 16, stderr: 1 << 16 };
            let started = client.start(&ProcessSpec::command(["x"]));
            let _ = started.and_then(|process| process.collect(b"", limits, deadline, None));
        }
        3 => drop(client.start_detached(&ProcessSpec::command(["x"]))),
        4 => drop(client.attach(AttachSpec::to(process)).and_then(|mut process| process.wait(deadline))),
        5 => drop(client.wait(process, deadline)),
        6 => drop(client.signal(process, Signal::KILL, SignalTarget::All)),
        7 => drop(client.freeze().and_then(vmm::agent::FrozenGuest::thaw)),
        8 => drop(client.stat("/x".into(), true)),
        9 | 10 => {
            if let Ok(mut listing) = client.list("/x".into(), None) {
                while let Ok(Some(page)) = listing.next_page() {
                    assert!(page.iter().all(vmm::agent::FolderEntry::is_sound));
                }
            }
        }
        11 | 12 => {
            if let Ok((_, read)) = client.read("/x".into(), 0, 1000) {
                assert!(read.len() <= 1000);
            }
        }
        13 => drop(client.remove("/x".into(), true, None)),
        14 => drop(client.make_folder("/x".into(), true, None)),
        15 => {
            if let Ok(mut watching) = client.watch("/x".into(), true, None) {
                while let Ok(Some(page)) = watching.next_page() {
                    assert!(page.iter().all(vmm::agent::Change::is_sound));
                }
            }
        }
        16 => drop(client.guest_processes(Duration::ZERO)),
        17 => {
            let pack = Pack { paths: vec!["/x".into()], follow: false, devices: false };
            if let Ok(mut archive) = client.pack(pack, PATIENCE, None) {
                let mut bytes = Vec::new();
                let whole = archive.read_to_end(&mut bytes).is_ok();
                assert_eq!(whole, archive.totals().is_some());
            }
        }
        18 => {
            let unpack =
                Unpack { path: "/x".into(), holds: Holds::One, owner: None, set_id: false, devices: false };
            if let Ok(upload) = client.unpack(unpack, PATIENCE, None) {
                let _ = upload.finish(Totals::default());
            }
        }
        _ => drop(client.set_clock(1)),
    }
});
