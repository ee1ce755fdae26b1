//! The tools at work.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use vmm::{CancelToken, ExitStatus, Stdin};

use super::arguments::{Create, Exec, List, ReadFile, Stop, WriteFile, read};
use super::message::Fault;
use super::sandboxes::{Sandboxes, ToolError};

/// A call of a tool whose arguments can be.
#[derive(Debug)]
pub(super) enum Call {
    Create(Create),
    Exec(Exec),
    ReadFile(ReadFile),
    WriteFile { sandbox: String, path: String, contents: Vec<u8> },
    List,
    Stop(Stop),
}

impl Call {
    /// Reads what is to be called, and with what.
    pub(super) fn read(mut params: Map<String, Value>) -> Result<Self, Fault> {
        let Some(Value::String(tool)) = params.remove("name") else {
            return Err(Fault::invalid_params("a call has the name of a tool"));
        };
        let arguments = match params.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(Fault::invalid_params(format!("{tool}: the arguments are an object"))),
        };
        Ok(match tool.as_str() {
            "create" => Self::Create(read(&tool, arguments)?),
            "exec" => Self::Exec(check(read(&tool, arguments)?)?),
            "read_file" => Self::ReadFile(read(&tool, arguments)?),
            "write_file" => bytes(read(&tool, arguments)?)?,
            "list" => {
                let List {} = read(&tool, arguments)?;
                Self::List
            }
            "stop" => Self::Stop(read(&tool, arguments)?),
            _ => return Err(Fault::invalid_params(format!("there is no tool {tool:?}"))),
        })
    }

    /// Does it.
    pub(super) fn run(self, sandboxes: &Sandboxes, cancel: &CancelToken) -> Result<Value, ToolError> {
        match self {
            Self::Create(create) => {
                let entry = sandboxes.create(create, cancel)?;
                Ok(json!({
                    "sandbox": entry.sandbox.name(),
                    "image": entry.image,
                    "memory": entry.memory.to_string(),
                    "cpus": entry.cpus,
                }))
            }
            Self::Exec(wanted) => exec(sandboxes, wanted, cancel),
            Self::ReadFile(ReadFile { sandbox, path }) => {
                let entry = sandboxes.find(&sandbox)?;
                let contents = entry.sandbox.read_file(path, sandboxes.limits().output)?;
                Ok(match String::from_utf8(contents) {
                    Ok(text) => json!({ "contents": text, "contents_base64": null }),
                    Err(error) => {
                        json!({ "contents": null, "contents_base64": STANDARD.encode(error.as_bytes()) })
                    }
                })
            }
            Self::WriteFile { sandbox, path, contents } => {
                sandboxes.find(&sandbox)?.sandbox.write_file(path, &contents)?;
                Ok(json!({ "bytes": contents.len() }))
            }
            Self::List => {
                let list = sandboxes.list().into_iter().map(|(name, entry)| {
                    json!({
                        "sandbox": name,
                        "image": entry.image,
                        "memory": entry.memory.to_string(),
                        "cpus": entry.cpus,
                    })
                });
                Ok(json!({ "sandboxes": list.collect::<Vec<_>>() }))
            }
            Self::Stop(Stop { sandbox }) => {
                sandboxes.stop(&sandbox)?;
                Ok(json!({ "stopped": sandbox }))
            }
        }
    }
}

/// A command is given in one of two ways.
fn check(exec: Exec) -> Result<Exec, Fault> {
    if exec.command.is_some() == exec.argv.is_some() {
        return Err(Fault::invalid_params("exec: give either command, for the shell, or argv"));
    }
    if exec.argv.as_ref().is_some_and(Vec::is_empty) {
        return Err(Fault::invalid_params("exec: argv has at least a program"));
    }
    if exec.timeout_seconds.is_some_and(|seconds| seconds.is_nan() || seconds <= 0.0) {
        return Err(Fault::invalid_params("exec: timeout_seconds is more than nothing"));
    }
    Ok(exec)
}

fn bytes(wanted: WriteFile) -> Result<Call, Fault> {
    let WriteFile { sandbox, path, contents, contents_base64 } = wanted;
    let contents = match (contents, contents_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(encoded)) => STANDARD
            .decode(encoded)
            .map_err(|error| Fault::invalid_params(format!("write_file: contents_base64: {error}")))?,
        _ => return Err(Fault::invalid_params("write_file: give either contents or contents_base64")),
    };
    Ok(Call::WriteFile { sandbox, path, contents })
}

fn exec(sandboxes: &Sandboxes, wanted: Exec, cancel: &CancelToken) -> Result<Value, ToolError> {
    let limits = sandboxes.limits();
    let timeout = match wanted.timeout_seconds {
        None => limits.timeout,
        Some(seconds) => match Duration::try_from_secs_f64(seconds) {
            Ok(timeout) if timeout <= limits.timeout => timeout.max(Duration::from_millis(1)),
            _ => {
                let most = limits.timeout.as_secs_f64();
                return Err(ToolError::failed(format!("a command runs for at most {most} seconds")));
            }
        },
    };
    let entry = sandboxes.find(&wanted.sandbox)?;
    let shell = wanted.command.map(|command| vec!["sh".to_owned(), "-c".to_owned(), command]);
    let mut command = entry
        .sandbox
        .command(shell.or(wanted.argv).unwrap_or_default())
        .envs(wanted.env)
        .timeout(timeout)
        .output_limit(limits.output)
        .stdin(Stdin::Bytes(wanted.stdin.into_bytes()))
        .cancel_token(cancel);
    if let Some(folder) = wanted.workdir {
        command = command.workdir(folder);
    }
    if let Some(user) = wanted.user {
        command = command.user(user);
    }
    let output = command.output()?;
    Ok(json!({
        "status": output.status.shell_status(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
        "timed_out": output.status == ExitStatus::TimedOut,
        "truncated": output.truncated,
    }))
}
