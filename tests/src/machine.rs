//! A machine that runs in the background of a test.

use serde_json::Value;

use crate::home::TestHome;
use crate::invocation::{Finished, Invocation};
use crate::processes::Process;

/// A named machine that stays until it is stopped; dropping it kills it.
pub struct TestVm<'a> {
    home: &'a TestHome,
    name: String,
}

impl<'a> TestVm<'a> {
    pub(crate) fn start(home: &'a TestHome, name: &str, image: &str, options: &[&str]) -> Self {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(options);
        arguments.push(image);
        home.vmm(arguments).run().succeeded();
        Self { home, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `vmm exec` with options such as `-i`, and a command.
    pub fn exec_with(&self, options: &[&str], command: &[&str]) -> Invocation {
        let mut arguments = vec!["exec"];
        arguments.extend(options);
        arguments.extend([self.name(), "--"]);
        arguments.extend(command);
        self.home.vmm(arguments)
    }

    /// `vmm exec` of a command.
    pub fn exec(&self, command: &[&str]) -> Finished {
        self.exec_with(&[], command).run()
    }

    /// `vmm exec` of a line for the guest's shell.
    pub fn shell(&self, line: &str) -> Finished {
        self.exec(&["sh", "-c", line])
    }

    /// What `vmm ps` says of it.
    pub fn info(&self) -> Value {
        let machine = self.home.ps().into_iter().find(|machine| machine["name"] == self.name());
        machine.unwrap_or_else(|| panic!("vmm ps does not list {}", self.name))
    }

    /// Its monitor.
    pub fn monitor(&self) -> Process {
        let pid = self.info()["monitor_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Process::open(pid.expect("a machine that runs has a monitor"))
    }

    /// The other processes of it: on the software engine, QEMU.
    pub fn processes(&self) -> Vec<Process> {
        let info = self.info();
        let pids = info["processes"].as_array().expect("a list of processes");
        pids.iter().filter_map(|pid| Some(Process::open(u32::try_from(pid.as_u64()?).ok()?))).collect()
    }

    /// Shuts it down in order.
    pub fn stop(&self) -> Finished {
        self.home.vmm(["stop", self.name()]).run()
    }
}

impl Drop for TestVm<'_> {
    fn drop(&mut self) {
        // It may have been stopped or removed by the test itself.
        let _ = self.home.vmm(["kill", self.name()]).run();
    }
}
