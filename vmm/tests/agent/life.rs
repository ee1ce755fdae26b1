//! How processes start, what they are given, and how they end.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use vmm::agent::{
    AgentError, AttachSpec, ErrorKind, Exit, Outcome, Output, OutputLimits, ProcessSpec, Signal, SignalTarget,
};

use crate::{Agent, run, shell, soon};

#[test]
fn streams_are_kept_apart_and_the_status_is_the_commands() {
    let agent = Agent::start();
    let ran = run(&agent.client(), &shell("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.stdout, ran.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(ran.exit, Exit { outcome: Outcome::Code(7), timed_out: false });
}

#[test]
fn a_process_that_a_signal_ends_says_which() {
    let agent = Agent::start();
    let ran = run(&agent.client(), &shell("kill -9 $$"));
    assert_eq!(ran.exit.outcome, Outcome::Signal(Signal::KILL));
    assert_eq!(ran.exit.shell_status(), 137);
    // A real-time signal, which the usual types do not know.
    let ran = run(&agent.client(), &shell("kill -40 $$"));
    assert_eq!(ran.exit.shell_status(), 168);
}

#[test]
fn what_cannot_be_started_is_told_apart_by_kind() {
    let agent = Agent::start();
    let script = agent.folder().join("script");
    fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    let path = script.to_str().unwrap();
    let kind = |spec: &ProcessSpec| agent.client().start(spec).unwrap_err().kind();
    assert_eq!(kind(&ProcessSpec::command(["no-such-command"])), Some(ErrorKind::CommandNotFound));
    assert_eq!(kind(&ProcessSpec::command(["/no/such/command"])), Some(ErrorKind::CommandNotFound));
    assert_eq!(kind(&ProcessSpec::command([path])), Some(ErrorKind::CommandNotExecutable));
    assert_eq!(kind(&ProcessSpec::command(["/etc"])), Some(ErrorKind::CommandNotExecutable));
    assert_eq!(kind(&shell("").user("nobody-of-that-name")), Some(ErrorKind::NoSuchUser));
    assert_eq!(kind(&shell("").working_directory("/nowhere")), Some(ErrorKind::WorkingDirectory));
    assert_eq!(kind(&shell("").environment("A=B", "c")), Some(ErrorKind::Malformed));
    assert_eq!(kind(&ProcessSpec::command(["a\0b"])), Some(ErrorKind::Malformed));
}

#[test]
fn a_text_without_an_interpreter_is_a_shell_script() {
    use std::os::unix::fs::PermissionsExt;
    let agent = Agent::start();
    let script = agent.folder().join("script");
    fs::write(&script, "echo \"$1 $2\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = run(&agent.client(), &ProcessSpec::command([script.to_str().unwrap(), "a", "b c"]));
    assert_eq!(ran.stdout, b"a b c\n");
}

#[test]
fn variables_folder_and_arguments_arrive_whatever_bytes_they_have() {
    let agent = Agent::start();
    let bytes: &[u8] = b"\xff\xfe not text";
    let spec = ProcessSpec::command([&b"sh"[..], b"-c", b"pwd; printf %s \"$X\" \"$1\"", b"sh", bytes])
        .environment("X", bytes)
        .working_directory("/usr");
    assert_eq!(run(&agent.client(), &spec).stdout, [b"/usr\n", bytes, bytes].concat());
}

#[test]
fn a_process_has_a_session_of_its_own() {
    let agent = Agent::start();
    let ran = run(&agent.client(), &shell("cut -d' ' -f1,5,6 /proc/$$/stat"));
    let text = String::from_utf8(ran.stdout).unwrap();
    let numbers: Vec<_> = text.trim().split(' ').collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
}

#[test]
fn a_process_has_no_descriptor_of_the_agents() {
    let files = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let files = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        files.collect::<HashSet<PathBuf>>()
    };
    let agent = Agent::start();
    let process =
        agent.client().start(&ProcessSpec::command(["sleep", "1000"]).stdin().kill_on_disconnect()).unwrap();
    // Whatever we have open ourselves, the agent may have had from us.
    let mut agents = &files(agent.program.id()) - &files(std::process::id());
    // Its streams have two ends each; the pipes' names do not tell which.
    agents.retain(|file| !file.to_string_lossy().starts_with("pipe:"));
    assert!(agents.iter().any(|file| file.to_string_lossy().contains("eventpoll")));
    let processes = files(process.pid().unwrap());
    assert!(agents.is_disjoint(&processes), "{agents:?} and {processes:?}");
}

#[test]
fn a_user_gets_its_own_numbers_and_home() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let agent = Agent::start();
    let ran = run(&agent.client(), &shell("id -u; id -g; id -G; echo $USER").user("4321:8765"));
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "4321\n8765\n8765\n\n");
    let ran = run(&agent.client(), &shell("id -un; echo $USER $LOGNAME").user("daemon"));
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "daemon\ndaemon daemon\n");
}

#[test]
fn a_process_whose_time_is_up_is_ended_even_if_it_will_not_hear() {
    let agent = Agent::start();
    let spec =
        shell("trap '' TERM; echo ready; while :; do sleep 100; done").timeout(Duration::from_millis(300));
    let ran = run(&agent.client(), &spec);
    assert_eq!(ran.stdout, b"ready\n");
    assert!(ran.exit.timed_out);
    assert_eq!(ran.exit.shell_status(), 124);
}

#[test]
fn a_process_ends_with_its_client_when_that_was_asked_for() {
    let agent = Agent::start();
    let client = agent.client();
    let spec = ProcessSpec::command(["sleep", "1000"]).stdin().kill_on_disconnect();
    let process = client.start(&spec).unwrap();
    let id = process.id();
    drop(process);
    assert_eq!(client.wait(id, soon()).unwrap().outcome, Outcome::Signal(Signal::TERMINATE));
}

#[test]
fn a_process_that_does_not_read_still_ends_with_its_client() {
    let agent = Agent::start();
    let client = agent.client();
    let mut process = client.start(&shell("exec sleep 1000").stdin().kill_on_disconnect()).unwrap();
    let (id, closer) = (process.id(), process.closer());
    let mut stdin = process.take_stdin().unwrap();
    let feeder = std::thread::spawn(move || std::io::copy(&mut std::io::repeat(7), &mut stdin));
    // Somewhere in the middle of it, most likely stuck.
    client.health().unwrap();
    closer.close();
    assert!(feeder.join().unwrap().is_err());
    assert_eq!(client.wait(id, soon()).unwrap().outcome, Outcome::Signal(Signal::TERMINATE));
}

#[test]
fn a_process_outlives_its_client_and_a_later_one_sees_the_tail_and_the_rest() {
    let agent = Agent::start();
    let client = agent.client();
    let mut process = client.start(&shell("echo one; read line; echo \"two $line\"").stdin()).unwrap();
    assert_eq!(process.next_output(soon(), None).unwrap(), Output::Stdout(b"one\n".to_vec()));
    let id = process.id();
    process.detach().unwrap();
    let mut process = client.attach(AttachSpec::to(id)).unwrap();
    assert_eq!(process.replay_starts_at(), (0, 0));
    assert_eq!(process.next_output(soon(), None).unwrap(), Output::Stdout(b"one\n".to_vec()));
    let stdin = process.take_stdin().unwrap();
    std::io::Write::write_all(&mut { stdin }, b"words\n").unwrap();
    assert_eq!(process.next_output(soon(), None).unwrap(), Output::Stdout(b"two words\n".to_vec()));
    assert!(matches!(process.next_output(soon(), None).unwrap(), Output::Exit(exit) if exit.success()));
    // What was seen before need not be seen again.
    let again = client.attach(AttachSpec::to(id).replay_from(4, 0)).unwrap();
    assert_eq!(again.replay_starts_at(), (4, 0));
    let seen = again.collect(b"", OutputLimits::default(), soon(), None).unwrap();
    assert_eq!(seen.stdout, b"two words\n");
}

#[test]
fn a_second_client_takes_over_and_the_first_is_told() {
    let agent = Agent::start();
    let client = agent.client();
    let spec = ProcessSpec::command(["cat"]).stdin().kill_on_disconnect();
    let mut first = client.start(&spec).unwrap();
    let mut second = client.attach(AttachSpec::to(first.id())).unwrap();
    assert!(matches!(first.next_output(soon(), None), Err(AgentError::Detached)));
    let mut stdin = second.take_stdin().unwrap();
    std::io::Write::write_all(&mut stdin, b"still here\n").unwrap();
    assert_eq!(second.next_output(soon(), None).unwrap(), Output::Stdout(b"still here\n".to_vec()));
    client.detach(second.id()).unwrap();
    assert!(matches!(second.next_output(soon(), None), Err(AgentError::Detached)));
    let listed = client.processes().unwrap();
    assert!(
        listed
            .iter()
            .any(|process| process.process == first.id() && !process.attached && process.exit.is_none())
    );
    client.signal(first.id(), Signal::KILL, SignalTarget::Process).unwrap();
    assert_eq!(client.wait(first.id(), soon()).unwrap().outcome, Outcome::Signal(Signal::KILL));
}

#[test]
fn a_detached_process_runs_on_its_own_and_is_listed() {
    let agent = Agent::start();
    let client = agent.client();
    let id = client.start_detached(&shell("echo hello; exit 3")).unwrap();
    assert_eq!(client.wait(id, soon()).unwrap().outcome, Outcome::Code(3));
    // Waiting twice gives the same.
    assert_eq!(client.wait(id, soon()).unwrap().outcome, Outcome::Code(3));
    let seen = client
        .attach(AttachSpec::to(id))
        .unwrap()
        .collect(b"", OutputLimits::default(), soon(), None)
        .unwrap();
    assert_eq!(seen.stdout, b"hello\n");
    let listed = client.processes().unwrap();
    let process = listed.iter().find(|process| process.process == id).unwrap();
    assert_eq!(process.exit.unwrap().outcome, Outcome::Code(3));
    assert_eq!(process.argv[0], "sh".into());
}

#[test]
fn a_signal_reaches_the_whole_group_or_one_alone() {
    let agent = Agent::start();
    let client = agent.client();
    // The shell ignores the signal, its child does not.
    let script = "trap 'echo shell' USR1; sh -c 'trap \"echo child; exit 0\" USR1; echo ready; while :; do read x; done' & wait; wait; echo end";
    let mut process = client.start(&shell(script)).unwrap();
    assert_eq!(process.next_output(soon(), None).unwrap(), Output::Stdout(b"ready\n".to_vec()));
    process.signal(Signal::try_from(10).unwrap(), SignalTarget::Process).unwrap();
    assert_eq!(process.next_output(soon(), None).unwrap(), Output::Stdout(b"shell\n".to_vec()));
    process.signal(Signal::KILL, SignalTarget::Group).unwrap();
    assert_eq!(process.wait(soon()).unwrap().outcome, Outcome::Signal(Signal::KILL));
    assert_eq!(
        client.signal(process.id(), Signal::KILL, SignalTarget::Group).unwrap_err().kind(),
        Some(ErrorKind::Ended)
    );
}

#[test]
fn the_end_of_a_process_does_not_wait_for_who_it_left_behind() {
    let agent = Agent::start();
    let client = agent.client();
    // The one left behind writes without end into the same pipe.
    let mut process = client.start(&shell("echo mine; (while :; do echo more; done) & exit 5")).unwrap();
    let mut stdout = process.take_stdout().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    assert_eq!(process.wait(soon()).unwrap().outcome, Outcome::Code(5));
    assert!(reader.join().unwrap().unwrap().starts_with(b"mine\n"));
    // It may go on: somebody reads what it writes.
    client.health().unwrap();
}

#[test]
fn old_processes_are_forgotten_and_names_are_never_used_twice() {
    let agent = Agent::start();
    let client = agent.client();
    let first = client.start_detached(&ProcessSpec::command(["true"])).unwrap();
    let mut last = first;
    for _ in 0..40 {
        let next = client.start_detached(&ProcessSpec::command(["true"])).unwrap();
        client.wait(next, soon()).unwrap();
        assert!(next > last);
        last = next;
    }
    assert!(client.processes().unwrap().len() <= 33);
    assert_eq!(client.wait(first, soon()).unwrap_err().kind(), Some(ErrorKind::NoSuchProcess));
}
