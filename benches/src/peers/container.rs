//! A container of Alpine, by Docker or Podman: the baseline that shares the host's kernel and is no machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vmm::CancelToken;

use super::{ANSWER, Booted, Context, Machine, Peer, Run, absent, many, milliseconds};
use crate::bounded::{Limit, Running, output};
use crate::report::Absent;
use crate::trouble::Trouble;

const IMAGE: &str = "alpine:latest";

/// How long the removal of a container may take.
const REMOVAL: Duration = Duration::from_secs(30);

pub(crate) const DOCKER: Container = Container {
    name: "docker",
    title: "Docker",
    install: "apt-get install docker.io && docker pull alpine:latest",
};

pub(crate) const PODMAN: Container = Container {
    name: "podman",
    title: "Podman",
    install: "apt-get install podman && podman pull alpine:latest",
};

pub(crate) struct Container {
    name: &'static str,
    title: &'static str,
    install: &'static str,
}

impl Container {
    fn program(&self, context: &Context) -> Result<PathBuf, Trouble> {
        let program = context.program(self.name, &[self.name]);
        program.ok_or_else(|| Trouble::Failed(format!("there is no {}", self.name)))
    }

    /// A container that is removed when it is dropped, whether it exists or not.
    fn named(&self, context: &Context) -> Result<Named, Trouble> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmm-bench-{}-{number}", std::process::id());
        Ok(Named { program: self.program(context)?, name, gone: false })
    }
}

impl Peer for Container {
    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn note(&self) -> &'static str {
        "A container: it shares the host's kernel, and is no machine. Each of its commands is a process of its client's."
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        let missing = |why: String| absent(why, self.install);
        let program = self.program(context).map_err(|trouble| missing(trouble.to_string()))?;
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(arguments);
            output(command, self.name, &context.limit())
        };
        let version = ask(&["--version"]).map_err(|trouble| missing(trouble.to_string()))?;
        // Nothing is fetched in a benchmark; and who asks for an image learns whether the service runs.
        ask(&["image", "inspect", IMAGE])
            .map_err(|trouble| missing(format!("it does not run, or has no image {IMAGE}: {trouble}")))?;
        Ok(version.trim().to_owned())
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        let mut container = self.named(context)?;
        let mut run = container.command(&["run", "--rm", "--name", &container.name]);
        run.args(["--cpus", "1", "--memory", &format!("{memory}m"), IMAGE, "echo", ANSWER]);
        let mut running = Running::start(run, self.name)?;
        let began = running.began();
        let answer = running.wait_for(limit, |line| (line.text == ANSWER).then_some(line.at))?;
        let end = running.finish(limit)?;
        container.gone = true;
        Ok(Run { answer: milliseconds(answer - began), whole: milliseconds(end - began) })
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        let container = self.named(context)?;
        let mut run = container.command(&["run", "--detach", "--init", "--name", &container.name]);
        run.args(["--cpus", "1", "--memory", &format!("{memory}m"), IMAGE, "sleep", "100000"]);
        let running = Running::start(run, self.name)?;
        let began = running.began();
        let ready = running.finish(limit)?;
        Ok((Box::new(container), milliseconds(ready - began)))
    }
}

struct Named {
    program: PathBuf,
    name: String,
    /// There is nothing to remove any more.
    gone: bool,
}

impl Named {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    /// Runs the client; how long it took.
    fn timed(&self, arguments: &[&str], limit: &Limit) -> Result<f64, Trouble> {
        let running = Running::start(self.command(arguments), "the container's client")?;
        let began = running.began();
        Ok(milliseconds(running.finish(limit)? - began))
    }

    fn exec_true(&self, limit: &Limit) -> Result<f64, Trouble> {
        self.timed(&["exec", &self.name, "true"], limit)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // Whoever gave up wants it removed all the same.
        if let Ok(token) = CancelToken::new() {
            let _ = self.timed(&["rm", "--force", &self.name], &Limit::new(&token, REMOVAL));
        }
    }
}

impl Machine for Named {
    fn exec(&mut self, count: usize, limit: &Limit) -> Result<Vec<f64>, Trouble> {
        (0..count).map(|_| self.exec_true(limit)).collect()
    }

    fn exec_many(&mut self, count: usize, at_once: usize, limit: &Limit) -> Result<f64, Trouble> {
        let ourselves = &*self;
        many(count, at_once, || ourselves.exec_true(limit))
    }

    fn shell(&mut self, script: &str, limit: &Limit) -> Result<f64, Trouble> {
        self.timed(&["exec", &self.name, "sh", "-c", script], limit)
    }

    fn copy_in(&mut self, from: &Path, to: &str, limit: &Limit) -> Result<f64, Trouble> {
        self.timed(&["cp", &from.to_string_lossy(), &format!("{}:{to}", self.name)], limit)
    }

    fn copy_out(&mut self, from: &str, to: &Path, limit: &Limit) -> Result<f64, Trouble> {
        self.timed(&["cp", &format!("{}:{from}", self.name), &to.to_string_lossy()], limit)
    }

    fn has_own_kernel(&self) -> bool {
        false
    }

    fn processes(&mut self, limit: &Limit) -> Result<Vec<u32>, Trouble> {
        let inspect = self.command(&["inspect", "--format", "{{.State.Pid}}", &self.name]);
        let pid: u32 = output(inspect, "the container's client", limit)?
            .trim()
            .parse()
            .map_err(|_| Trouble::Failed("the container has no process".to_owned()))?;
        // Its first process, what it runs, and the one that watches over it on the host.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        let below = crate::bounded::descendants(pid);
        Ok(std::iter::once(pid).chain(parent.filter(|&parent| parent > 1)).chain(below).collect())
    }

    fn stop(self: Box<Self>, limit: &Limit) -> Result<f64, Trouble> {
        let took = self.timed(&["stop", &self.name], limit)?;
        Ok(took)
    }
}
