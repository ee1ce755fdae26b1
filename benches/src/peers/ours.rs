//! Ourselves: the command line where a whole process is measured, the library in a VM that runs.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use vmm::{CopyOptions, DEFAULT_STOP_GRACE, Home, Sandbox};

use super::{ANSWER, Booted, Context, Machine, Peer, Run, many, milliseconds};
use crate::bounded::{Limit, Running, output};
use crate::report::Absent;
use crate::trouble::Trouble;

pub(crate) const NAME: &str = "vmm";
pub(crate) const NAME_WITH_KERNEL: &str = "vmm-kernel";

pub(crate) struct Ours {
    /// The kernel of its VMs, if it is not the image's.
    pub(crate) kernel: Option<String>,
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        if self.kernel.is_some() { NAME_WITH_KERNEL } else { NAME }
    }

    fn title(&self) -> &'static str {
        if self.kernel.is_some() { "vmm --kernel" } else { "vmm" }
    }

    fn note(&self) -> &'static str {
        if self.kernel.is_some() {
            "The same with the kernel that was named, in place of the image's."
        } else {
            "Starts are whole processes, from the exec of `vmm`; commands and files in a VM that runs go through the library."
        }
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        let mut version = Command::new(&context.vmm);
        version.arg("version");
        let said = output(version, "vmm version", &context.limit());
        // Who develops looks at figures of such a build sometimes; nobody else should.
        let build = if cfg!(debug_assertions) { ", a debug build" } else { "" };
        said.map(|said| format!("{}{build}", said.trim()))
            .map_err(|trouble| super::absent(trouble.to_string(), "install vmm"))
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        let mut run = command(context, self.kernel.as_deref(), memory);
        // The first answer is a word on its standard output; `true` has none.
        run.args([&context.image, "--", "echo", ANSWER]);
        let mut running = Running::start(run, "vmm run")?;
        let began = running.began();
        let answer = running.wait_for(limit, |line| (line.text == ANSWER).then_some(line.at))?;
        let end = running.finish(limit)?;
        Ok(Run { answer: milliseconds(answer - began), whole: milliseconds(end - began) })
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        let (machine, ready) = OurMachine::boot(context, self.kernel.as_deref(), memory, limit)?;
        Ok((Box::new(machine), ready))
    }
}

fn command(context: &Context, kernel: Option<&str>, memory: u64) -> Command {
    let mut command = Command::new(&context.vmm);
    command.args(["--quiet", "run", "--cpus", "1", "--memory"]).arg(format!("{memory}M"));
    command.args(kernel.iter().flat_map(|kernel| ["--kernel", kernel]));
    command.env("VMM_HOME", context.home.root());
    command
}

/// A VM that is removed when this is dropped.
pub(crate) struct OurMachine {
    home: Home,
    name: String,
    sandbox: Option<Sandbox>,
}

impl OurMachine {
    /// Starts one, and says how many milliseconds that took.
    pub(crate) fn boot(
        context: &Context,
        kernel: Option<&str>,
        memory: u64,
        limit: &Limit,
    ) -> Result<(Self, f64), Trouble> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        // From here on it is removed, however far it comes.
        let mut machine = Self { home: context.home.clone(), name, sandbox: None };
        let mut run = command(context, kernel, memory);
        run.args(["--detach", "--name", &machine.name, &context.image]);
        let running = Running::start(run, "vmm run --detach")?;
        let began = running.began();
        let ready = running.finish(limit)?;
        machine.sandbox = Some(Sandbox::attach(&machine.home, &machine.name)?);
        Ok((machine, milliseconds(ready - began)))
    }

    /// The handle on it.
    pub(crate) fn sandbox(&self) -> Result<&Sandbox, Trouble> {
        self.sandbox.as_ref().ok_or_else(|| Trouble::Failed("the VM is gone".to_owned()))
    }
}

impl Drop for OurMachine {
    fn drop(&mut self) {
        if let Ok(sandbox) = Sandbox::attach(&self.home, &self.name) {
            // What cannot be removed is still listed by `vmm ps`, under a name that says whose it was.
            let _ = sandbox.remove(true);
        }
    }
}

fn exec_true(sandbox: &Sandbox, limit: &Limit) -> Result<f64, Trouble> {
    let left = limit.left("`true`")?;
    let began = Instant::now();
    let output = sandbox.command(["true"]).timeout(left).cancel_token(limit.token()).output()?;
    let took = milliseconds(began.elapsed());
    if output.status.success() {
        Ok(took)
    } else {
        Err(Trouble::Failed("`true` failed in the guest".to_owned()))
    }
}

impl Machine for OurMachine {
    fn exec(&mut self, count: usize, limit: &Limit) -> Result<Vec<f64>, Trouble> {
        let sandbox = self.sandbox()?;
        (0..count).map(|_| exec_true(sandbox, limit)).collect()
    }

    fn exec_many(&mut self, count: usize, at_once: usize, limit: &Limit) -> Result<f64, Trouble> {
        let sandbox = self.sandbox()?;
        many(count, at_once, || exec_true(sandbox, limit))
    }

    fn shell(&mut self, script: &str, limit: &Limit) -> Result<f64, Trouble> {
        let left = limit.left("a command in the guest")?;
        let began = Instant::now();
        let command = self.sandbox()?.command(["sh", "-c", script]);
        let output = command.timeout(left).cancel_token(limit.token()).output()?;
        let took = milliseconds(began.elapsed());
        if output.status.success() {
            return Ok(took);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Trouble::Failed(format!("`{script}` failed in the guest: {said}")))
    }

    fn copy_in(&mut self, from: &Path, to: &str, limit: &Limit) -> Result<f64, Trouble> {
        let options = CopyOptions::default().cancel(limit.token());
        let began = Instant::now();
        self.sandbox()?.copy_in([from], to, &options)?;
        Ok(milliseconds(began.elapsed()))
    }

    fn copy_out(&mut self, from: &str, to: &Path, limit: &Limit) -> Result<f64, Trouble> {
        let options = CopyOptions::default().cancel(limit.token());
        let began = Instant::now();
        self.sandbox()?.copy_out([from], to, &options)?;
        Ok(milliseconds(began.elapsed()))
    }

    fn processes(&mut self, _limit: &Limit) -> Result<Vec<u32>, Trouble> {
        let info = self.sandbox()?.info()?;
        Ok(info.monitor_pid.into_iter().chain(info.processes).collect())
    }

    fn stop(self: Box<Self>, _limit: &Limit) -> Result<f64, Trouble> {
        let began = Instant::now();
        self.sandbox()?.stop(DEFAULT_STOP_GRACE)?;
        Ok(milliseconds(began.elapsed()))
    }
}
