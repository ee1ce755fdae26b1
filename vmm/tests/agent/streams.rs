//! Bytes through a process: all of them, in order, with bounded memory on both sides.

use std::io::{Read, Write};
use std::thread;

use vmm::agent::{AttachSpec, Output, OutputLimits, ProcessSpec};

use crate::{Agent, run, shell, soon};

/// Bytes that look random and are the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        // A chunk at the end that is cut would make the sequence depend on how it is read.
        Ok(buffer.len())
    }
}

#[test]
fn a_hundred_mebibytes_go_through_a_process_and_come_back_intact() {
    const SIZE: u64 = 100 << 20;
    const BLOCK: usize = 1 << 16;
    let agent = Agent::start();
    let mut process = agent.client().start(&ProcessSpec::command(["cat"]).stdin()).unwrap();
    let mut stdin = process.take_stdin().unwrap();
    let feeder = thread::spawn(move || {
        let mut noise = Noise(42);
        let mut block = vec![0; BLOCK];
        for _ in 0..SIZE / BLOCK as u64 {
            noise.read_exact(&mut block).unwrap();
            stdin.write_all(&block).unwrap();
        }
        stdin.finish().unwrap();
    });
    let mut stdout = process.take_stdout().unwrap();
    let mut noise = Noise(42);
    let (mut expected, mut block) = (vec![0; BLOCK], vec![0; BLOCK]);
    for index in 0..SIZE / BLOCK as u64 {
        noise.read_exact(&mut expected).unwrap();
        stdout.read_exact(&mut block).unwrap();
        assert!(expected == block, "block {index} differs");
    }
    assert_eq!(stdout.read(&mut block).unwrap(), 0);
    feeder.join().unwrap();
    assert!(process.wait(soon()).unwrap().success());
}

#[test]
fn input_that_is_fed_at_once_is_read_in_full() {
    let agent = Agent::start();
    let input: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let process = agent.client().start(&ProcessSpec::command(["wc", "-c"]).stdin()).unwrap();
    let ran = process.collect(&input, OutputLimits::default(), soon(), None).unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap().trim(), "3000000");
}

#[test]
fn a_process_that_stops_reading_its_input_is_no_error() {
    let agent = Agent::start();
    let process = agent.client().start(&shell("head -c 3; exec 0<&-; echo .").stdin()).unwrap();
    let ran = process.collect(&vec![b'x'; 1 << 20], OutputLimits::default(), soon(), None).unwrap();
    assert_eq!(ran.stdout, b"xxx.\n");
    assert!(ran.exit.success());
}

#[test]
fn without_input_a_process_reads_an_empty_file() {
    let agent = Agent::start();
    let ran = run(&agent.client(), &ProcessSpec::command(["cat"]));
    assert!(ran.stdout.is_empty() && ran.exit.success());
}

#[test]
fn output_beyond_the_limit_is_dropped_and_counted() {
    let agent = Agent::start();
    let process = agent.client().start(&shell("head -c 100000 /dev/zero; head -c 50 /dev/zero >&2")).unwrap();
    let limits = OutputLimits { stdout: 1000, stderr: 1000 };
    let ran = process.collect(b"", limits, soon(), None).unwrap();
    assert_eq!((ran.stdout.len(), ran.stdout_dropped), (1000, 99_000));
    assert_eq!((ran.stderr.len(), ran.stderr_dropped), (50, 0));
}

#[test]
fn a_flood_that_nobody_reads_waits_and_costs_no_memory() {
    let agent = Agent::start();
    let client = agent.client();
    let marker = agent.folder().join("written");
    // Counts what it could write, a mebibyte at a time.
    let script = format!("while :; do head -c 1048576 /dev/zero; echo >> {}; done", marker.to_str().unwrap());
    let mut process = client.start(&shell(&script).kill_on_disconnect()).unwrap();
    assert!(matches!(process.next_output(soon(), None).unwrap(), Output::Stdout(_)));
    // The agent serves others meanwhile.
    for _ in 0..20 {
        assert!(run(&client, &ProcessSpec::command(["true"])).exit.success());
    }
    assert!(agent.memory() < 16 << 20, "{}", agent.memory());
    // Pipe, socket and agent hold less than this together: the rest waits in the process.
    let written = std::fs::read(&marker).map_or(0, |text| text.len());
    assert!(written < 4, "{written} MiB were written while nobody read");
}

#[test]
fn a_flood_without_a_client_neither_waits_nor_costs_memory() {
    let agent = Agent::start();
    let client = agent.client();
    let script = "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2; printf end; printf fin >&2";
    let id = client.start_detached(&shell(script)).unwrap();
    assert!(client.wait(id, soon()).unwrap().success());
    assert!(agent.memory() < 16 << 20, "{}", agent.memory());
    let process = client.attach(AttachSpec::to(id)).unwrap();
    let (stdout_from, stderr_from) = process.replay_starts_at();
    let seen = process.collect(b"", OutputLimits::default(), soon(), None).unwrap();
    assert_eq!(stdout_from + seen.stdout.len() as u64, 50_000_003);
    assert_eq!(stderr_from + seen.stderr.len() as u64, 50_000_003);
    assert_eq!(seen.stdout.len(), 64 * 1024);
    assert!(seen.stdout.ends_with(b"\0end") && seen.stderr.ends_with(b"\0fin"));
}

#[test]
fn two_threads_read_the_two_streams() {
    let agent = Agent::start();
    let script = "for i in $(seq 20); do head -c 100000 /dev/zero; head -c 70000 /dev/zero >&2; done";
    let mut process = agent.client().start(&shell(script)).unwrap();
    let count = |mut stream: vmm::agent::ProcessOutput| {
        thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()).unwrap())
    };
    let stdout = count(process.take_stdout().unwrap());
    let stderr = count(process.take_stderr().unwrap());
    assert_eq!(stdout.join().unwrap(), 2_000_000);
    assert_eq!(stderr.join().unwrap(), 1_400_000);
    assert!(process.wait(soon()).unwrap().success());
}

#[test]
fn a_stream_that_is_dropped_does_not_hold_up_the_other() {
    let agent = Agent::start();
    let mut process = agent.client().start(&shell("head -c 5000000 /dev/zero >&2; echo done")).unwrap();
    drop(process.take_stderr());
    let mut text = String::new();
    process.take_stdout().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
}

#[test]
fn the_end_of_an_output_is_shown_and_nobody_is_let_go_for_it() {
    let agent = Agent::start();
    let client = agent.client();
    let mut process =
        client.start(&shell("echo out; echo err >&2; read line; echo $line; exit 3").stdin()).unwrap();
    let mut stdout = process.take_stdout().unwrap();
    let mut word = [0; 4];
    stdout.read_exact(&mut word).unwrap();
    let mut seen = client.output(process.id()).unwrap();
    while seen.stderr.is_empty() {
        seen = client.output(process.id()).unwrap();
    }
    assert_eq!((seen.stdout, seen.stderr, seen.exit), (b"out\n".to_vec(), b"err\n".to_vec(), None));
    let mut stdin = process.take_stdin().unwrap();
    stdin.write_all(b"go on\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "go on\n");
    let exit = process.wait(soon()).unwrap();
    let seen = client.output(process.id()).unwrap();
    assert_eq!((seen.stdout, seen.exit), (b"out\ngo on\n".to_vec(), Some(exit)));
    assert!(client.output(vmm::agent::ProcessId(999)).is_err());
}
