//! The files beneath a folder, and the states in which a power cut can leave them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use vmm_disk::testing::{Event, Random};

use super::trace::Step;

/// A file, folder or link, whatever its name.
pub(super) type NodeId = usize;

/// The folder that everything lies in.
pub(super) const ROOT: NodeId = 0;

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Folder,
    Link(PathBuf),
}

/// The files beneath a folder.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    path: PathBuf,
    nodes: Vec<Node>,
    names: BTreeMap<(NodeId, String), NodeId>,
}

impl Tree {
    /// What is on the disk now.
    pub(super) fn read(path: &Path) -> Self {
        let mut tree = Self { path: path.to_owned(), nodes: vec![Node::Folder], names: BTreeMap::new() };
        tree.read_folder(ROOT, path);
        tree
    }

    fn read_folder(&mut self, folder: NodeId, path: &Path) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let node = if kind.is_dir() {
                self.add_folder()
            } else if kind.is_symlink() {
                self.add_link(fs::read_link(&path).unwrap())
            } else {
                self.nodes.push(Node::File(fs::read(&path).unwrap()));
                self.nodes.len() - 1
            };
            self.name(folder, entry.file_name().to_str().unwrap(), node);
            if kind.is_dir() {
                self.read_folder(node, &path);
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn add_file(&mut self) -> NodeId {
        self.add(Node::File(Vec::new()))
    }

    pub(super) fn add_folder(&mut self) -> NodeId {
        self.add(Node::Folder)
    }

    pub(super) fn add_link(&mut self, target: PathBuf) -> NodeId {
        self.add(Node::Link(target))
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn name(&mut self, folder: NodeId, name: &str, node: NodeId) {
        self.names.insert((folder, name.to_owned()), node);
    }

    /// What has a name.
    pub(super) fn named(&self, folder: NodeId, name: &str) -> NodeId {
        *self.names.get(&(folder, name.to_owned())).unwrap_or_else(|| panic!("{name} is not known"))
    }

    /// How long a file is.
    pub(super) fn length(&self, node: NodeId) -> u64 {
        if let Node::File(bytes) = &self.nodes[node] { bytes.len() as u64 } else { 0 }
    }

    /// What a path leads to from a folder.
    pub(super) fn find(&self, folder: NodeId, path: &Path) -> Option<NodeId> {
        let mut at = folder;
        for component in path.components() {
            let folder = at;
            at = match component {
                Component::Normal(name) => *self.names.get(&(folder, name.to_str()?.to_owned()))?,
                Component::ParentDir => self.names.iter().find(|(_, node)| **node == folder)?.0.0,
                _ => folder,
            };
            if let Node::Link(target) = &self.nodes[at] {
                at = match target.strip_prefix(&self.path) {
                    Ok(target) => self.find(ROOT, target)?,
                    Err(_) => self.find(folder, target)?,
                };
            }
        }
        Some(at)
    }

    /// Writes it in the place of what is there.
    pub(super) fn write(&self) {
        let _ = fs::remove_dir_all(&self.path);
        self.write_folder(ROOT, &self.path);
    }

    fn write_folder(&self, folder: NodeId, path: &Path) {
        fs::DirBuilder::new().mode(0o700).create(path).unwrap();
        for ((_, name), &node) in self.names.range((folder, String::new())..(folder + 1, String::new())) {
            let path = path.join(name);
            match &self.nodes[node] {
                Node::Folder => self.write_folder(node, &path),
                Node::Link(target) => symlink(target, path).unwrap(),
                Node::File(bytes) => {
                    let mut file = fs::File::options();
                    let file = file.write(true).create_new(true).mode(0o600).open(path).unwrap();
                    write_sparse(&file, bytes);
                }
            }
        }
    }

    /// Does all of a step.
    pub(super) fn take(&mut self, step: &Step) {
        self.apply(step, |_| true);
    }

    /// Does a step, as far as `keeps` says of its sectors.
    fn apply(&mut self, step: &Step, keeps: impl Fn(u64) -> bool) {
        match step {
            Step::Content { node, event } => {
                if let Node::File(bytes) = &mut self.nodes[*node] {
                    event.apply(bytes, keeps);
                }
            }
            Step::Name { folder, name, node } => self.name(*folder, name, *node),
            Step::Unname { folder, name, node } => self.forget(*folder, name, *node),
            Step::Rename { node, from, to } => {
                self.forget(from.0, &from.1, *node);
                self.name(to.0, &to.1, *node);
            }
            Step::Exchange { one, other } => {
                self.name(one.0, &one.1, other.2);
                self.name(other.0, &other.1, one.2);
            }
            Step::Sync { .. } => {}
        }
    }

    /// Takes a name away, if it still stands for this.
    fn forget(&mut self, folder: NodeId, name: &str, node: NodeId) {
        let key = (folder, name.to_owned());
        if self.names.get(&key) == Some(&node) {
            self.names.remove(&key);
        }
    }

    /// The tree after all of the steps.
    pub(super) fn after(&self, steps: &[Step]) -> Self {
        let mut tree = self.clone();
        steps.iter().for_each(|step| tree.take(step));
        tree
    }

    /// The files by their paths.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, &[u8]> {
        let mut files = BTreeMap::new();
        self.list(ROOT, Path::new(""), &mut files);
        files
    }

    fn list<'a>(&'a self, folder: NodeId, path: &Path, files: &mut BTreeMap<PathBuf, &'a [u8]>) {
        for ((_, name), &node) in self.names.range((folder, String::new())..(folder + 1, String::new())) {
            match &self.nodes[node] {
                Node::Folder => self.list(node, &path.join(name), files),
                Node::File(bytes) => drop(files.insert(path.join(name), bytes)),
                Node::Link(_) => {}
            }
        }
    }

    /// The tree before any of the steps: what they made is there, but has no name and no contents.
    pub(super) fn before(mut self, names: &Self) -> Self {
        let made = names.nodes[self.nodes.len()..].iter().map(|node| match node {
            Node::File(_) => Node::File(Vec::new()),
            other => other.clone(),
        });
        self.nodes.extend(made);
        self
    }
}

/// How much is looked at together: byte by byte, code that is not optimised would spend most of its time with this.
pub(super) const PAGE: usize = 4096;

/// Whether a page, or a piece of one, is zero.
pub(super) fn is_zero(piece: &[u8]) -> bool {
    *piece == [0; PAGE][..piece.len()]
}

fn write_sparse(file: &fs::File, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    for (place, piece) in (0_u64..).step_by(PAGE).zip(bytes.chunks(PAGE)) {
        if !is_zero(piece) {
            file.write_all_at(piece, place).unwrap();
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
}

/// Which states are tried between two syncs, and how many.
pub(super) struct Cuts {
    /// Up to so many steps that no sync has covered, all subsets are tried.
    pub(super) exhaustive: usize,
    /// How many are tried where there are more.
    pub(super) samples: u64,
    pub(super) seed: u64,
}

/// Writes each state in which a power cut can leave the tree, and calls `inspect` with whether all was done by then.
/// Returns how many there were.
///
/// What a file holds since it was synced may be on the disk or not, write by write, torn at any sector; so may the names in
/// a folder since that was. A rename is one step, as it is on every file system that has a journal, and is synced with the
/// folder of the new name.
pub(super) fn replay(before: &Tree, steps: &[Step], cuts: &Cuts, mut inspect: impl FnMut(bool)) -> u64 {
    let mut random = Random::new(cuts.seed);
    let mut count = 0;
    for end in 0..=steps.len() {
        let is_sync = |step: &Step| matches!(step, Step::Sync { .. });
        // Between two syncs, the states at the end of the stretch have all the others among them.
        if steps.get(end).is_some_and(|step| !is_sync(step)) {
            continue;
        }
        if end < steps.len() && end > 0 && is_sync(&steps[end - 1]) {
            continue;
        }
        let open: Vec<usize> = (0..end).filter(|&at| !is_durable(&steps[..end], at)).collect();
        let is_open: BTreeSet<usize> = open.iter().copied().collect();
        let mut write = |kept: &dyn Fn(usize, u64) -> bool| {
            let mut tree = before.clone();
            for (at, step) in steps[..end].iter().enumerate() {
                let whole = !is_open.contains(&at);
                let names = !matches!(step, Step::Content { .. });
                if whole || !names || kept(at, u64::MAX) {
                    tree.apply(step, |sector| whole || kept(at, sector));
                }
            }
            tree.write();
            count += 1;
            inspect(end == steps.len());
        };
        if open.len() <= cuts.exhaustive {
            for subset in 0..1_u64 << open.len() {
                write(&|at, _| open.binary_search(&at).is_ok_and(|position| subset & 1 << position != 0));
            }
        } else {
            for sample in 0..cuts.samples {
                let seed = random.next_number();
                let share = match sample {
                    0 => 0,
                    1 => 10,
                    _ => 1 + random.below(9),
                };
                let torn = random.chance(1, 3);
                write(&|at, sector| {
                    let chance = |number: u64| Random::new(seed ^ number).chance(share, 10);
                    let step = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    if torn && sector != u64::MAX {
                        chance(step ^ sector.wrapping_mul(31))
                    } else {
                        chance(step)
                    }
                });
            }
        }
    }
    count
}

/// Whether a later sync has made a step durable.
fn is_durable(steps: &[Step], at: usize) -> bool {
    let folder = match &steps[at] {
        Step::Content { node, .. } => *node,
        Step::Name { folder, .. } | Step::Unname { folder, .. } => *folder,
        Step::Rename { to, .. } => to.0,
        Step::Exchange { other, .. } => other.0,
        Step::Sync { .. } => return true,
    };
    steps[at..].iter().any(|step| matches!(step, Step::Sync { node } if *node == folder))
}

/// How many bytes the steps write.
pub(super) fn written(steps: &[Step]) -> u64 {
    let bytes = steps.iter().map(|step| match step {
        Step::Content { event: Event::Write { bytes, .. }, .. } => bytes.len() as u64,
        _ => 0,
    });
    bytes.sum()
}
