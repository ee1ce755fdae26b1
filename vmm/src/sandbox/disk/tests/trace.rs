//! What a process does to the files of a home, as the system saw it: `strace` tells every call.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm_disk::testing::Event;

use super::tree::{NodeId, ROOT, Tree};

/// A file that is opened, though it is nowhere, to say that the operation begins.
pub(super) const BEGIN: &str = "/vmm-test-the-operation-begins";

/// The calls that change files, and those by which a file gets or loses a descriptor.
const CALLS: &str = "openat,close,dup,dup2,dup3,fcntl,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,\
    rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,link,linkat,fsync,fdatasync,\
    sendfile,copy_file_range";

/// Something that was done beneath the home.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// To what a file holds.
    Content { node: NodeId, event: Event },
    /// A name was given.
    Name { folder: NodeId, name: String, node: NodeId },
    /// A name was taken away.
    Unname { folder: NodeId, name: String, node: NodeId },
    /// Something got another name, in one step.
    Rename { node: NodeId, from: (NodeId, String), to: (NodeId, String) },
    /// Two things swapped their names, in one step.
    Exchange { one: (NodeId, String, NodeId), other: (NodeId, String, NodeId) },
    /// What a file holds, or the names in a folder, are on the disk.
    Sync { node: NodeId },
}

/// Runs a program under `strace` and returns its steps beneath the tree's root. The tree is what was there before, and
/// gets the nodes that were made.
pub(super) fn trace(tree: &mut Tree, command: &[&str], environment: &[(&str, &str)]) -> Vec<Step> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-xx", "-s", "16777216", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    let output = strace.args(command).envs(environment.iter().copied()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(log).unwrap();
    let mut tracer = Tracer { tree, open: HashMap::new(), steps: Vec::new() };
    let mut begun = false;
    for call in whole_lines(&text).iter().filter_map(|line| Call::parse(line)) {
        begun |= call.name == "openat" && call.text(1) == BEGIN;
        if begun && call.result >= 0 {
            tracer.take(&call);
        }
    }
    assert!(begun, "the operation did not begin: {said}");
    tracer.steps
}

/// The lines without the numbers of their threads; calls that others came between are put together.
fn whole_lines(text: &str) -> Vec<String> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, start.trim_end());
        } else if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>"))
        {
            let start = begun.remove(thread).unwrap_or_default();
            let end = end.trim_start();
            let comma = if start.ends_with('(') || end.starts_with([',', ')']) { "" } else { " " };
            lines.push(format!("{start}{comma}{end}"));
        } else {
            lines.push(rest.to_owned());
        }
    }
    lines
}

/// A call that has returned.
struct Call<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    result: i64,
}

impl<'a> Call<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        let result = result.split_whitespace().next()?.parse().ok()?;
        Some(Self { name, arguments: split(arguments), result })
    }

    /// A text among the arguments.
    fn text(&self, position: usize) -> String {
        let bytes = self.arguments.get(position).map(|argument| unescape(argument)).unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    }

    fn number(&self, position: usize) -> i64 {
        self.arguments.get(position).and_then(|argument| argument.parse().ok()).unwrap_or(-1)
    }

    fn offset(&self, position: usize) -> u64 {
        u64::try_from(self.number(position)).unwrap()
    }
}

/// Arguments, at the commas that lie in no list and no text. Texts are all in hexadecimal escapes.
fn split(arguments: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

/// The bytes of all texts in an argument, one after the other.
fn unescape(argument: &str) -> Vec<u8> {
    assert!(!argument.ends_with("..."), "strace cut a text short");
    let texts = argument.split('"').skip(1).step_by(2);
    let digits = texts.flat_map(|text| text.split("\\x").skip(1));
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// An open file.
#[derive(Clone, Copy)]
struct Open {
    node: NodeId,
    position: u64,
}

struct Tracer<'a> {
    tree: &'a mut Tree,
    open: HashMap<i64, Open>,
    steps: Vec<Step>,
}

impl Tracer<'_> {
    fn take(&mut self, call: &Call<'_>) {
        match call.name {
            "openat" => self.opened(call),
            "close" => {
                self.open.remove(&call.number(0));
            }
            "dup" | "dup2" | "dup3" | "fcntl" => {
                let duplicates = call.name != "fcntl" || call.arguments[1].starts_with("F_DUPFD");
                if let (true, Some(&open)) = (duplicates, self.open.get(&call.number(0))) {
                    self.open.insert(call.result, open);
                }
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => self.wrote(call),
            "ftruncate" => self.changed(call, |call| Event::SetLength(call.offset(1))),
            "fallocate" => self.changed(call, |call| {
                let zeroes =
                    call.arguments[1].contains("PUNCH_HOLE") || call.arguments[1].contains("ZERO_RANGE");
                assert!(zeroes, "{:?}", call.arguments);
                let grows = !call.arguments[1].contains("KEEP_SIZE");
                Event::Zero { offset: call.offset(2), length: call.offset(3), grows }
            }),
            "fsync" | "fdatasync" => {
                if let Some(open) = self.open.get(&call.number(0)) {
                    self.steps.push(Step::Sync { node: open.node });
                }
            }
            "mkdir" => drop(self.make(None, &call.text(0), Tree::add_folder)),
            "mkdirat" => drop(self.make(Some(call.arguments[0]), &call.text(1), Tree::add_folder)),
            "symlink" => drop(self.make(None, &call.text(1), |tree| tree.add_link(call.text(0).into()))),
            "symlinkat" => {
                self.make(Some(call.arguments[1]), &call.text(2), |tree| tree.add_link(call.text(0).into()));
            }
            "unlink" | "rmdir" => self.unname(None, &call.text(0)),
            "unlinkat" => self.unname(Some(call.arguments[0]), &call.text(1)),
            "rename" => self.rename((None, &call.text(0)), (None, &call.text(1)), false),
            "renameat" | "renameat2" => {
                let exchange = call.arguments.get(4).is_some_and(|flags| flags.contains("EXCHANGE"));
                let [from, to] = [1, 3].map(|at| call.text(at));
                self.rename((Some(call.arguments[0]), &from), (Some(call.arguments[2]), &to), exchange);
            }
            other => {
                let ours = call.arguments.iter().any(|argument| {
                    argument.parse().is_ok_and(|descriptor: i64| self.open.contains_key(&descriptor))
                });
                assert!(!ours, "{other} is not understood: {:?}", call.arguments);
            }
        }
    }

    /// The folder of a path, and the name in it, if they are beneath the root.
    fn place(&self, folder: Option<&str>, path: &str) -> Option<(NodeId, String)> {
        let path = Path::new(path);
        let start = match folder.and_then(|folder| folder.parse().ok()) {
            Some(descriptor) if path.is_relative() => self.open.get::<i64>(&descriptor)?.node,
            _ => ROOT,
        };
        let path = if path.is_absolute() { path.strip_prefix(self.tree.path()).ok()? } else { path };
        let folder = self.tree.find(start, path.parent()?)?;
        Some((folder, path.file_name()?.to_str()?.to_owned()))
    }

    fn opened(&mut self, call: &Call<'_>) {
        let (path, flags) = (call.text(1), call.arguments[2]);
        let is_root = Path::new(&path) == self.tree.path();
        let found = if is_root {
            Some(ROOT)
        } else {
            let Some((folder, name)) = self.place(Some(call.arguments[0]), &path) else {
                self.open.remove(&call.result);
                return;
            };
            self.tree.find(folder, Path::new(&name))
        };
        let node = match found {
            Some(node) => {
                if flags.contains("O_TRUNC") {
                    self.content(node, Event::SetLength(0));
                }
                node
            }
            None => {
                assert!(flags.contains("O_CREAT"), "{path} is not known");
                self.make(Some(call.arguments[0]), &path, Tree::add_file)
                    .unwrap_or_else(|| panic!("{path} was not made"))
            }
        };
        self.open.insert(call.result, Open { node, position: 0 });
    }

    fn wrote(&mut self, call: &Call<'_>) {
        let Some(open) = self.open.get_mut(&call.number(0)) else { return };
        let mut bytes = unescape(call.arguments[1]);
        bytes.truncate(usize::try_from(call.result).unwrap());
        let offset = match call.name {
            "write" | "writev" => {
                open.position += bytes.len() as u64;
                open.position - bytes.len() as u64
            }
            _ => call.offset(3),
        };
        let node = open.node;
        self.content(node, Event::Write { offset, bytes });
    }

    fn changed(&mut self, call: &Call<'_>, event: impl Fn(&Call<'_>) -> Event) {
        if let Some(open) = self.open.get(&call.number(0)) {
            self.content(open.node, event(call));
        }
    }

    fn content(&mut self, node: NodeId, event: Event) {
        self.steps.push(Step::Content { node, event });
    }

    fn make(
        &mut self,
        folder: Option<&str>,
        path: &str,
        add: impl FnOnce(&mut Tree) -> NodeId,
    ) -> Option<NodeId> {
        let (folder, name) = self.place(folder, path)?;
        let node = add(self.tree);
        self.tree.name(folder, &name, node);
        self.steps.push(Step::Name { folder, name, node });
        Some(node)
    }

    fn unname(&mut self, folder: Option<&str>, path: &str) {
        let Some((folder, name)) = self.place(folder, path) else { return };
        let node = self.tree.unname(folder, &name);
        self.steps.push(Step::Unname { folder, name, node });
    }

    fn rename(&mut self, from: (Option<&str>, &str), to: (Option<&str>, &str), exchange: bool) {
        let (from, to) = (self.place(from.0, from.1), self.place(to.0, to.1));
        let (Some(from), Some(to)) = (from, to) else { return };
        let node = self.tree.unname(from.0, &from.1);
        if !exchange {
            self.tree.name(to.0, &to.1, node);
            self.steps.push(Step::Rename { node, from, to });
            return;
        }
        let other = self.tree.unname(to.0, &to.1);
        self.tree.name(to.0, &to.1, node);
        self.tree.name(from.0, &from.1, other);
        self.steps.push(Step::Exchange { one: (from.0, from.1, node), other: (to.0, to.1, other) });
    }
}

/// Whether `strace` is there and may trace; says so if it does not.
pub(super) fn can_trace() -> bool {
    let ran = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let can = ran.is_ok_and(|output| output.status.success());
    if !can {
        println!("skipped: strace is not installed, or may not trace");
    }
    can
}

/// This test binary as a process that does one operation.
pub(super) fn this_test(name: &str) -> Vec<String> {
    let program: PathBuf = std::env::current_exe().unwrap();
    let arguments = [program.to_str().unwrap(), name, "--exact", "--nocapture", "--test-threads=1"];
    arguments.map(str::to_owned).to_vec()
}
