//! `vmm mcp`, as agents use it: by lines of JSON, and through a client library.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use vmm_tests::{Running, TestHome, binary, cached, python_environment, repository, skip};

/// A server that was greeted.
struct Server {
    running: Running,
    asked: u64,
}

impl Server {
    fn start(home: &TestHome, options: &[&str]) -> Self {
        let running = home.vmm([&["mcp"], options].concat()).start();
        let mut server = Self { running, asked: 0 };
        let greeting =
            server.ask("initialize", &json!({ "protocolVersion": "2025-06-18", "capabilities": {} }));
        assert_eq!(greeting["result"]["protocolVersion"], "2025-06-18");
        server.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        server
    }

    fn say(&mut self, message: &Value) {
        self.running.write(format!("{message}\n").as_bytes());
    }

    /// Sends a request, whose number is returned.
    fn send(&mut self, method: &str, params: &Value) -> u64 {
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// The answer to a request. Answers come in any order.
    fn answer(&mut self, id: u64) -> Value {
        self.running.find(&format!("the answer to request {id}"), |said| {
            let whole = &said[..=said.rfind('\n')?];
            let answers = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("only JSON"));
            answers.into_iter().find(|answer| answer["id"] == id)
        })
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        self.answer(id)
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }))["result"].clone()
    }

    fn create(&mut self) -> String {
        let made = self.call("create", &json!({}));
        made["structuredContent"]["sandbox"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }
}

#[test]
fn bad_input_is_refused_and_the_server_goes_on() {
    let home = TestHome::empty();
    let mut early = home.vmm(["mcp"]).start();
    early.write(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n");
    early.expect("-32600");
    early.write(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}\n");
    early.expect("{\"id\":2,\"jsonrpc\":\"2.0\",\"result\":{}}\n");
    drop(early);

    let mut server = Server::start(&home, &[]);
    server.running.write(b"{\n");
    server.running.expect("-32700");
    server.running.write(b"[]\n\n\xff\xfe\n");
    server.running.expect("-32600");
    for (method, params, code) in [
        ("fly", json!({}), -32601),
        ("initialize", json!({}), -32602),
        ("tools/call", json!({ "name": "fly" }), -32602),
        ("tools/call", json!({ "name": "exec", "arguments": { "sandbox": 1 } }), -32602),
        ("tools/call", json!([]), -32602),
    ] {
        let answer = server.ask(method, &params);
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    // What nobody knows to ask for is no error, nor what has ended long ago.
    server.say(&json!({ "jsonrpc": "2.0", "method": "notifications/other" }));
    server
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }));
    server.say(&json!({ "jsonrpc": "2.0", "id": 7777, "result": {} }));
    let newer = server.ask("initialize", &json!({ "protocolVersion": "2999-01-01" }));
    assert_eq!(newer["result"]["protocolVersion"], "2025-11-25");
    let failed = server.call("exec", &json!({ "sandbox": "nobody", "command": "true" }));
    assert_eq!(failed["isError"], true, "{failed}");
    server.running.close_stdin();
    let (status, said) = server.running.end();
    assert_eq!((status, said.as_str()), (0, ""));
}

#[test]
fn limits_that_cannot_be_are_told_by_the_command_line() {
    let home = TestHome::empty();
    for (options, words) in [
        (["--max-sandboxes", "0"], "max-sandboxes"),
        (["--max-memory", "1M"], "too little"),
        (["--max-timeout", "soon"], "max-timeout"),
        (["--max-output", "0"], "between"),
        (["--image", "/etc/passwd"], "image"),
    ] {
        let refused = home.vmm(["mcp"].into_iter().chain(options)).run().ended_with(125);
        assert!(refused.stderr().contains(words), "{}", refused.stderr());
        assert_eq!(refused.stdout(), "");
    }
}

#[test]
fn sandboxes_die_with_the_server_however_it_ends() {
    let home = TestHome::new();
    for end in [None, Some(Signal::TERM), Some(Signal::INT), Some(Signal::KILL)] {
        let mut server = Server::start(&home, &["--max-memory", "256M"]);
        let sandbox = server.create();
        assert_eq!(home.ps().len(), 1);
        // Something is under way.
        let command = json!({ "sandbox": sandbox, "command": "echo > /tmp/begun; sleep 1000" });
        server.send("tools/call", &json!({ "name": "exec", "arguments": command }));
        let begun = json!({ "sandbox": sandbox, "command": "until test -e /tmp/begun; do sleep 0.1; done" });
        assert_eq!(server.call("exec", &begun)["structuredContent"]["status"], 0);
        // And something else is just being made.
        server.send("tools/call", &json!({ "name": "create", "arguments": {} }));
        match end {
            None => server.running.close_stdin(),
            Some(signal) => server.running.signal(signal),
        }
        let (status, _) = server.running.end();
        assert_eq!(status, if end == Some(Signal::KILL) { 137 } else { 0 }, "{end:?}");
        home.wait_until_quiet();
        // What a server that was killed has left is cleared away by whoever looks.
        assert!(home.ps().is_empty(), "{end:?}");
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{end:?}");
    }
}

#[test]
fn a_sandbox_that_ends_by_itself_gives_its_place_back() {
    let home = TestHome::new();
    let mut server = Server::start(&home, &["--max-sandboxes", "1", "--max-memory", "256M"]);
    let first = server.create();
    let full = server.call("create", &json!({}));
    assert_eq!(full["isError"], true, "{full}");
    home.vmm(["kill", &first]).run().succeeded();
    let failed = server.call("exec", &json!({ "sandbox": first, "command": "true" }));
    assert_eq!(failed["isError"], true, "{failed}");
    let second = server.create();
    assert_ne!(first, second);
    let listed = server.call("list", &json!({}));
    assert_eq!(listed["structuredContent"]["sandboxes"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(server.running.end().0, 0);
    home.wait_until_quiet();
}

#[test]
fn a_session_through_a_client_library_passes() {
    let home = TestHome::new();
    let folder = cached("python-mcp");
    let python = match python_environment(&folder) {
        Ok(python) => python,
        Err(why) => skip!("{why}"),
    };
    let imports = Command::new(&python).args(["-c", "from mcp import Client"]).output().unwrap();
    if !imports.status.success() {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mcp>=2.3,<3"];
        let installed = Command::new(&python).args(pip).output().unwrap();
        if !installed.status.success() {
            let said = String::from_utf8_lossy(&installed.stderr).into_owned();
            skip!("pip cannot install mcp: {}", said.lines().last().unwrap_or_default());
        }
    }
    for script in ["tests/tests/once/mcp_session.py", "vmm/python/examples/agent_loop.py"] {
        let mut session = Command::new(&python);
        session.arg(repository().join(script)).env("VMM_BIN", binary());
        home.program(session).run().succeeded();
        home.wait_until_quiet();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{script}");
    }
}
