//! The server: reads what a client asks, and lets each call of a tool run by itself.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use serde_json::{Map, Value, json};
use vmm::CancelToken;

use super::calls::Call;
use super::lines::{LONGEST, Line, Lines};
use super::message::{self, Fault, Id, Message};
use super::sandboxes::{Sandboxes, ToolError};
use super::tools;
use crate::standard::Standard;

/// The versions of the protocol that we speak, the newest first. What lies between them has batches of messages, which
/// we do not take.
const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2024-11-05"];

/// So many calls may be under way.
const MOST_CALLS: usize = 64;

/// Serves one client on standard input and output, until it is gone or `stop` is cancelled. No sandbox is left then.
pub(super) fn serve(sandboxes: &Sandboxes, stop: &CancelToken) -> io::Result<()> {
    let server = Server {
        sandboxes,
        stop,
        output: Mutex::new(Standard { token: stop }),
        calls: Mutex::default(),
        initialized: AtomicBool::new(false),
    };
    match server.run(Lines::new(Standard { token: stop })) {
        Err(_) if stop.is_cancelled() => Ok(()),
        ended => ended,
    }
}

struct Server<'a> {
    sandboxes: &'a Sandboxes,
    stop: &'a CancelToken,
    output: Mutex<Standard<'a>>,
    calls: Mutex<HashMap<Id, CancelToken>>,
    initialized: AtomicBool,
}

impl Server<'_> {
    fn run(&self, mut lines: Lines<impl Read>) -> io::Result<()> {
        thread::scope(|scope| {
            let ended = loop {
                match lines.next() {
                    Ok(None) => break Ok(()),
                    Ok(Some(Line::Whole(line))) if line.trim_ascii().is_empty() => {}
                    Ok(Some(Line::Whole(line))) => self.take(scope, &line),
                    Ok(Some(Line::TooLong)) => {
                        let message = format!("a message has at most {LONGEST} bytes");
                        self.answer(None, Err(Fault::invalid_request(message)));
                    }
                    Err(error) => break Err(error),
                }
            };
            self.calls().values().for_each(CancelToken::cancel);
            self.sandboxes.close();
            ended
        })
    }

    fn take<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, line: &[u8]) {
        match message::read(line) {
            Ok(Message::Request { id, method, params }) => match method.as_str() {
                "tools/call" => self.call(scope, id, params),
                method => self.answer(Some(&id), self.method(method, &params)),
            },
            Ok(Message::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancel(&params);
                }
            }
            Ok(Message::Answer) => {}
            Err((id, fault)) => self.answer(id.as_ref(), Err(fault)),
        }
    }

    fn method(&self, method: &str, params: &Map<String, Value>) -> Result<Value, Fault> {
        match method {
            "initialize" => self.initialize(params),
            "ping" => Ok(json!({})),
            "tools/list" => {
                self.check_initialized()?;
                Ok(json!({ "tools": tools::list(self.sandboxes.limits()) }))
            }
            _ => Err(Fault::no_such_method(method)),
        }
    }

    fn initialize(&self, params: &Map<String, Value>) -> Result<Value, Fault> {
        let Some(wanted) = params.get("protocolVersion").and_then(Value::as_str) else {
            return Err(Fault::invalid_params("initialize: protocolVersion is a text"));
        };
        self.initialized.store(true, Ordering::Relaxed);
        // Whoever wants another one is told of our newest, and knows whether that will do.
        let version = VERSIONS.into_iter().find(|known| *known == wanted).unwrap_or(VERSIONS[0]);
        Ok(json!({
            "protocolVersion": version,
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "vmm", "version": env!("CARGO_PKG_VERSION") },
            "instructions": tools::instructions(self.sandboxes.limits()),
        }))
    }

    fn check_initialized(&self) -> Result<(), Fault> {
        if self.initialized.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Fault::invalid_request("the first request is initialize"))
    }

    /// Lets a call of a tool run by itself, so that others are heard meanwhile.
    fn call<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, id: Id, params: Map<String, Value>) {
        let begun = self.check_initialized().and_then(|()| Call::read(params)).and_then(|call| {
            let token = CancelToken::new()
                .map_err(|error| Fault { code: -32603, message: format!("cannot make a token: {error}") })?;
            let mut calls = self.calls();
            if calls.contains_key(&id) {
                return Err(Fault::invalid_request("a request of this id is under way"));
            }
            if calls.len() >= MOST_CALLS {
                return Err(Fault::invalid_request(format!(
                    "{MOST_CALLS} calls are under way: wait for one"
                )));
            }
            calls.insert(id.clone(), token.clone());
            Ok((call, token))
        });
        let (call, token) = match begun {
            Ok(begun) => begun,
            Err(fault) => return self.answer(Some(&id), Err(fault)),
        };
        let name = id.clone();
        let work = move || {
            let outcome = call.run(self.sandboxes, &token);
            self.calls().remove(&id);
            // Whoever cancelled it waits for no answer.
            if !token.is_cancelled() {
                self.answer(Some(&id), Ok(result(outcome)));
            }
        };
        if let Err(error) = thread::Builder::new().name("mcp-call".to_owned()).spawn_scoped(scope, work) {
            self.calls().remove(&name);
            self.answer(
                Some(&name),
                Err(Fault { code: -32603, message: format!("cannot start a thread: {error}") }),
            );
        }
    }

    fn cancel(&self, params: &Map<String, Value>) {
        let id = params.get("requestId").and_then(Id::of);
        // One that has just ended cannot be cancelled any more.
        if let Some(token) = id.and_then(|id| self.calls().get(&id).cloned()) {
            token.cancel();
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<Id, CancelToken>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: Option<&Id>, outcome: Result<Value, Fault>) {
        let line = message::answer(id, outcome);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
            // The client is gone.
            self.stop.cancel();
        }
    }
}

/// What a tool has done, or why not, as its caller is told.
fn result(outcome: Result<Value, ToolError>) -> Value {
    match outcome {
        Ok(value) => json!({
            "content": [{ "type": "text", "text": value.to_string() }],
            "structuredContent": value,
            "isError": false,
        }),
        Err(error) => {
            let text = match error {
                ToolError::Failed(text) => text,
                ToolError::Cancelled => "cancelled".to_owned(),
            };
            json!({ "content": [{ "type": "text", "text": text }], "isError": true })
        }
    }
}
