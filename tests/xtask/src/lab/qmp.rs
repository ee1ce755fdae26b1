//! What is said to QEMU's monitor to freeze a laboratory: QMP, JSON in lines.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};

/// A connection to the monitor.
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Reads the greeting, and has memory that is a file left out of states: it is there already. No answer may take
    /// longer than the limit.
    pub(super) fn new(stream: UnixStream, limit: Duration) -> Outcome<Self> {
        stream.set_read_timeout(Some(limit)).map_err(|error| broken(&error))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.wait_for(|message| message.get("QMP").cloned())?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        let capabilities =
            ["x-ignore-shared", "events"].map(|name| json!({ "capability": name, "state": true }));
        monitor.execute("migrate-set-capabilities", &json!({ "capabilities": capabilities }))?;
        Ok(monitor)
    }

    /// Stops the machine and writes its state into a file.
    pub(super) fn save(&mut self, state: &str) -> Outcome {
        self.execute("stop", &json!({}))?;
        self.execute("migrate", &json!({ "uri": format!("file:{state}") }))?;
        self.wait_for_migration("save")
    }

    /// Reads the state from a file, and has the machine go on.
    pub(super) fn restore(&mut self, state: &str) -> Outcome {
        self.execute("migrate-incoming", &json!({ "uri": format!("file:{state}") }))?;
        self.wait_for_migration("restore")?;
        // It was saved as one that stands still.
        self.execute("cont", &json!({}))
    }

    fn wait_for_migration(&mut self, deed: &str) -> Outcome {
        let end = self.wait_for(|message| {
            let status = message.pointer("/data/status")?.as_str()?;
            (message.get("event")? == "MIGRATION" && ["completed", "failed"].contains(&status))
                .then(|| status.to_owned())
        })?;
        if end == "completed" {
            Ok(())
        } else {
            Err(Failure::new(format!("QEMU cannot {deed} the laboratory")))
        }
    }

    /// Has QEMU end.
    pub(super) fn quit(mut self) -> Outcome {
        self.execute("quit", &json!({}))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Outcome {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_ref(), "{request}").map_err(|error| broken(&error))?;
        let refusal = self.wait_for(|message| {
            let refusal = message.pointer("/error/desc").map(Value::to_string);
            (refusal.is_some() || message.get("return").is_some()).then_some(refusal)
        })?;
        match refusal {
            None => Ok(()),
            Some(reason) => Err(Failure::new(format!("QEMU refuses `{command}`: {reason}"))),
        }
    }

    /// Passes over what is said in between.
    fn wait_for<T>(&mut self, mut wanted: impl FnMut(&Value) -> Option<T>) -> Outcome<T> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).map_err(|error| broken(&error))? == 0 {
                return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            let message = serde_json::from_str(&line)
                .map_err(|error| Failure::new(format!("QEMU's monitor says no JSON: {error}")))?;
            if let Some(found) = wanted(&message) {
                return Ok(found);
            }
        }
    }
}

fn broken(error: &io::Error) -> Failure {
    Failure::new(format!("QEMU's monitor does not answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays QEMU: answers each command with the next of these lines.
    fn play(answers: &'static [&'static str]) -> UnixStream {
        let (ours, mut far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            far.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut requests = BufReader::new(far.try_clone().unwrap()).lines();
            for answer in answers {
                requests.next().unwrap().unwrap();
                far.write_all(answer.as_bytes()).unwrap();
            }
        });
        ours
    }

    const LIMIT: Duration = Duration::from_secs(60);
    const DONE: &str = "{\"return\": {}}\n";

    #[test]
    fn a_state_is_saved_when_qemu_says_so() {
        const SAVED: &str = "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n{\"return\": {}}\n\
            {\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n";
        let mut monitor = Monitor::new(play(&[DONE, DONE, DONE, SAVED, DONE]), LIMIT).unwrap();
        monitor.save("state").unwrap();
        monitor.quit().unwrap();
    }

    #[test]
    fn a_refusal_and_an_end_are_failures() {
        let refusing =
            play(&[DONE, DONE, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no room\"}}\n"]);
        let failure = Monitor::new(refusing, LIMIT).unwrap().save("state").unwrap_err().to_string();
        assert!(failure.contains("no room"), "{failure}");
        assert!(Monitor::new(play(&[]), LIMIT).is_err());
    }
}
