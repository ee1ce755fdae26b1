//! What a process and those that it starts do to the files of a home, as the system saw it: `strace` tells every call, and
//! of every descriptor which file it leads to at that moment, whichever process has it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm_disk::testing::Event;

use super::tree::{NodeId, ROOT, Tree};

/// A file that is opened, though it is nowhere, to say that the operation begins.
pub(super) const BEGIN: &str = "/vmm-test-the-operation-begins";

/// The same, to say that whoever asked for the operation is told that it is done.
pub(super) const END: &str = "/vmm-test-the-operation-is-done";

/// The calls that change files, and the one that makes them.
const CALLS: &str = "openat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,rename,renameat,renameat2,unlink,\
    unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,link,linkat,fsync,fdatasync,sendfile,copy_file_range";

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

/// What processes did beneath a folder.
pub(super) struct Traced {
    /// To make everything ready.
    pub(super) before: Vec<Step>,
    /// In the operation.
    pub(super) steps: Vec<Step>,
}

/// Runs a program under `strace` and returns its steps beneath the tree's root. The tree is what was there before, and
/// becomes what is there afterwards.
pub(super) fn trace(tree: &mut Tree, command: &[&str], environment: &[(&str, &str)]) -> Traced {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-s", "16777216", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    let output = strace.args(command).envs(environment.iter().copied()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(log).unwrap();
    let mut tracer = Tracer { tree, positions: HashMap::new(), steps: Vec::new() };
    let mut marks = Vec::new();
    for call in whole_lines(&text).iter().filter_map(|line| Call::parse(line)) {
        if call.name == "openat" && [BEGIN, END].contains(&call.text(1).as_str()) {
            marks.push(tracer.steps.len());
        }
        if call.result >= 0 {
            tracer.take(&call);
        }
    }
    let mut steps = tracer.steps;
    let (begin, end) = match marks[..] {
        [begin] => (begin, steps.len()),
        [begin, end] => (begin, end),
        _ => panic!("the operation did not begin: {said}"),
    };
    steps.truncate(end);
    let done = steps.split_off(begin);
    Traced { before: steps, steps: done }
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
    /// What a call returned that opens a file.
    opened: &'a str,
}

impl<'a> Call<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once('(')?;
        let (arguments, opened) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        let result = opened.split([' ', '<']).next()?.parse().ok()?;
        Some(Self { name, arguments: split(arguments), result, opened })
    }

    /// The file that a descriptor among the arguments leads to.
    fn file(&self, position: usize) -> Option<PathBuf> {
        file_of(self.arguments.get(position)?)
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

/// The file that a descriptor leads to, as it is called at the moment. `None`: it has no name any more.
fn file_of(descriptor: &str) -> Option<PathBuf> {
    let (_, name) = descriptor.split_once('<')?;
    let digits = name.strip_suffix('>')?.split("\\x").skip(1);
    let bytes = digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
    Some(String::from_utf8(bytes).unwrap().into())
}

struct Tracer<'a> {
    tree: &'a mut Tree,
    /// Where whoever writes a file from its beginning to its end has come to.
    positions: HashMap<NodeId, u64>,
    steps: Vec<Step>,
}

impl Tracer<'_> {
    fn take(&mut self, call: &Call<'_>) {
        match call.name {
            "openat" => self.opened(call),
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
                if let Some(node) = self.node(call, 0) {
                    self.steps.push(Step::Sync { node });
                }
            }
            "mkdir" => self.make(place(call, None, 0), Tree::add_folder),
            "mkdirat" => self.make(place(call, Some(0), 1), Tree::add_folder),
            "symlink" => self.make(place(call, None, 1), |tree| tree.add_link(call.text(0).into())),
            "symlinkat" => self.make(place(call, Some(1), 2), |tree| tree.add_link(call.text(0).into())),
            "link" => self.link(place(call, None, 0), place(call, None, 1)),
            "linkat" => self.link(place(call, Some(0), 1), place(call, Some(2), 3)),
            "unlink" | "rmdir" => self.unname(place(call, None, 0)),
            "unlinkat" => self.unname(place(call, Some(0), 1)),
            "rename" => self.rename(place(call, None, 0), place(call, None, 1), false),
            "renameat" | "renameat2" => {
                let exchange = call.arguments.get(4).is_some_and(|flags| flags.contains("EXCHANGE"));
                self.rename(place(call, Some(0), 1), place(call, Some(2), 3), exchange);
            }
            other => {
                let ours = (0..call.arguments.len()).any(|position| self.node(call, position).is_some());
                assert!(!ours, "{other} is not understood: {:?}", call.arguments);
            }
        }
    }

    /// What a path leads to, if it is beneath the root.
    fn find(&self, path: &Path) -> Option<NodeId> {
        self.tree.find(ROOT, path.strip_prefix(self.tree.path()).ok()?)
    }

    /// What a descriptor among the arguments leads to, if it is beneath the root.
    fn node(&self, call: &Call<'_>, position: usize) -> Option<NodeId> {
        self.find(&call.file(position)?)
    }

    /// The folder of a path, and the name in it, if they are beneath the root.
    fn parent(&self, path: Option<PathBuf>) -> Option<(NodeId, String)> {
        let path = path?;
        Some((self.find(path.parent()?)?, path.file_name()?.to_str()?.to_owned()))
    }

    fn opened(&mut self, call: &Call<'_>) {
        let flags = call.arguments[2];
        let Some(path) = file_of(call.opened).filter(|path| path.starts_with(self.tree.path())) else {
            return;
        };
        if self.find(&path).is_none() {
            assert!(flags.contains("O_CREAT"), "{} is not known", path.display());
            self.make(Some(path.clone()), Tree::add_file);
        }
        let node = self.find(&path).unwrap_or_else(|| panic!("{} was not made", path.display()));
        if flags.contains("O_TRUNC") {
            self.content(node, Event::SetLength(0));
        }
        if flags.contains("O_WRONLY") || flags.contains("O_RDWR") {
            let position = if flags.contains("O_APPEND") { self.tree.length(node) } else { 0 };
            self.positions.insert(node, position);
        }
    }

    fn wrote(&mut self, call: &Call<'_>) {
        let Some(node) = self.node(call, 0) else { return };
        let mut bytes = unescape(call.arguments[1]);
        bytes.truncate(usize::try_from(call.result).unwrap());
        let offset = match call.name {
            "write" | "writev" => {
                let position = self.positions.entry(node).or_insert_with(|| self.tree.length(node));
                *position += bytes.len() as u64;
                *position - bytes.len() as u64
            }
            _ => call.offset(3),
        };
        self.content(node, Event::Write { offset, bytes });
    }

    fn changed(&mut self, call: &Call<'_>, event: impl Fn(&Call<'_>) -> Event) {
        if let Some(node) = self.node(call, 0) {
            self.content(node, event(call));
        }
    }

    fn content(&mut self, node: NodeId, event: Event) {
        self.step(Step::Content { node, event });
    }

    fn make(&mut self, path: Option<PathBuf>, add: impl FnOnce(&mut Tree) -> NodeId) {
        let Some((folder, name)) = self.parent(path) else { return };
        let node = add(self.tree);
        self.step(Step::Name { folder, name, node });
    }

    fn link(&mut self, from: Option<PathBuf>, to: Option<PathBuf>) {
        let Some((folder, name)) = self.parent(to) else { return };
        let node = from.and_then(|from| self.find(&from)).unwrap_or_else(|| panic!("{name} is not known"));
        self.step(Step::Name { folder, name, node });
    }

    fn unname(&mut self, path: Option<PathBuf>) {
        let Some((folder, name)) = self.parent(path) else { return };
        let node = self.tree.named(folder, &name);
        self.step(Step::Unname { folder, name, node });
    }

    fn rename(&mut self, from: Option<PathBuf>, to: Option<PathBuf>, exchange: bool) {
        let (Some(from), Some(to)) = (self.parent(from), self.parent(to)) else { return };
        let node = self.tree.named(from.0, &from.1);
        if exchange {
            let other = self.tree.named(to.0, &to.1);
            self.step(Step::Exchange { one: (from.0, from.1, node), other: (to.0, to.1, other) });
        } else {
            self.step(Step::Rename { node, from, to });
        }
    }

    fn step(&mut self, step: Step) {
        self.tree.take(&step);
        self.steps.push(step);
    }
}

/// A path among the arguments, which may begin at a folder among them.
fn place(call: &Call<'_>, folder: Option<usize>, path: usize) -> Option<PathBuf> {
    let path = PathBuf::from(call.text(path));
    match folder {
        Some(folder) if path.is_relative() => Some(call.file(folder)?.join(path)),
        _ => Some(path),
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
