//! Processes on a terminal.

use std::io::Write;

use vmm::agent::{AgentProcess, ErrorKind, Exit, Outcome, Output, ProcessSpec, Signal, TerminalSize};

use crate::{Agent, shell, soon};

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// A process on a terminal, and what it has shown.
struct Terminal {
    process: AgentProcess,
    shown: String,
}

impl Terminal {
    fn start(agent: &Agent, spec: &ProcessSpec) -> Self {
        let process = agent.client().start(&spec.clone().terminal(SIZE).stdin()).unwrap();
        Self { process, shown: String::new() }
    }

    /// Reads until the text has come; gives all that came with it and before it. What comes behind stays.
    fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(position) = self.shown.find(text) {
                let rest = self.shown.split_off(position + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            match self.process.next_output(soon(), None) {
                Ok(Output::Stdout(bytes)) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} came instead of {text:?}; before it {:?}", self.shown),
            }
        }
    }

    fn expect_end(mut self) -> Exit {
        loop {
            if let Output::Exit(exit) = self.process.next_output(soon(), None).unwrap() {
                return exit;
            }
        }
    }
}

#[test]
fn a_terminal_is_one_and_has_the_size_it_was_given() {
    let agent = Agent::start();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; tty";
    let mut terminal = Terminal::start(&agent, &shell(script));
    assert_eq!(terminal.expect("/dev/pts/"), "24 80\r\nxterm\r\n/dev/pts/");
    assert!(terminal.expect_end().success());
}

#[test]
fn programs_are_told_of_a_new_size() {
    let agent = Agent::start();
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do read x; done";
    let mut terminal = Terminal::start(&agent, &shell(script));
    let id = terminal.process.id();
    terminal.expect("ready");
    terminal.process.resize(TerminalSize { rows: 50, columns: 132 }).unwrap();
    terminal.expect("50 132");
    assert!(terminal.expect_end().success());
    let error = agent.client().resize(id, SIZE).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Ended));
}

#[test]
fn a_shell_has_job_control_and_survives_ctrl_c() {
    let agent = Agent::start();
    let spec = ProcessSpec::command(["bash", "--norc", "--noprofile", "-i"]).environment("PS1", "prompt> ");
    let mut terminal = Terminal::start(&agent, &spec);
    let mut stdin = terminal.process.take_stdin().unwrap();
    terminal.expect("prompt> ");
    // The job says when it has the terminal, at first and again: keys pressed before would be the shell's.
    let job = r#"sh -c 'trap "echo ba"ck CONT; echo u"p"; while :; do read x; done'"#;
    stdin.write_all(job.as_bytes()).unwrap();
    stdin.write_all(b"\n").unwrap();
    terminal.expect("up\r\n");
    stdin.write_all(b"\x1a").unwrap();
    terminal.expect("Stopped");
    stdin.write_all(b"fg\n").unwrap();
    terminal.expect("back\r\n");
    stdin.write_all(b"\x03").unwrap();
    terminal.expect("prompt> ");
    stdin.write_all(b"echo status $?\n").unwrap();
    terminal.expect("status 130");
    // Before its prompt, the shell has not taken the terminal back, and the key would be lost.
    terminal.expect("prompt> ");
    // The end of the input is Ctrl-D, which ends a shell.
    drop(stdin);
    assert_eq!(terminal.expect_end().shell_status(), 0);
}

#[test]
fn the_last_words_on_a_terminal_arrive_before_the_end() {
    let agent = Agent::start();
    for _ in 0..20 {
        let mut process = agent.client().start(&shell("seq 500; echo last").terminal(SIZE)).unwrap();
        let mut text = Vec::new();
        let exit = loop {
            match process.next_output(soon(), None).unwrap() {
                Output::Stdout(bytes) => text.extend(bytes),
                Output::Stderr(bytes) => panic!("{bytes:?} on a terminal's standard error"),
                Output::Exit(exit) => break exit,
            }
        };
        assert!(exit.success());
        assert!(text.ends_with(b"\r\n500\r\nlast\r\n"));
    }
}

#[test]
fn what_runs_on_a_terminal_ends_with_its_client() {
    let agent = Agent::start();
    let client = agent.client();
    // As a shell does, it ignores a request to end. Its input ends as well, which it does not read.
    let spec = shell("trap '' TERM; echo ready; sleep 1000").kill_on_disconnect();
    let mut terminal = Terminal::start(&agent, &spec);
    terminal.expect("ready");
    let id = terminal.process.id();
    drop(terminal);
    assert_eq!(client.wait(id, soon()).unwrap().outcome, Outcome::Signal(Signal::HANGUP));
}

#[test]
fn a_process_without_a_terminal_cannot_be_resized() {
    let agent = Agent::start();
    let process = agent.client().start(&ProcessSpec::command(["cat"]).stdin().kill_on_disconnect()).unwrap();
    assert_eq!(process.resize(SIZE).unwrap_err().kind(), Some(ErrorKind::NoTerminal));
}
