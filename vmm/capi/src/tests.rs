use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::mem::{offset_of, size_of};
use std::os::unix::ffi::OsStrExt;
use std::process::Command as Program;
use std::ptr;

use crate::bytes::Bytes;
use crate::cancel::vmm_cancel_free;
use crate::command::{Command, Output, vmm_exec};
use crate::error::{Error, guarded, vmm_error_code, vmm_error_free, vmm_error_hint, vmm_error_message};
use crate::files::{Copy, vmm_copy_in, vmm_read_file, vmm_write_file};
use crate::options::{
    NAMES, Options, SECCOMP, vmm_options_free, vmm_options_new, vmm_options_progress, vmm_options_set,
};
use crate::process::{Event, vmm_process_id, vmm_process_next, vmm_spawn};
use crate::sandbox::{vmm_attach, vmm_info, vmm_list, vmm_name, vmm_open, vmm_start};

const HEADER: &str = include_str!("../include/vmm.h");

const SOURCES: [&str; 9] = [
    include_str!("bytes.rs"),
    include_str!("cancel.rs"),
    include_str!("command.rs"),
    include_str!("error.rs"),
    include_str!("files.rs"),
    include_str!("lib.rs"),
    include_str!("options.rs"),
    include_str!("process.rs"),
    include_str!("sandbox.rs"),
];

/// Rust's word for a type, as the header has it.
fn c_type(rust: &str) -> String {
    if let Some(target) = rust.strip_prefix("*mut ") {
        return format!("{}*", c_type(target));
    }
    if let Some(target) = rust.strip_prefix("*const ") {
        return format!("const{}*", c_type(target));
    }
    let known = [
        ("bool", "bool"),
        ("c_char", "char"),
        ("c_void", "void"),
        ("i32", "int32_t"),
        ("i64", "int64_t"),
        ("u8", "uint8_t"),
        ("u16", "uint16_t"),
        ("u64", "uint64_t"),
        ("usize", "size_t"),
        ("Option<ProgressFunction>", "vmm_progress_function"),
    ];
    let ours =
        ["Bytes", "Cancel", "Command", "Copy", "Error", "Event", "Options", "Output", "Process", "Sandbox"];
    match known.iter().find(|(name, _)| *name == rust) {
        Some((_, c)) => (*c).to_owned(),
        None if ours.contains(&rust) => format!("vmm_{}", rust.to_lowercase()),
        None => panic!("the header has no word for {rust}"),
    }
}

/// The functions that Rust exports, each with its result and its parameters' types.
fn exported() -> BTreeMap<String, String> {
    let mut functions = BTreeMap::new();
    for source in SOURCES {
        for (at, _) in source.match_indices("extern \"C\" fn vmm_") {
            let rest = &source[at + "extern \"C\" fn ".len()..];
            let (name, rest) = rest.split_once('(').unwrap();
            let (parameters, rest) = rest.split_once(')').unwrap();
            let result = rest[..rest.find('{').unwrap()].trim().strip_prefix("-> ").unwrap_or("").trim();
            let result = if result.is_empty() { "void".to_owned() } else { c_type(result) };
            let types: Vec<String> = parameters
                .split(',')
                .filter_map(|parameter| parameter.trim().split_once(": "))
                .map(|(_, rust)| c_type(rust))
                .collect();
            let types = if types.is_empty() { "void".to_owned() } else { types.join(",") };
            functions.insert(name.to_owned(), format!("{result} {name}({types})"));
        }
    }
    functions
}

/// The functions that the header declares, in the same words.
fn declared() -> BTreeMap<String, String> {
    let mut text = String::new();
    let mut rest = HEADER;
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    text.push_str(rest);
    let text: String = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    let mut functions = BTreeMap::new();
    for statement in text.split(';') {
        let Some((head, parameters)) = statement.split_once('(') else { continue };
        if head.contains("typedef") || head.contains('{') && !head.contains('}') && !head.contains("extern") {
            continue;
        }
        let head = head.rsplit(['{', '}']).next().unwrap().trim();
        let start = head.rfind([' ', '*']).unwrap() + 1;
        let (result, name) = head.split_at(start);
        let types: Vec<String> =
            parameters.trim_end().trim_end_matches(')').split(',').map(without_name).collect();
        let result = result.replace(' ', "");
        functions.insert(name.to_owned(), format!("{result} {name}({})", types.join(",")));
    }
    functions
}

fn without_name(parameter: &str) -> String {
    let parameter = parameter.trim();
    let end = match parameter.rfind([' ', '*']) {
        Some(at) => at + 1,
        None => parameter.len(),
    };
    parameter[..end].replace(' ', "")
}

#[test]
fn the_header_declares_what_the_library_exports() {
    let (exported, declared) = (exported(), declared());
    assert!(exported.len() > 40, "{exported:#?}");
    let differ: Vec<_> = exported
        .iter()
        .filter(|(name, function)| declared.get(*name) != Some(function))
        .map(|(name, function)| format!("{function} is in the header {:?}", declared.get(name)))
        .chain(
            declared
                .keys()
                .filter(|name| !exported.contains_key(*name))
                .map(|name| format!("{name} is not there")),
        )
        .collect();
    assert!(differ.is_empty(), "\n{}", differ.join("\n"));
}

#[test]
fn structures_lie_in_memory_as_the_header_says_and_it_is_plain_c() {
    let mut program = format!("{HEADER}\n");
    let mut lies = |what: String, at: usize| {
        program.push_str(&format!("_Static_assert({what} == {at}, \"{what}\");\n"));
    };
    macro_rules! layout {
        ($rust:ty, $c:literal, $($field:ident)*) => {
            $(lies(format!("offsetof({}, {})", $c, stringify!($field)), offset_of!($rust, $field));)*
        };
    }
    layout!(Bytes, "vmm_bytes", data length);
    layout!(Command, "vmm_command", argv env workdir user input input_length input_piped rows columns timeout_ms
        output_limit cancel reserved);
    layout!(Output, "vmm_output", status signal timed_out truncated out out_length err err_length);
    layout!(Event, "vmm_event", kind status signal timed_out data length);
    layout!(Copy, "vmm_copy", owner set_id devices max_bytes max_entries patience_ms cancel reserved);
    // What the caller makes, the caller must know whole.
    lies("sizeof(vmm_command)".to_owned(), size_of::<Command>());
    lies("sizeof(vmm_copy)".to_owned(), size_of::<Copy>());
    let folder = tempfile::tempdir().unwrap();
    let (source, object) = (folder.path().join("layout.c"), folder.path().join("layout.o"));
    std::fs::write(&source, program).unwrap();
    let strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c"];
    let compiled = Program::new("cc").args(strict).arg(&source).arg("-o").arg(&object).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

/// The code of an error, which is freed. Empty: there is none.
fn code(error: *mut Error) -> String {
    if error.is_null() {
        return String::new();
    }
    // SAFETY: an error of ours, which is freed once, after its last use.
    unsafe {
        let code = CStr::from_ptr(vmm_error_code(error)).to_str().unwrap().to_owned();
        assert!(!CStr::from_ptr(vmm_error_message(error)).is_empty());
        vmm_error_free(error);
        code
    }
}

/// A place for a pointer. The test's end frees it.
fn place<T>() -> *mut *mut T {
    Box::into_raw(Box::new(ptr::null_mut()))
}

fn options(image: &CStr) -> *mut Options {
    let mut options = ptr::null_mut();
    // SAFETY: a text, and the place of a pointer.
    assert_eq!(code(unsafe { vmm_options_new(image.as_ptr(), &raw mut options) }), "");
    options
}

#[test]
fn null_is_an_error_wherever_it_may_not_be() {
    // SAFETY: null is what the calls are to find out.
    unsafe {
        let options = options(c"alpine");
        for error in [
            vmm_options_new(c"alpine".as_ptr(), ptr::null_mut()),
            vmm_options_set(options, ptr::null(), c"1".as_ptr()),
            vmm_options_set(options, c"cpus".as_ptr(), ptr::null()),
            vmm_options_set(ptr::null_mut(), c"cpus".as_ptr(), c"1".as_ptr()),
            vmm_options_progress(options, None, ptr::null_mut()),
            vmm_open(options, ptr::null_mut()),
            vmm_open(ptr::null(), place()),
            vmm_start(options, ptr::null(), place()),
            vmm_attach(ptr::null(), ptr::null(), place()),
            vmm_list(ptr::null(), ptr::null_mut()),
            vmm_info(ptr::null(), place()),
            vmm_exec(ptr::null(), ptr::null(), place()),
            vmm_spawn(ptr::null(), ptr::null(), place()),
            vmm_process_next(ptr::null(), -1, ptr::null(), place()),
            vmm_write_file(ptr::null(), c"/x".as_ptr(), ptr::null(), 0),
            vmm_read_file(ptr::null(), c"/x".as_ptr(), 1, place()),
            vmm_copy_in(ptr::null(), c"/x".as_ptr(), c"/x".as_ptr(), ptr::null(), ptr::null_mut()),
        ] {
            assert_eq!(code(error), "null_pointer");
        }
        assert!(vmm_name(ptr::null()).is_null() && vmm_error_code(ptr::null()).is_null());
        assert_eq!(vmm_process_id(ptr::null()), 0);
        vmm_options_free(options);
        vmm_options_free(ptr::null_mut());
        vmm_error_free(ptr::null_mut());
        vmm_cancel_free(ptr::null_mut());
    }
}

#[test]
fn text_that_is_no_utf8_is_an_error_where_it_must_be_and_a_path_may_be_any() {
    let options = options(c"alpine");
    // SAFETY: options of ours, texts.
    unsafe {
        assert_eq!(code(vmm_options_set(options, c"name".as_ptr(), c"\xff".as_ptr())), "invalid_utf8");
        assert_eq!(code(vmm_options_set(options, c"\xff".as_ptr(), c"x".as_ptr())), "invalid_utf8");
        assert_eq!(code(vmm_options_set(options, c"kernel".as_ptr(), c"/\xff".as_ptr())), "");
        vmm_options_free(options);
    }
}

#[test]
fn a_panic_becomes_an_error() {
    let error = guarded(|| panic!("lost"));
    // SAFETY: an error of ours.
    let message = unsafe { CStr::from_ptr(vmm_error_message(error)) }.to_str().unwrap().to_owned();
    assert!(message.contains("lost"), "{message}");
    assert_eq!(code(error), "panic");
}

#[test]
fn every_option_of_the_library_has_a_name_here() {
    let builder = include_str!("../../src/sandbox/builder.rs");
    let methods = builder.split_once("impl SandboxBuilder {").unwrap().1;
    let methods = methods.split("    pub fn ").skip(1).filter_map(|method| {
        let (name, rest) = method.split_once('(')?;
        rest.starts_with("mut self").then(|| name.to_owned())
    });
    // These are no text: a function and a token, which have calls of their own; all options of a start at once; and a
    // timeline, which only Rust has, with the kernel's words for it.
    let others = ["cancel_token", "options", "progress", "timeline", "traced_kernel"];
    let missing: Vec<String> = methods
        .filter(|name| !NAMES.contains(&name.as_str()) && name != SECCOMP && !others.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "no option is called {missing:?}");
}

#[test]
fn every_option_is_heeded_and_a_wrong_value_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    // A value that is not the usual one, and one that cannot be; none where any text can be.
    let values: BTreeMap<&str, (&str, Option<&str>)> = [
        ("balloon", ("true", Some("yes"))),
        ("base_file", ("/disk.qcow2", None)),
        ("base_format", ("raw", Some("vhd"))),
        ("base_initrd", ("/initrd", None)),
        ("base_modules", ("/modules", None)),
        ("boot_profile", ("native", Some("other"))),
        ("command_line", ("quiet", None)),
        ("console", ("virtio", Some("other"))),
        ("cpus", ("2", Some("many"))),
        ("detached", ("true", Some("1"))),
        ("disk", ("/data.raw,ro", Some(",ro"))),
        ("disk_size", ("20G", Some("large"))),
        ("engine", ("software", Some("other"))),
        ("env", ("A=b", Some("=b"))),
        ("executable", ("/usr/bin/vmm", None)),
        ("health_check", ("test -e /ok", None)),
        ("health_interval", ("1s", Some("often"))),
        ("health_retries", ("7", Some("-1"))),
        ("health_start_period", ("1s", Some("soon"))),
        ("health_timeout", ("1s", Some("soon"))),
        ("home", (home.to_str().unwrap(), None)),
        ("host_name", ("box", None)),
        ("huge_pages", ("true", Some(""))),
        ("init", ("image", Some("other"))),
        ("kernel", ("/kernel", None)),
        ("memory", ("1G", Some("1X"))),
        ("name", ("box", None)),
        ("nested", ("true", Some("TRUE"))),
        ("overlay", ("/overlay.qcow2", None)),
        ("pull", ("never", Some("always"))),
        ("ready_timeout", ("5s", Some("soon"))),
        ("remove_at_end", ("true", Some("no"))),
        ("require_hardware", ("true", Some("no"))),
        ("restart", ("on-failure:3", Some("sometimes"))),
        ("root_writes", ("memory", Some("other"))),
        ("stop_timeout", ("5s", Some("soon"))),
        (SECCOMP, ("false", Some("off"))),
    ]
    .into();
    for name in NAMES.into_iter().chain([SECCOMP]) {
        let (value, wrong) = values[name];
        let of_base = name.starts_with("base_");
        let options = || {
            let mut options = Options::new((!of_base).then(|| "alpine".to_owned()));
            if of_base {
                options.set("base_file", b"/some.qcow2").unwrap();
            }
            if name.starts_with("health_") && name != "health_check" {
                options.set("health_check", b"true").unwrap();
            }
            options
        };
        let mut changed = options();
        changed.set(name, value.as_bytes()).unwrap();
        assert_ne!(changed.text(), options().text(), "{name} changes nothing");
        if let Some(wrong) = wrong {
            let failure = options().set(name, wrong.as_bytes()).unwrap_err();
            assert_eq!(failure.code(), "invalid", "{name}={wrong}");
        }
    }
    assert_eq!(Options::new(None).set("memroy", b"1G").unwrap_err().code(), "invalid");
}

#[test]
fn what_was_settled_when_it_was_made_cannot_be_said_to_a_start() {
    let mut options = Options::new(None);
    options.set("detached", b"true").unwrap();
    let folder = tempfile::tempdir().unwrap();
    options.set("home", folder.path().join("home").as_os_str().as_bytes()).unwrap();
    assert!(options.for_start().is_ok());
    options.set("memory", b"1G").unwrap();
    assert_eq!(options.for_start().unwrap_err().code(), "invalid");
    assert_eq!(Options::new(Some("alpine".to_owned())).for_start().unwrap_err().code(), "invalid");
}

#[test]
fn what_is_no_sandbox_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let home = CString::new(folder.path().join("home").as_os_str().as_bytes()).unwrap();
    let mut sandbox = ptr::null_mut();
    // SAFETY: texts and the place of a pointer; then an error of ours.
    unsafe {
        let error = vmm_attach(home.as_ptr(), c"nobody".as_ptr(), &raw mut sandbox);
        assert!(!vmm_error_hint(error).is_null());
        assert_eq!(code(error), "no_such_vm");
    }
    assert!(sandbox.is_null());
}

/// The words that a source gives as codes: `Self::Busy { .. } => "busy"`.
fn codes(source: &str) -> Vec<&str> {
    let after = source.split("=>").skip(1).map(|rest| rest.trim_start().trim_start_matches('{').trim_start());
    let words = after.filter_map(|rest| rest.strip_prefix('"')?.split_once('"'));
    let is_code = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    words.map(|(word, _)| word).filter(is_code).collect()
}

#[test]
fn every_code_is_in_the_documentation() {
    let documentation = include_str!("../../../docs/embedding.md");
    let errors = include_str!("../../src/sandbox/error.rs");
    let errors = codes(errors);
    let homes = codes(include_str!("../../src/home/error.rs"));
    let ends = include_str!("../../src/home/state.rs");
    let ends = codes(ends.split_once("fn code(self)").unwrap().1.split_once("\n    }").unwrap().0);
    assert!(errors.len() > 40 && homes.len() > 5 && ends.len() > 10);
    let all = errors.into_iter().chain(homes).chain(ends);
    let missing: Vec<&str> = all.filter(|code| !documentation.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/embedding.md has nothing of {missing:?}");
}
