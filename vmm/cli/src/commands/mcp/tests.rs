use std::io::Read;

use serde_json::{Value, json};

use super::calls::Call;
use super::lines::{LONGEST, Line, Lines};
use super::message::{Id, Message, answer, read};

#[test]
fn a_line_is_read_however_it_comes_and_one_that_is_too_long_is_passed_over() {
    let long = vec![b'x'; LONGEST + 1];
    let input = b"one\n\n".chain(&long[..]).chain(&b"\ntwo\nno end"[..]);
    let mut lines = Lines::new(input);
    let mut next = || lines.next().unwrap();
    assert_eq!(next(), Some(Line::Whole(b"one".to_vec())));
    assert_eq!(next(), Some(Line::Whole(Vec::new())));
    assert_eq!(next(), Some(Line::TooLong));
    assert_eq!(next(), Some(Line::Whole(b"two".to_vec())));
    assert_eq!(next(), None);
}

#[test]
fn requests_notifications_and_answers_are_told_apart() {
    let message = |text: &str| read(text.as_bytes()).unwrap();
    let request = message(r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1}}"#);
    let params = json!({ "a": 1 }).as_object().unwrap().clone();
    assert_eq!(request, Message::Request { id: Id::Number(7), method: "ping".to_owned(), params });
    let notification = message(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert!(matches!(notification, Message::Notification { method, .. } if method.ends_with("initialized")));
    assert_eq!(message(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#), Message::Answer);
}

#[test]
fn what_is_no_message_is_refused_by_its_number() {
    for (line, code, id) in [
        ("", -32700, None),
        ("{", -32700, None),
        ("\u{0}", -32700, None),
        ("[]", -32600, None),
        ("7", -32600, None),
        (r#"{"id":1,"method":"ping"}"#, -32600, Some(Id::Number(1))),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600, Some(Id::Number(1))),
        (r#"{"jsonrpc":"2.0","id":"a"}"#, -32600, Some(Id::Text("a".to_owned()))),
        (r#"{"jsonrpc":"2.0","id":"a","method":1}"#, -32600, Some(Id::Text("a".to_owned()))),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600, None),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32602, Some(Id::Number(1))),
    ] {
        let (named, fault) = read(line.as_bytes()).unwrap_err();
        assert_eq!((fault.code, named), (code, id), "{line}");
    }
    // Deeper than any stack.
    assert!(read("[".repeat(1 << 20).as_bytes()).is_err());
    assert!(read(&[0xff, 0xfe]).is_err());
}

#[test]
fn an_answer_is_one_line() {
    let line = answer(Some(&Id::Text("a\nb".to_owned())), Ok(json!({ "text": "one\ntwo" })));
    assert_eq!(line.matches('\n').count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["result"]["text"], "one\ntwo");
}

#[test]
fn a_call_with_arguments_that_cannot_be_says_which() {
    for (params, words) in [
        (json!({}), "name"),
        (json!({ "name": "fly" }), "fly"),
        (json!({ "name": "exec", "arguments": [] }), "object"),
        (json!({ "name": "exec", "arguments": { "command": "true" } }), "sandbox"),
        (json!({ "name": "exec", "arguments": { "sandbox": "a" } }), "argv"),
        (json!({ "name": "exec", "arguments": { "sandbox": "a", "command": "b", "argv": ["c"] } }), "argv"),
        (json!({ "name": "exec", "arguments": { "sandbox": "a", "argv": [] } }), "argv"),
        (json!({ "name": "exec", "arguments": { "sandbox": 1, "command": "true" } }), "string"),
        (json!({ "name": "exec", "arguments": { "sandbox": "a", "command": "b", "timeout": 3 } }), "timeout"),
        (
            json!({ "name": "exec", "arguments": { "sandbox": "a", "command": "b", "timeout_seconds": -1 } }),
            "timeout",
        ),
        (json!({ "name": "create", "arguments": { "cpus": 1000 } }), "u8"),
        (json!({ "name": "write_file", "arguments": { "sandbox": "a", "path": "b" } }), "contents"),
        (
            json!({ "name": "write_file", "arguments": { "sandbox": "a", "path": "b", "contents_base64": "?" } }),
            "base64",
        ),
        (json!({ "name": "list", "arguments": { "all": true } }), "all"),
    ] {
        let fault = Call::read(params.as_object().unwrap().clone()).unwrap_err();
        assert_eq!(fault.code, -32602);
        assert!(fault.message.contains(words), "{params}: {}", fault.message);
    }
}
