//! The tools as a client is told of them.

use serde_json::{Value, json};

use super::sandboxes::Limits;

/// What an agent is told before it begins.
pub(super) fn instructions(limits: &Limits) -> String {
    format!(
        "Sandboxes are virtual machines of their own: what runs in one reaches nothing of this host. Make one with \
         `create`, run commands in it with `exec`, and stop it when it is no longer needed; what is in it is lost then. \
         There can be {} at once, each with up to {} of memory and {} processors; a command runs for at most {} seconds.",
        limits.sandboxes,
        limits.memory,
        limits.cpus,
        limits.timeout.as_secs_f64(),
    )
}

/// Every tool, with what it takes and gives.
pub(super) fn list(limits: &Limits) -> Value {
    let sandbox = json!({ "type": "string", "description": "The sandbox, as `create` has named it" });
    let path = json!({ "type": "string", "description": "The file's path in the sandbox" });
    json!([
        tool(
            "create",
            "Make a sandbox, a virtual machine of its own, and wait until commands can run in it",
            json!({
                "image": {
                    "type": "string",
                    "enum": limits.images,
                    "description": format!("What is in it; {} where nothing is said", limits.images[0]),
                },
                "memory": {
                    "type": "string",
                    "description": format!("Its memory, such as 512M; at most {}", limits.memory),
                },
                "cpus": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": limits.cpus,
                    "description": "Its processors; 1 where nothing is said",
                },
            }),
            &[],
            json!({
                "sandbox": { "type": "string" },
                "image": { "type": "string" },
                "memory": { "type": "string" },
                "cpus": { "type": "integer" },
            }),
            false,
        ),
        tool(
            "exec",
            "Run a command in a sandbox to its end. Its status is not zero where it failed, which is no failure of the tool",
            json!({
                "sandbox": sandbox,
                "command": { "type": "string", "description": "A command for the shell; either this or argv" },
                "argv": {
                    "type": "array",
                    "items": { "type": "string" },
                    "minItems": 1,
                    "description": "A program and its arguments, without a shell",
                },
                "env": { "type": "object", "additionalProperties": { "type": "string" } },
                "workdir": { "type": "string", "description": "The folder that it starts in" },
                "user": { "type": "string", "description": "The user that it runs as; root where nothing is said" },
                "stdin": { "type": "string", "description": "What it reads" },
                "timeout_seconds": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": limits.timeout.as_secs_f64(),
                    "description": "It is killed, with everything that it started, after so long",
                },
            }),
            &["sandbox"],
            json!({
                "status": { "type": "integer" },
                "stdout": { "type": "string" },
                "stderr": { "type": "string" },
                "timed_out": { "type": "boolean" },
                "truncated": { "type": "boolean" },
            }),
            false,
        ),
        tool(
            "read_file",
            &format!("Read a file of a sandbox, of at most {} bytes", limits.output),
            json!({ "sandbox": sandbox, "path": path }),
            &["sandbox", "path"],
            // One of the two.
            json!({
                "contents": { "type": ["string", "null"] },
                "contents_base64": { "type": ["string", "null"] },
            }),
            true,
        ),
        tool(
            "write_file",
            "Write a file in a sandbox; one that is there is replaced",
            json!({
                "sandbox": sandbox,
                "path": path,
                "contents": { "type": "string", "description": "Text; either this or contents_base64" },
                "contents_base64": { "type": "string", "description": "Any bytes, in base64" },
            }),
            &["sandbox", "path"],
            json!({ "bytes": { "type": "integer" } }),
            false,
        ),
        tool(
            "list",
            "List the sandboxes that there are",
            json!({}),
            &[],
            json!({ "sandboxes": { "type": "array", "items": { "type": "object" } } }),
            true,
        ),
        tool(
            "stop",
            "Stop a sandbox at once; what is in it is lost",
            json!({ "sandbox": sandbox }),
            &["sandbox"],
            json!({ "stopped": { "type": "string" } }),
            false,
        ),
    ])
}

#[expect(clippy::needless_pass_by_value, reason = "they are made in the call")]
fn tool(name: &str, description: &str, input: Value, required: &[&str], output: Value, reads: bool) -> Value {
    let given: Vec<&String> = output.as_object().into_iter().flat_map(|output| output.keys()).collect();
    json!({
        "name": name,
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": input,
            "required": required,
            "additionalProperties": false,
        },
        "outputSchema": { "type": "object", "required": given, "properties": output },
        "annotations": { "readOnlyHint": reads, "openWorldHint": false },
    })
}
