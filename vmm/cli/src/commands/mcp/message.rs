//! Messages of JSON-RPC 2.0, as far as MCP uses it.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Why a request is none, by JSON-RPC's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn parse(message: impl Into<String>) -> Self {
        Self { code: -32700, message: message.into() }
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self { code: -32600, message: message.into() }
    }

    pub(super) fn no_such_method(method: &str) -> Self {
        Self { code: -32601, message: format!("there is no method {method:?}") }
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into() }
    }
}

/// The name of a request: a text or a whole number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Number(number) => number.as_i64().map(Self::Number),
            _ => None,
        }
    }
}

/// What a client says.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Request {
        id: Id,
        method: String,
        params: Map<String, Value>,
    },
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// An answer to what we never ask.
    Answer,
}

/// Reads a line. What is wrong with it is told to whoever asked, as far as that can be known.
pub(super) fn read(line: &[u8]) -> Result<Message, (Option<Id>, Fault)> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| (None, Fault::parse(format!("the line is no JSON: {error}"))))?;
    let Value::Object(mut object) = value else {
        return Err((None, Fault::invalid_request("a message is an object, and one to a line")));
    };
    let id = object.get("id").map(Id::of);
    let known = id.clone().flatten();
    let fault = |message: &str| (known.clone(), Fault::invalid_request(message));
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(fault("a message has \"jsonrpc\": \"2.0\""));
    }
    let method = match object.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err(fault("a method is a text")),
        None if object.contains_key("result") || object.contains_key("error") => return Ok(Message::Answer),
        None => return Err(fault("a request has a method")),
    };
    let params = match object.remove("params") {
        Some(Value::Object(params)) => params,
        None => Map::new(),
        Some(_) => {
            return Err((known.clone(), Fault::invalid_params("the parameters of a method are an object")));
        }
    };
    match id {
        Some(Some(id)) => Ok(Message::Request { id, method, params }),
        Some(None) => Err(fault("an id is a text or a whole number")),
        None => Ok(Message::Notification { method, params }),
    }
}

/// An answer, as a line.
pub(super) fn answer(id: Option<&Id>, outcome: Result<Value, Fault>) -> String {
    let answer = match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(Fault { code, message }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
    };
    format!("{answer}\n")
}
