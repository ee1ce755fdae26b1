//! The paths in a source file, as far as they say which module uses which.

use std::collections::BTreeMap;
use std::path::Path;

/// Names that the library's root exports, and the modules they come from.
pub type Exports = BTreeMap<String, String>;

/// Something that a file uses: a module of the library, and what follows it in the path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) line: usize,
    pub(super) module: String,
    pub(super) item: Option<String>,
}

/// The module of the library that a file belongs to. `None`: it is in no module, as the root itself.
pub(super) fn module_of(place: &Path) -> Option<String> {
    let inside = place.strip_prefix("vmm/src").ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib").then(|| module.to_owned())
}

/// What the root exports: `pub use home::{Home, Init};` makes `crate::Home` a use of `home`.
pub fn exports(root: &str) -> Exports {
    let code = super::text::without_comments_and_strings(root);
    let mut exports = Exports::new();
    for statement in code.split(';') {
        let Some((_, path)) = statement.split_once("pub use ") else { continue };
        let path = path.trim().strip_prefix("crate::").unwrap_or(path.trim());
        let Some((module, names)) = path.split_once("::") else { continue };
        for word in words(names) {
            exports.insert(word.to_owned(), module.to_owned());
        }
    }
    exports
}

/// What a file of the library uses of the library.
pub(super) fn uses(place: &Path, code: &str, exports: &Exports) -> Vec<Use> {
    let mut uses = Vec::new();
    for (at, path) in paths_from_root(place, code) {
        let line = 1 + code.get(..at).unwrap_or_default().matches('\n').count();
        for (first, second) in heads(path) {
            // `pub(in crate::virtio)` and `crate::Home` are found here alike.
            let module = exports.get(first).map_or(first, String::as_str).to_owned();
            uses.push(Use { line, module, item: second.map(str::to_owned) });
        }
    }
    uses
}

/// Where paths from the library's root begin, and the text after it: `crate::…`, or `super::super::…` that climbs so
/// far.
fn paths_from_root<'a>(place: &Path, code: &'a str) -> Vec<(usize, &'a str)> {
    let mut found: Vec<(usize, &str)> = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if is_word_start(code, at) {
            found.push((at, code.get(at + "crate::".len()..).unwrap_or_default()));
        }
    }
    let depth = depth_of(place);
    for (at, _) in code.match_indices("super::") {
        let climbs_on = code.get(..at).unwrap_or_default().ends_with("super::");
        if climbs_on || !is_word_start(code, at) {
            continue;
        }
        let mut rest = code.get(at..).unwrap_or_default();
        let mut levels = 0;
        while let Some(left) = rest.strip_prefix("super::") {
            rest = left;
            levels += 1;
        }
        // In a module within the file the same path ends one level lower: then it names no module of the root.
        if levels == depth && word_at_start(rest).is_some_and(super::rules::is_module) {
            found.push((at, rest));
        }
    }
    found
}

/// How many modules a file lies below the root: `sandbox/mod.rs` one, `sandbox/error.rs` two.
fn depth_of(place: &Path) -> usize {
    let inside = place.strip_prefix("vmm/src").unwrap_or(place);
    let is_folder_itself = inside.file_name().is_some_and(|name| name == "mod.rs");
    inside.components().count() - usize::from(is_folder_itself)
}

/// The first two names of each path in a tree of paths such as `a::b` or `{a::b, c::{d, e}}`.
fn heads(path: &str) -> Vec<(&str, Option<&str>)> {
    let Some(group) = path.strip_prefix('{') else { return head(path).into_iter().collect() };
    let mut depth = 1;
    let mut start = 0;
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            heads.extend(head(group.get(start..at).unwrap_or_default()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn head(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.trim_start();
    let first = word_at_start(path)?;
    let rest = path.get(first.len()..).unwrap_or_default();
    let second =
        rest.strip_prefix("::").and_then(|rest| word_at_start(rest.trim_start_matches('{').trim_start()));
    Some((first, second))
}

fn word_at_start(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    text.get(..end).filter(|word| !word.is_empty())
}

/// The words of a text that are names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty() && *word != "self" && *word != "as")
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_word_start(code: &str, at: usize) -> bool {
    let before = code.get(..at).and_then(|before| before.chars().next_back());
    !before.is_some_and(|c| is_word(c) || c == ':' || c == '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(place: &str, code: &str) -> Vec<String> {
        let exports = exports("pub use home::{Home, Init};\npub use sandbox::Sandbox;");
        let uses = uses(Path::new(place), code, &exports);
        uses.into_iter().map(|used| format!("{} {}", used.module, used.item.unwrap_or_default())).collect()
    }

    #[test]
    fn each_way_to_write_a_path_is_seen() {
        let place = "vmm/src/virtio/block/mod.rs";
        assert_eq!(used(place, "use crate::machine::Machine;"), ["machine Machine"]);
        assert_eq!(used(place, "use crate::{arch::Arch, engine::{self, x}};"), ["arch Arch", "engine self"]);
        assert_eq!(used(place, "fn f(x: &crate::monitor::Monitor) {}"), ["monitor Monitor"]);
        assert_eq!(used(place, "use super::super::engine::Engine;"), ["engine Engine"]);
        assert_eq!(used(place, "use super::queue::Queue; use mycrate::engine;"), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_the_root_exports_is_a_use_of_its_module() {
        assert_eq!(used("vmm/src/agent/mod.rs", "use crate::Sandbox;"), ["sandbox "]);
    }

    #[test]
    fn a_file_knows_its_module() {
        assert_eq!(module_of(Path::new("vmm/src/virtio/block/mod.rs")).as_deref(), Some("virtio"));
        assert_eq!(module_of(Path::new("vmm/src/agent.rs")).as_deref(), Some("agent"));
        assert_eq!(module_of(Path::new("vmm/src/lib.rs")), None);
        assert_eq!(module_of(Path::new("vmm/sys/src/event.rs")), None);
    }
}
