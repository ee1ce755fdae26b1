//! A real pseudo-terminal with a program in it: what a person types, sees and drags to another size.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::invocation::{Invocation, wait};
use crate::processes::Process;
use crate::running::Heard;

/// The person's side of a terminal, and the program that runs in it.
pub struct Terminal {
    keyboard: File,
    screen: Heard,
    /// The screen is watched while this is open.
    watching: Option<PipeWriter>,
    child: Child,
    what: String,
}

impl Terminal {
    /// Runs a program in a terminal of this size.
    pub fn run(program: Invocation, rows: u16, columns: u16) -> Self {
        let program = program.into_command();
        let ours =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("the terminal is ours");
        let name = ptsname(&ours, Vec::new()).expect("the terminal's name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = File::from(rustix::fs::open(&name, flags, Mode::empty()).expect("the program's side"));
        set_size(&ours, rows, columns);

        // `setsid -c` makes it the program's own terminal, so that Ctrl-C and a change of size reach it.
        let mut command = Command::new("setsid");
        command.arg("-c").arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(folder) = program.get_current_dir() {
            command.current_dir(folder);
        }
        command.env("TERM", "xterm");
        let side = || Stdio::from(theirs.try_clone().expect("another descriptor"));
        command.stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().expect("setsid is a part of every Linux");
        let (closing, watching) = io::pipe().expect("a pipe");
        let screen = Screen { terminal: File::from(ours.try_clone().expect("another descriptor")), closing };
        Self {
            keyboard: File::from(ours),
            screen: Heard::from(screen),
            watching: Some(watching),
            child,
            what: format!("{program:?}"),
        }
    }

    /// Types.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Types a line.
    pub fn types_line(&mut self, line: &str) {
        self.types(line);
        self.types("\r");
    }

    /// Presses Ctrl and a letter.
    pub fn presses_control(&mut self, letter: char) {
        let code = u8::try_from(letter).expect("a letter") & 0x1f;
        self.keyboard.write_all(&[code]).expect("the terminal takes keys");
    }

    /// Waits until the screen has shown this since [`Terminal::forgets`]; returns everything shown.
    #[track_caller]
    pub fn sees(&mut self, words: &str) -> String {
        self.screen.expect(words, &self.what)
    }

    /// Looks away: what was shown so far does not count any more.
    pub fn forgets(&mut self) {
        self.screen.forget();
    }

    /// Drags the window to another size.
    pub fn resizes(&self, rows: u16, columns: u16) {
        set_size(&self.keyboard, rows, columns);
    }

    /// Whether the terminal is in raw mode: what is typed is not echoed by the host.
    pub fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.keyboard).expect("the terminal's modes");
        !modes.local_modes.contains(rustix::termios::LocalModes::ECHO)
    }

    /// The process that runs in it.
    pub fn process(&self) -> Process {
        Process::open(self.child.id())
    }

    /// Waits for the program's end; its status.
    pub fn ends(mut self) -> i32 {
        wait(&mut self.child, &self.what).code().unwrap_or(-1)
    }

    /// The person closes the window: the program loses its terminal. Waits for its end.
    pub fn closes(mut self) -> i32 {
        self.watching = None;
        // Whoever watches the screen has it open too.
        self.screen.rest();
        let null = File::options().write(true).open("/dev/null").expect("Linux has one");
        drop(std::mem::replace(&mut self.keyboard, null));
        wait(&mut self.child, &self.what).code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the terminal shows, until nobody watches any more.
struct Screen {
    terminal: File,
    closing: PipeReader,
}

impl Read for Screen {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut waited =
            [PollFd::new(&self.terminal, PollFlags::IN), PollFd::new(&self.closing, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut waited, None))?;
        let [terminal, closing] = waited.map(|waited| !waited.revents().is_empty());
        if closing && !terminal { Ok(0) } else { self.terminal.read(bytes) }
    }
}

fn set_size(terminal: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Terminal {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Terminal::run(Invocation::new(command), 24, 80)
    }

    #[test]
    fn a_program_sees_what_is_typed_and_the_size_of_the_window() {
        let mut terminal = shell("stty size; read line; echo \"<$line>\"; exit 3");
        terminal.sees("24 80");
        terminal.types_line("hello");
        terminal.sees("<hello>");
        assert_eq!(terminal.ends(), 3);
    }

    #[test]
    fn control_c_and_a_new_size_reach_the_program() {
        let mut terminal = shell(
            "trap 'echo interrupted; exit 4' INT; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done",
        );
        terminal.sees("ready");
        terminal.resizes(30, 100);
        terminal.sees("30 100");
        terminal.presses_control('c');
        terminal.sees("interrupted");
        assert_eq!(terminal.ends(), 4);
    }

    #[test]
    fn a_window_that_is_closed_hangs_up_its_program() {
        let mut terminal = shell("trap 'exit 5' HUP; echo ready; while :; do read x; done");
        terminal.sees("ready");
        assert_eq!(terminal.closes(), 5);
    }
}
