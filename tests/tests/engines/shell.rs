//! A shell in a machine, through a real terminal.

use rustix::process::Signal;
use vmm_tests::{Terminal, TestHome, TestVm};

/// A shell whose prompt can be waited for.
fn prompt(terminal: &mut Terminal) {
    terminal.types_line("PS1='prompt''> '");
    terminal.sees("prompt> ");
    terminal.forgets();
}

/// Something that runs until it is stopped. A key that comes while the shell still edits the line is only a byte to it.
fn sleep(terminal: &mut Terminal) {
    terminal.types_line("sh -c 'echo sleeping=$((40+1)); exec sleep 1000'");
    terminal.sees("sleeping=41");
}

#[test]
fn run_without_a_command_is_a_login_shell_with_job_control_that_survives_control_c() {
    let home = TestHome::new();
    let mut terminal = Terminal::run(home.vmm(["run", "alpine"]), 24, 80);
    terminal.sees("# ");
    terminal.types_line("echo shell=$0 term=$TERM home=$HOME");
    terminal.sees("term=xterm home=/root");
    terminal.forgets();
    prompt(&mut terminal);

    sleep(&mut terminal);
    terminal.presses_control('c');
    terminal.sees("prompt> ");
    terminal.forgets();

    sleep(&mut terminal);
    terminal.presses_control('z');
    terminal.sees("Stopped");
    terminal.types_line("bg; jobs; kill %1; wait; echo survived=$((40+2))");
    terminal.sees("survived=42");

    // Between two commands the terminal is not the line editor's: a Ctrl-D that came then would be lost.
    terminal.types_line("(echo wri''tten; exit 9)");
    terminal.sees("written\r\nprompt> ");
    terminal.presses_control('d');
    assert_eq!(terminal.ends(), 9);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn people_come_to_a_machine_with_their_terminals_and_leave() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    the_window_has_the_size_that_the_person_gives_it(&vm);
    the_terminal_is_as_it_was_afterwards(&vm);
    a_second_terminal_can_join(&vm);
}

fn the_window_has_the_size_that_the_person_gives_it(vm: &TestVm<'_>) {
    let mut terminal = Terminal::run(vm.exec_with(&["-it"], &["sh"]), 33, 101);
    terminal.sees("# ");
    terminal.types_line("stty size");
    terminal.sees("33 101");
    // What tells of a new size is for the job in the foreground. A shell that waits for a line would be that, too, but
    // BusyBox's looks for signals a moment before it waits: one in between is acted upon after the next key only.
    terminal.types_line(
        "sh -c 'trap \"echo now \\$(stty size)\" WINCH; echo rea''dy; while :; do sleep 0.1; done'",
    );
    terminal.sees("ready");
    terminal.resizes(40, 132);
    terminal.sees("now 40 132");
    terminal.forgets();
    terminal.presses_control('c');
    terminal.sees("# ");
    terminal.types_line("exit");
    terminal.ends();
}

fn the_terminal_is_as_it_was_afterwards(vm: &TestVm<'_>) {
    let mut terminal = Terminal::run(vm.exec_with(&["-it"], &["sh"]), 24, 80);
    terminal.sees("# ");
    assert!(terminal.is_raw());
    // A process that is killed cannot clean up, but one that is asked to end can.
    terminal.types_line("exit");
    let process = terminal.process();
    assert!(process.ends_within(vmm_tests::PATIENCE));
    assert!(!terminal.is_raw());
    terminal.ends();
}

fn a_second_terminal_can_join(vm: &TestVm<'_>) {
    let mut first = Terminal::run(vm.exec_with(&["-it"], &["sh"]), 24, 80);
    let mut second = Terminal::run(vm.exec_with(&["-it"], &["sh"]), 24, 80);
    first.sees("# ");
    second.sees("# ");
    first.types_line("echo from first > /tmp/word");
    first.types_line("echo wri''tten");
    first.sees("written");
    second.types_line("cat /tmp/word");
    second.sees("from first");
    for terminal in [&mut first, &mut second] {
        terminal.types_line("exit");
    }
    assert_eq!((first.ends(), second.ends()), (0, 0));
}

#[test]
fn a_window_that_is_closed_takes_its_machine_with_it() {
    let home = TestHome::new();
    let mut terminal = Terminal::run(home.vmm(["run", "-it", "alpine", "--", "sh"]), 24, 80);
    terminal.sees("# ");
    terminal.closes();
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_terminal_is_refused_where_there_is_none() {
    let home = TestHome::new();
    home.vmm(["run", "-it", "alpine", "--", "sh"]).run().refused_saying(&["terminal"]);
}

#[test]
fn control_c_at_every_stage_of_run_leaves_nothing() {
    let home = TestHome::new();
    // From before the first look at the store to long after the boot.
    for milliseconds in [0u64, 5, 20, 60, 150, 400, 900, 1800, 3500] {
        let run = home.vmm(["run", "alpine", "--", "sleep", "1000"]).start();
        assert!(!run.process().ends_within(std::time::Duration::from_millis(milliseconds)));
        run.signal(Signal::INT);
        let (status, said) = run.end();
        assert_eq!(status, 130, "after {milliseconds} ms: {said}");
        home.wait_until_quiet();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "after {milliseconds} ms");
    }
}
