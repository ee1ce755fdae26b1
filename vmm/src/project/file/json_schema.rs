//! The JSON schema of a project's file, for editors: made from the same keys that the file is read by.

use serde_json::{Map, Value, json};

use super::keys::MACHINE;
use super::reader::{Key, Kind};
use super::{MACHINE_NAME_PATTERN, VERSION};

/// The schema of the whole file.
pub(super) fn of_file() -> Value {
    let mut schema = of_table(MACHINE, &[]);
    let machine = of_table(MACHINE, &[]);
    let common = [
        ("version", json!({ "const": VERSION, "description": "The version of this file's format" })),
        (
            "vm",
            json!({
                "type": "object",
                "description": "The VMs of a project that has several, by their names",
                "minProperties": 1,
                "propertyNames": { "pattern": MACHINE_NAME_PATTERN },
                "additionalProperties": machine,
            }),
        ),
    ];
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(common.map(|(name, schema)| (name.to_owned(), schema)));
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".to_owned(), json!("vmm.toml"));
        schema.insert("description".to_owned(), json!("A project of vmm: the VMs that vmm up starts"));
        // Either one machine at the top, or tables of them.
        let only = MACHINE.iter().map(|key| (key.name.to_owned(), Value::Bool(false)));
        let with_tables = json!({ "properties": Value::Object(only.collect()) });
        schema.insert("if".to_owned(), json!({ "required": ["vm"] }));
        schema.insert("then".to_owned(), with_tables);
    }
    schema
}

/// The schema of a table, of which these keys must be there.
pub(super) fn of_table<T>(keys: &[Key<T>], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), of_key(key.kind, key.doc))).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn of_key(kind: Kind, doc: &str) -> Value {
    let mut schema = match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::BooleanOr(words) => json!({ "anyOf": [{ "type": "boolean" }, { "enum": words }] }),
        Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Size => json!({ "type": "string", "pattern": "^[0-9]+([KkMmGgTt]([Ii]?[Bb])?)?$" }),
        Kind::Span => json!({ "type": "string", "pattern": "^[0-9.]+(ms|s|m|min|h)?$" }),
        Kind::Command => json!({
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "minItems": 1, "items": { "type": "string" } },
            ],
        }),
        Kind::TextTable => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Table(schema) => schema(),
        Kind::Tables(schema) => json!({ "type": "array", "items": schema() }),
    };
    schema["description"] = json!(doc);
    schema
}
