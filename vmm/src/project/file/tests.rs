use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::project::{HostPath, ScriptRun, ScriptSource};
use crate::sandbox::RootWrites;

/// What is wrong with a text: lines, columns and words.
fn problems(text: &str) -> Vec<(usize, usize, String)> {
    let found = ProjectFile::parse(text).expect_err("there is something wrong with it");
    found.into_iter().map(|problem| (problem.line, problem.column, problem.message)).collect()
}

fn only(text: &str) -> MachineDescription {
    let mut file = ProjectFile::parse(text).unwrap();
    assert_eq!(file.machines.len(), 1);
    file.machines.remove(0).1
}

#[test]
fn an_empty_file_is_one_machine_of_the_managed_image() {
    let file = ProjectFile::parse("").unwrap();
    assert_eq!(file, ProjectFile::default());
    assert_eq!(file.machines[0].0, "default");
    assert_eq!(file.machines[0].1.managed_image.to_string(), "alpine");
}

#[test]
fn every_key_is_read() {
    let machine = only(
        r#"
        version = 1
        managed_image = "alpine:3.23"
        boot_profile = "native"
        cpus = 2
        memory = "1G"
        engine = "software"
        require_hardware = true
        nested = true
        console = "virtio"
        balloon = true
        huge_pages = true
        init = "image"
        hostname = "box.example"
        kernel = "build/vmlinux"
        kernel_parameters = "loglevel=7"
        overlay = "disk.qcow2"
        read_only = "disk"
        pull = "never"
        boot_timeout = "3m"
        env = { A = "b=c", EMPTY = "" }
        [[provision]]
        name = "first"
        inline = "echo one\necho two"
        [[provision]]
        run = "always"
        file = "start.sh"
        user = "nobody:nogroup"
        timeout = "90s"
        [[disks]]
        path = "data.qcow2"
        size = "20G"
        [[disks]]
        path = "../shared.img"
        read_only = true
        format = "raw"
        [health]
        command = ["test", "-e", "/x y"]
        interval = "500ms"
        timeout = "2s"
        retries = 0
        "#,
    );
    assert_eq!(machine.managed_image.to_string(), "alpine:3.23");
    assert_eq!(machine.boot_profile.name(), "native");
    assert_eq!((machine.cpus, machine.memory.to_string()), (2, "1G".to_owned()));
    assert_eq!(machine.engine.to_string(), "software");
    assert!(machine.require_hardware && machine.nested && machine.balloon && machine.huge_pages);
    assert_eq!((machine.console.name(), machine.init.name()), ("virtio", "image"));
    assert_eq!(machine.hostname.as_deref(), Some("box.example"));
    assert_eq!(machine.kernel, Some(HostPath { path: "build/vmlinux".into(), line: 15, column: 18 }));
    assert_eq!(machine.kernel_parameters, "loglevel=7");
    assert_eq!(machine.pull, crate::sandbox::PullPolicy::Never);
    assert_eq!(machine.boot_timeout, Duration::from_secs(180));
    assert_eq!(machine.env["A"], "b=c");
    assert_eq!(machine.env["EMPTY"], "");
    let [first, second] = machine.provision.as_slice() else { panic!("two scripts") };
    assert_eq!(first.name.as_deref(), Some("first"));
    assert_eq!(first.run, ScriptRun::Once);
    assert_eq!(first.source, ScriptSource::Inline("echo one\necho two".to_owned()));
    assert_eq!(second.run, ScriptRun::Always);
    assert!(matches!(&second.source, ScriptSource::File(file) if file.path.ends_with("start.sh")));
    assert_eq!(second.user.as_deref(), Some("nobody:nogroup"));
    assert_eq!(second.timeout, Some(Duration::from_secs(90)));
    assert!(machine.overlay.is_some_and(|overlay| overlay.path.ends_with("disk.qcow2")));
    assert_eq!(machine.read_only, RootWrites::Disk);
    let [made, shared] = machine.disks.as_slice() else { panic!("two disks") };
    assert_eq!(made.size.map(|size| size.bytes()), Some(20 << 30));
    assert!(shared.read_only && shared.format == Some(crate::image::Format::Raw));
    let health = machine.health.unwrap();
    assert_eq!(health.command, ["test", "-e", "/x y"]);
    assert_eq!((health.interval, health.timeout), (Duration::from_millis(500), Duration::from_secs(2)));
    assert_eq!(health.retries, 0);
}

#[test]
fn a_root_that_is_read_only_is_said_in_a_word() {
    let writes = |value: &str| only(&format!("read_only = {value}")).read_only;
    assert_eq!(writes("false"), RootWrites::Root);
    assert_eq!(writes("true"), RootWrites::Memory);
    assert_eq!(writes("\"memory\""), RootWrites::Memory);
    assert_eq!(writes("\"disk\""), RootWrites::Disk);
    let base = only("base_image = \"images/base.qcow2\"").base_image.unwrap();
    assert_eq!((base.line, base.column), (1, 14));
}

#[test]
fn several_machines_come_in_the_order_of_the_file() {
    let file = ProjectFile::parse("[vm.web]\ncpus = 2\n[vm.db]\nmemory = \"1G\"\n[vm.a-1]\n").unwrap();
    let names: Vec<_> = file.machines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["web", "db", "a-1"]);
    assert_eq!(file.machines[0].1.cpus, 2);
    assert_eq!(file.machines[1].1.memory.to_string(), "1G");
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_would_be_right() {
    let mut wrong = Vec::new();
    for (text, line, column, words) in [
        // Keys.
        ("cpu = 2", 1, 1, "unknown key \"cpu\": did you mean cpus?"),
        ("\n  CPUS = 2", 2, 3, "did you mean cpus?"),
        ("memroy = \"1G\"", 1, 1, "did you mean memory?"),
        ("image = \"alpine\"", 1, 1, "managed_image"),
        ("frobnicate = 1", 1, 1, "there are managed_image, base_image"),
        ("[vms.web]", 1, 2, "did you mean vm?"),
        ("[vm.web]\nenvv = {}", 2, 1, "did you mean env?"),
        ("[health]\ncommand = \"true\"\nretrys = 3", 3, 1, "did you mean retries?"),
        ("[[provision]]\nscript = \"x\"\ninline = \"\"", 2, 1, "unknown key \"script\""),
        ("seccomp = false", 1, 1, "unknown key"),
        ("managed_image = \"alpine\"\nbase_image = \"a.qcow2\"", 1, 1, "leave one of them out"),
        ("read_only = true\ndisk_size = \"1G\"", 2, 1, "disk_size: what is written stays in memory"),
        ("[vm.a]\nread_only = true\noverlay = \"x\"", 3, 1, "overlay: what is written stays in memory"),
        ("[[disks]]\nsize = \"1G\"", 1, 1, "there is no path in it"),
        ("[[disks]]\npath = \"a\"\nformat = \"vmdk\"", 3, 10, "\"vmdk\" is not one of raw, qcow2"),
        ("[[disks]]\npath = \"a\"\nsize = \"1G\"\nread_only = true", 1, 1, "is not made"),
        ("read_only = 1", 1, 13, "expected true, false or \"memory\" or \"disk\", found a whole number"),
        ("read_only = \"dsk\"", 1, 13, "did you mean disk?"),
        // Types.
        ("cpus = \"2\"", 1, 8, "cpus: expected a whole number, such as 1, found a string"),
        ("cpus = 2.0", 1, 8, "found a number with a point"),
        (
            "memory = 512",
            1,
            10,
            "memory: expected an amount with its unit, such as \"512M\", found a whole number",
        ),
        ("nested = \"yes\"", 1, 10, "nested: expected true or false, found a string"),
        ("nested = 1979-05-27", 1, 10, "found a date"),
        ("env = [\"A=b\"]", 1, 7, "env: expected a table, found a list"),
        ("[env]\nA = 1", 2, 5, "A: expected a string, found a whole number"),
        ("provision = \"x\"", 1, 13, "provision: expected tables [[provision]], found a string"),
        ("provision = [\"x\"]", 1, 14, "expected a table"),
        ("health = \"true\"", 1, 10, "health: expected a table"),
        ("vm = 1", 1, 6, "vm: expected a table"),
        ("[vm]\ncpus = 2", 2, 1, "cpus belongs into a table [vm.NAME]"),
        ("[vm]\nweb = 2", 2, 7, "web: expected a table"),
        // Units and bounds.
        ("memory = \"12 parsecs\"", 1, 10, "\"12 parsecs\" is no amount of memory"),
        ("memory = \"1M\"", 1, 10, "give at least 96M"),
        ("disk_size = \"65T\"", 1, 13, "a disk has between 1M and 64T, not 65T"),
        ("memory = \"99999999999999999999G\"", 1, 10, "is no amount of memory"),
        ("cpus = 0", 1, 8, "cpus: expected a number from 1 to 255"),
        ("cpus = 99999999999999999999999", 1, 8, "expected a number from 1 to 255"),
        ("boot_timeout = \"soon\"", 1, 16, "\"soon\" is no time"),
        ("boot_timeout = \"5 fortnights\"", 1, 16, "write a number with ms, s, m or h"),
        ("[health]\ncommand = \"true\"\nretries = -1", 3, 11, "expected a number from 0"),
        // Words.
        ("engine = \"steam\"", 1, 10, "steam"),
        ("init = \"agnt\"", 1, 8, "init: \"agnt\" is not one of agent, image: did you mean agent?"),
        ("managed_image = \"../x\"", 1, 17, "\"../x\" is no image name"),
        ("hostname = \"a b\"", 1, 12, "is no host name"),
        ("kernel_parameters = \"a -- b\"", 1, 21, "--"),
        ("kernel = \"\"", 1, 10, "kernel: expected one line of text"),
        ("[env]\n\"A=B\" = \"x\"", 2, 1, "cannot be the name of a variable"),
        ("[env]\nA = \"\\u0000\"", 2, 5, "zero byte"),
        ("[[provision]]\nname = \"x\"", 1, 1, "there is no script in it"),
        ("[[provision]]\nfile = \"a\"\ninline = \"b\"", 3, 10, "given twice"),
        ("[[provision]]\ninline = \"\"\nname = \"\\u001b[2J\"", 3, 8, "one line of text"),
        ("[health]", 1, 1, "there is no command in it"),
        ("[health]\ncommand = []", 2, 11, "there is no program in it"),
        ("[health]\ncommand = \" \"", 2, 11, "there is no command in it"),
        ("vm = {}", 1, 6, "expected 1 to 64 tables [vm.NAME], found 0"),
        ("[vm.\"../x\"]", 1, 5, "cannot be the name of a VM"),
        ("[vm.Web]", 1, 5, "cannot be the name of a VM"),
        ("cpus = 2\n[vm.web]", 1, 1, "cpus belongs into one of the tables [vm.NAME]"),
        // The writing.
        ("memory = ", 1, 10, "quoted"),
        ("memory = \"1G", 1, 13, "invalid basic string"),
        ("cpus = 1\ncpus = 2", 2, 1, "duplicate"),
        ("[env\nA = 1", 1, 5, ""),
        ("ä = 1\n\n é", 1, 1, ""),
        // Other versions.
        (
            "version = 2\nnew_key = 1",
            1,
            11,
            "version: this vmm reads files of version 1, and this is 2: a newer vmm reads it",
        ),
        ("version = 0", 1, 11, "version: expected a number from 1"),
        ("version = \"1\"", 1, 11, "version: expected a whole number"),
    ] {
        let found = problems(text);
        let (first_line, first_column, message) = &found[0];
        let right = (*first_line, *first_column) == (line, column)
            && message.contains(words)
            && !message.contains('\n');
        if !right {
            wrong.push(format!("{text:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_newer_file_is_refused_with_one_line() {
    assert_eq!(problems("version = 2\nwhat = 1\nis = 2\nthis = 3").len(), 1);
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let found = problems("nested = 1\ncpu = 2\n[health]\nretries = \"x\"\n");
    let places: Vec<_> = found.iter().map(|(line, column, _)| (*line, *column)).collect();
    assert_eq!(places, [(1, 10), (2, 1), (3, 1), (4, 11)]);
    let many: String = (0..1000).map(|number| format!("key{number} = 1\n")).collect();
    assert_eq!(problems(&many).len(), 20);
}

#[test]
fn columns_count_characters() {
    assert_eq!(problems("env = { \"äöü\" = 1 }")[0].1, 17);
}

#[test]
fn nothing_is_filled_in_from_the_environment() {
    let machine = only("[env]\nA = \"$HOME ${PATH} ~ %USER%\"");
    assert_eq!(machine.env["A"], "$HOME ${PATH} ~ %USER%");
}

#[test]
fn what_is_nested_too_deep_or_very_long_is_refused_and_no_more() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{b=".repeat(100_000)),
        format!("[{}]", "a.".repeat(100_000)),
        "a".repeat(250_000),
        format!("{} = 1", "a".repeat(250_000)),
        format!("memory = \"{}\"", "a".repeat(250_000)),
        format!("managed_image = \"{}\"", "a".repeat(250_000)),
    ] {
        for (_, _, message) in problems(&text) {
            assert!(message.len() < 500, "{} bytes", message.len());
        }
    }
}

#[test]
fn the_template_is_read_with_and_without_its_examples() {
    assert_eq!(ProjectFile::parse(TEMPLATE).unwrap(), ProjectFile::default());
    // Everything that is commented out but the sentences and the several VMs, which exclude the rest.
    let examples = TEMPLATE.split("# A project of several VMs").next().unwrap();
    let is_example = |line: &&str| {
        let word = line.trim_start_matches("# ");
        word.starts_with('[') || word.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let text: String = examples
        .lines()
        .filter(is_example)
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    // A disk is made over an image or over a file.
    let over_a_file = text.replace("managed_image = \"alpine\"\n", "");
    ProjectFile::parse(&over_a_file).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    for key in keys::MACHINE {
        assert!(text.contains(key.name), "the template does not show {}", key.name);
    }
    let several: String = TEMPLATE
        .lines()
        .skip_while(|line| !line.contains("# [vm.web]"))
        .map(|line| format!("{}\n", line.trim_start_matches("# ").trim_start_matches('#')))
        .collect();
    assert_eq!(ProjectFile::parse(&several).unwrap().machines.len(), 2);
}

/// As much of JSON Schema as ours uses.
fn allows(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    use serde_json::Value as Json;
    let kind = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        _ => true,
    };
    let one_of = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    let number = value.as_i64().unwrap_or_default();
    let bounds = schema["minimum"].as_i64().is_none_or(|least| number >= least)
        && schema["maximum"].as_i64().is_none_or(|most| number <= most);
    let any = schema["anyOf"].as_array().is_none_or(|any| any.iter().any(|schema| allows(schema, value)));
    let items = value.as_array().is_none_or(|list| {
        list.iter().all(|value| schema.get("items").is_none_or(|schema| allows(schema, value)))
    });
    let members = value.as_object().is_none_or(|object| {
        let required = schema["required"]
            .as_array()
            .is_none_or(|names| names.iter().all(|name| object.contains_key(name.as_str().unwrap())));
        required
            && object.iter().all(|(name, value)| match schema["properties"].get(name) {
                Some(schema) => allows(schema, value),
                None => match &schema["additionalProperties"] {
                    Json::Bool(allowed) => *allowed,
                    Json::Null => true,
                    schema => allows(schema, value),
                },
            })
    });
    kind && one_of && constant && bounds && any && items && members
}

#[test]
fn the_json_schema_and_the_reader_agree() {
    let schema = ProjectFile::json_schema();
    for text in [
        "",
        "version = 1\ncpus = 2\nmemory = \"1G\"",
        "[vm.web]\ncpus = 2\n[vm.db]\nhealth = { command = \"true\" }",
        "[[provision]]\ninline = \"true\"\n[env]\nA = \"b\"",
        "[health]\ncommand = [\"true\"]\nretries = 3",
        "cpu = 2",
        "cpus = 0",
        "cpus = \"2\"",
        "memory = 512",
        "nested = 1",
        "init = \"systemd\"",
        "engine = \"steam\"",
        "version = 2",
        "env = { A = 1 }",
        "[health]\nretries = 3",
        "[vm.web]\ncpu = 2",
        "provision = \"x\"",
        "[[provision]]\nrun = \"twice\"\ninline = \"\"",
    ] {
        let value: serde_json::Value = as_json(text);
        assert_eq!(allows(&schema, &value), ProjectFile::parse(text).is_ok(), "{text:?}");
    }
}

/// A document as JSON, by the parser alone.
fn as_json(text: &str) -> serde_json::Value {
    fn convert(value: &DeValue<'_>) -> serde_json::Value {
        match value {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => number.as_str().parse::<i64>().unwrap().into(),
            DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
            DeValue::Boolean(value) => (*value).into(),
            DeValue::Datetime(date) => date.to_string().into(),
            DeValue::Array(list) => list.iter().map(|value| convert(value.get_ref())).collect(),
            DeValue::Table(table) => table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), convert(value.get_ref())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
    convert(&DeValue::Table(DeTable::parse(text).unwrap().into_inner()))
}

#[test]
fn only_what_makes_another_disk_recreates_a_machine() {
    assert_eq!(effect_of("managed_image"), Effect::Recreate);
    assert_eq!(effect_of("memory"), Effect::Restart);
    assert_eq!(effect_of("health"), Effect::Nothing);
    let compared = serde_json::to_value(MachineDescription::default()).unwrap();
    for key in keys::MACHINE {
        // Files are compared by what they are or where they lead, which is no part of the description.
        let is_file = ["kernel", "base_image", "disks"].contains(&key.name);
        let is_compared = compared.get(key.name).is_some() || is_file;
        assert_eq!(is_compared, key.effect != Effect::Nothing, "{}", key.name);
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,200}|[a-z\\[\\]\\.=\"{}\n0-9 _-]{0,200}") {
        if let Err(problems) = ProjectFile::parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line >= 1 && problem.column >= 1 && !problem.message.contains('\n'));
            }
        }
    }
}
