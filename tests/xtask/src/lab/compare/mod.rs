//! `cargo lab compare`: what a boot of the same kernel with the same arguments costs under vmm and under other monitors.

mod measured;
mod subject;

use std::process::ExitCode;

use laboratory::PROGRAMS;

use super::kept::make_folder;
use super::{Ingredients, build, folder, lock, order};
use crate::failure::{Failure, Outcome};
use measured::{Measured, Run};
use subject::{Peers, Subject};

const USAGE: &str = "\
What a boot costs under vmm and under other monitors: the same kernel, the same arguments, one processor, 256 MiB, in a
laboratory on the instruction clock, which counts a nanosecond for each instruction, whatever this machine does meanwhile.

  cargo lab compare [OPTIONS]
Options:
  --firecracker PATH        compare with this Firecracker
  --cloud-hypervisor PATH   compare with this Cloud Hypervisor
  --qemu                    compare with this machine's QEMU, as a microvm
  --runs COUNT              count so many boots of each, after a first one that is not counted (5)
  --json                    print the figures as JSON
";

/// How many boots of each are counted.
const RUNS: u32 = 5;

/// How often a subject's laboratory is started anew before it is given up.
const MOST_RESTARTS: u32 = 12;

struct Options<'a> {
    peers: Peers<'a>,
    runs: u32,
    json: bool,
}

pub(super) fn run(words: &[&str]) -> Outcome<ExitCode> {
    if let ["help" | "--help" | "-h"] = words {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = options(words)?;
    let locked = lock()?;
    let bare_boot = build::test_program("bare-boot")?;
    let folder = folder()?.join("compare");
    make_folder(&folder)?;
    let carried = subject::carried(&options.peers, bare_boot, &folder)?;
    let ingredients = Ingredients::prepare(carried)?;
    drop(locked);
    let kernel = ingredients.alpine.kernel_in(laboratory::IMAGES.as_ref());
    let subjects = subject::all(&options.peers, &kernel);
    let ruler = Ruler { ingredients };
    let mut all = Vec::new();
    for subject in &subjects {
        let (runs, restarts) = ruler.measure(subject, options.runs)?;
        all.push(Measured { name: subject.name.to_owned(), runs, restarts });
    }
    if options.json {
        println!("{:#}", measured::json(&all));
    } else {
        print!("{}", measured::table(&all));
    }
    Ok(ExitCode::SUCCESS)
}

fn options<'a>(mut words: &[&'a str]) -> Outcome<Options<'a>> {
    let mut options = Options { peers: Peers::default(), runs: RUNS, json: false };
    loop {
        words = match words {
            [] => return Ok(options),
            ["--firecracker", path, rest @ ..] => {
                options.peers.firecracker = Some(path);
                rest
            }
            ["--cloud-hypervisor", path, rest @ ..] => {
                options.peers.cloud_hypervisor = Some(path);
                rest
            }
            ["--qemu", rest @ ..] => {
                options.peers.qemu = true;
                rest
            }
            ["--runs", count, rest @ ..] => {
                options.runs = count.parse().map_err(|_| Failure::new("--runs takes a number"))?;
                rest
            }
            ["--json", rest @ ..] => {
                options.json = true;
                rest
            }
            [word, ..] => return Err(Failure::new(format!("no such option: {word}")).hint(USAGE)),
        };
    }
}

/// Laboratories on the instruction clock.
struct Ruler {
    ingredients: Ingredients,
}

impl Ruler {
    /// So many runs of a subject, without the first one in each laboratory, which finds caches cold; and how often a
    /// laboratory had to be started anew.
    fn measure(&self, subject: &Subject, wanted: u32) -> Outcome<(Vec<Run>, u32)> {
        let mut runs = Vec::new();
        for restarts in 0..=MOST_RESTARTS {
            let missing = wanted - u32::try_from(runs.len()).unwrap_or(wanted);
            eprintln!("{}: {missing} boots to count", subject.name);
            let (found, failure) = self.try_measure(subject, missing + 1)?;
            runs.extend(found.into_iter().skip(1));
            match failure {
                None if runs.len() >= wanted as usize => return Ok((runs, restarts)),
                None => return Err(Failure::new(format!("{} said less than it should", subject.name))),
                Some(failure) => eprintln!("{failure}"),
            }
        }
        Err(Failure::new(format!("{} failed {MOST_RESTARTS} times", subject.name)))
    }

    /// The runs of one laboratory, and why there are not more.
    fn try_measure(&self, subject: &Subject, count: u32) -> Outcome<(Vec<Run>, Option<Failure>)> {
        let mut session = match self.ingredients.start_on_instruction_clock() {
            Ok(session) => session,
            Err(failure) => return Ok((Vec::new(), Some(failure))),
        };
        let command = subject.command(count);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut said = Vec::new();
        let ended = session.run_quietly(&order::with_pipes(&command), subject.limit() * count, |bytes| {
            said.extend_from_slice(bytes);
        });
        let said = String::from_utf8_lossy(&said);
        let runs = said.lines().filter_map(Run::read).collect();
        match ended {
            Ok(0) => Ok((runs, None)),
            Ok(status) => {
                Err(Failure::new(format!("{} failed in the laboratory: status {status}", subject.name))
                    .hint(said))
            }
            Err(failure) => Ok((runs, Some(failure))),
        }
    }
}

/// A program on the disk of programs.
fn inside(name: &str) -> String {
    format!("{PROGRAMS}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_their_paths() {
        let options = options(&["--qemu", "--firecracker", "/f", "--runs", "2", "--json"]).unwrap();
        assert_eq!((options.peers.qemu, options.peers.firecracker, options.runs), (true, Some("/f"), 2));
        assert!(options.json && options.peers.cloud_hypervisor.is_none());
        assert!(super::options(&["--firecracker"]).is_err());
        assert!(super::options(&["--runs", "many"]).is_err());
    }
}
