//! Commands through the library, in a machine that runs: one after the other, and many at once.

use std::error::Error;
use std::io::{Read, Write};
use std::thread;
use std::time::Instant;

use vmm::{MemorySize, Sandbox, Stdin};

use vmm_benches::host;
use vmm_benches::statistics::Sample;

/// What `true` may take in half of all cases, and in all but one of a hundred, in milliseconds.
const EXEC_GOAL_MS: [f64; 2] = [5.0, 15.0];

/// What a round trip to the agent may take.
const HEALTH_GOAL_MS: f64 = 1.0;

/// So many of one kind are asked in a row, as a program that runs commands does, before the next kind: in turn, so that what
/// the host does meanwhile meets all. After another kind, a guest's first has to find the kernel's code for it again.
const IN_A_ROW: usize = 50;

/// The first of a row do not count.
const UNCOUNTED: usize = 2;

/// Commands whose streams are open at the same time.
const AT_ONCE: usize = 64;

pub(crate) fn run(commands: usize) -> Result<(), Box<dyn Error>> {
    println!("{}", host::describe());
    let sandbox = Sandbox::builder("alpine").cpus(1).memory(MemorySize::mebibytes(512)?).start()?;
    let run_true = || match sandbox.command(["true"]).output()?.status.success() {
        true => Ok(()),
        false => Err(vmm::Error::Invalid { message: "`true` failed in the guest".to_owned() }),
    };
    let (mut bare, mut health, mut stat, mut exec) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    while exec.len() < commands {
        let count = IN_A_ROW.min(commands - exec.len());
        in_a_row(count, &mut bare, || sandbox.processes().map(drop))?;
        in_a_row(count, &mut health, || sandbox.health().map(drop))?;
        in_a_row(count, &mut stat, || sandbox.stat("/etc/passwd").map(drop))?;
        in_a_row(count, &mut exec, run_true)?;
    }
    tell("`true`", exec, EXEC_GOAL_MS);
    tell("a bare round trip", bare, [HEALTH_GOAL_MS; 2]);
    tell("health", health, [HEALTH_GOAL_MS; 2]);
    tell("stat of a file", stat, EXEC_GOAL_MS);
    let began = Instant::now();
    many_at_once(&sandbox)?;
    println!("{AT_ONCE} at once: {:.0} ms, their streams apart", began.elapsed().as_secs_f64() * 1000.0);
    sandbox.kill()?;
    Ok(())
}

/// Adds the milliseconds that each of these takes.
fn in_a_row(
    count: usize,
    measured: &mut Vec<f64>,
    ask: impl Fn() -> Result<(), vmm::Error>,
) -> Result<(), vmm::Error> {
    for number in 0..count + UNCOUNTED {
        let began = Instant::now();
        ask()?;
        if number >= UNCOUNTED {
            measured.push(began.elapsed().as_secs_f64() * 1000.0);
        }
    }
    Ok(())
}

fn tell(what: &str, measured: Vec<f64>, [half, nearly_all]: [f64; 2]) {
    let sample = Sample::new(measured);
    let (p50, p99, worst) = (sample.median(), sample.quantile(0.99), sample.quantile(1.0));
    let verdict = |reached: bool| if reached { "reached" } else { "missed" };
    println!(
        "{what}: p50 {p50:.2} ms (goal {half}: {}), p99 {p99:.2} ms (goal {nearly_all}: {}), the longest {worst:.2} ms, {} times",
        verdict(p50 <= half),
        verdict(p99 <= nearly_all),
        sample.count()
    );
}

/// Each command gets words of its own and gives back them and no others.
fn many_at_once(sandbox: &Sandbox) -> Result<(), Box<dyn Error>> {
    let talk = |number: usize| -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| format!("command {number}: {error}");
        let script = "tee /dev/stderr";
        let mut process =
            sandbox.command(["sh", "-c", script]).stdin(Stdin::Piped).spawn().map_err(|e| text(&e))?;
        let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let words = format!("words of {number}\n").repeat(2000);
        let read = |stream: Option<vmm::ProcessOutput>| {
            let mut said = String::new();
            stream.ok_or("no stream".to_owned())?.read_to_string(&mut said).map_err(|e| text(&e))?;
            if said == words { Ok(()) } else { Err(text(&"it said something else")) }
        };
        thread::scope(|scope| {
            let readers = [scope.spawn(|| read(stdout)), scope.spawn(|| read(stderr))];
            let mut stdin = stdin.ok_or("no input".to_owned())?;
            stdin.write_all(words.as_bytes()).map_err(|e| text(&e))?;
            drop(stdin);
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().map_err(|_| text(&"a reader panicked"))?)
        })?;
        let status = process.wait().map_err(|e| text(&e))?;
        if status.success() { Ok(()) } else { Err(text(&status)) }
    };
    let talk = &talk;
    thread::scope(|scope| {
        let talks: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || talk(number))).collect();
        talks.into_iter().try_for_each(|talk| talk.join().map_err(|_| "a talk panicked".to_owned())?)
    })?;
    Ok(())
}
