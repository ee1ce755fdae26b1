//! The files that a project names: scripts and kernels. Those that lead out of the project's folder are read only
//! after its user has said that it may.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ProjectError;
use super::description::{HostPath, MachineDescription, Script, ScriptRun, ScriptSource};
use super::file::{Problem, ProjectFile};
use super::locate::{self, Location};
use crate::image::{BaseFile, Digest, Format};
use crate::kernels::{KernelName, KernelStore};
use crate::sandbox::{DiskSize, ExtraDisk};

/// Longer scripts are not read.
const LONGEST_SCRIPT: u64 = 1 << 20;

/// Larger kernels are not read.
const LARGEST_KERNEL: u64 = 512 << 20;

/// A machine with all that it needs from the host.
#[derive(Clone, Debug)]
pub(super) struct ReadyMachine {
    pub(super) name: String,
    pub(super) description: MachineDescription,
    /// The kernel's real path, or its name in the store.
    pub(super) kernel: Option<PathBuf>,
    /// The real path of the file that its disk is made over, and its format.
    pub(super) base: Option<BaseFile>,
    /// Where its overlay is, or will be.
    pub(super) overlay: Option<PathBuf>,
    /// Its disks, by their real paths; with a size, those that are to be made where they are not there.
    pub(super) disks: Vec<(ExtraDisk, PathBuf, Option<DiskSize>)>,
    /// What its VM must be restarted or made anew for, by the names of the keys.
    pub(super) compared: serde_json::Map<String, serde_json::Value>,
    pub(super) scripts: Vec<ReadyScript>,
}

/// A script with its text.
#[derive(Clone, Debug)]
pub(super) struct ReadyScript {
    pub(super) title: String,
    pub(super) script: Script,
    pub(super) text: Vec<u8>,
    /// What it is known by: another text, or another user to run it, makes another script of it.
    pub(super) digest: String,
}

impl ReadyScript {
    pub(super) fn runs_once(&self) -> bool {
        self.script.run == ScriptRun::Once
    }
}

/// The files beyond the project's folder that it names, by their real paths; and what identifies the question whether
/// it may have them: the text of its file, and where these paths lead.
pub(super) fn outside(
    location: &Location,
    text: &str,
    file: &ProjectFile,
) -> Result<(Vec<PathBuf>, Digest), ProjectError> {
    let mut outside = Vec::new();
    let mut problems = Vec::new();
    let mut question = format!("{}\0", Digest::of(text.as_bytes()));
    for (path, may_be_made) in file.machines.iter().flat_map(|(_, machine)| paths(machine)) {
        let find = if may_be_made { real_place } else { real_path };
        match find(&location.folder, &path.path) {
            Ok(real) if real.starts_with(&location.folder) => {}
            Ok(real) => {
                question.push_str(&format!("{}\0", real.display()));
                outside.push(real);
            }
            Err(error) => problems.push(problem(path, &error)),
        }
    }
    refuse(location, problems)?;
    outside.sort();
    outside.dedup();
    Ok((outside, Digest::of(question.as_bytes())))
}

/// Reads what a project's machines need from the host: what is in its folder, and what is `outside` with its user's
/// word.
pub(super) fn gather(
    kernels: &KernelStore,
    location: &Location,
    file: &ProjectFile,
    outside: &[PathBuf],
) -> Result<Vec<ReadyMachine>, ProjectError> {
    let reach = Reach { folder: &location.folder, outside };
    let mut problems = Vec::new();
    let machines = file.machines.iter().map(|(name, machine)| {
        let mut compared = match serde_json::to_value(machine) {
            Ok(serde_json::Value::Object(compared)) => compared,
            // It is a table of texts and numbers.
            _ => serde_json::Map::new(),
        };
        let kernel = machine.kernel.as_ref().and_then(|path| match kernel(&reach, kernels, path) {
            Ok((real, digest)) => {
                compared.insert("kernel".to_owned(), format!("{} ({digest})", path.path.display()).into());
                Some(real)
            }
            Err(error) => {
                problems.push(problem(path, &error));
                None
            }
        });
        let mut scripts = Vec::new();
        for (index, script) in machine.provision.iter().enumerate() {
            let title = script.title(index);
            match script_text(&reach, script) {
                Ok(text) => scripts.push(ReadyScript {
                    title,
                    digest: digest_of(script, &text),
                    script: script.clone(),
                    text,
                }),
                Err((path, error)) => problems.push(problem(path, &error)),
            }
        }
        let mut found = |path: &HostPath, real: io::Result<PathBuf>| {
            real.map_err(|error| problems.push(problem(path, &error))).ok()
        };
        let base = machine.base_image.as_ref().and_then(|path| {
            let real = found(path, reach.real_path(&path.path).and_then(readable))?;
            compared.insert("base_image".to_owned(), real.display().to_string().into());
            let format = is_raw(&real).then_some(Format::Raw);
            Some(BaseFile { format, ..BaseFile::new(real) })
        });
        let overlay = machine.overlay.as_ref().and_then(|path| found(path, reach.place(&path.path)));
        let disks = machine.disks.iter().filter_map(|disk| {
            let path = disk.path.as_ref()?;
            let real =
                if disk.size.is_some() { reach.place(&path.path) } else { reach.real_path(&path.path) };
            let real = found(path, real)?;
            let extra = ExtraDisk::new(&real).read_only(disk.read_only);
            let extra = disk.format.map_or(extra.clone(), |format| extra.format(format));
            Some((extra, real, disk.size))
        });
        let disks: Vec<_> = disks.collect();
        if !disks.is_empty() {
            let told = machine.disks.iter().zip(&disks).map(|(disk, (_, real, _))| {
                let format = disk.format.map(|format| format!("{format:?}").to_lowercase());
                serde_json::json!({ "path": real, "read_only": disk.read_only, "format": format })
            });
            compared.insert("disks".to_owned(), told.collect());
        }
        let (name, description) = (name.clone(), machine.clone());
        ReadyMachine { name, description, kernel, base, overlay, disks, compared, scripts }
    });
    let machines = machines.collect();
    refuse(location, problems)?;
    Ok(machines)
}

/// What is to be a base is a file.
fn readable(real: PathBuf) -> io::Result<PathBuf> {
    locate::open(&real).map(|_| real)
}

/// Whether a file's name says that it is raw. What a guest writes to it may look like anything.
fn is_raw(file: &Path) -> bool {
    let extension = file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| extension == "raw" || extension == "img")
}

fn refuse(location: &Location, problems: Vec<Problem>) -> Result<(), ProjectError> {
    if problems.is_empty() {
        return Ok(());
    }
    let path = location.file.clone().unwrap_or_else(|| location.folder.clone());
    Err(ProjectError::File { path, problems })
}

fn problem(path: &HostPath, error: &io::Error) -> Problem {
    let message = format!("cannot read {}: {error}", path.path.display());
    Problem { line: path.line, column: path.column, message }
}

/// The files that a machine names, and whether one may be missing: then it is about to be made.
fn paths(machine: &MachineDescription) -> impl Iterator<Item = (&HostPath, bool)> {
    let scripts = machine.provision.iter().filter_map(|script| match &script.source {
        ScriptSource::File(path) => Some(path),
        _ => None,
    });
    let disks = machine.disks.iter().filter_map(|disk| Some((disk.path.as_ref()?, disk.size.is_some())));
    let overlay = machine.overlay.iter().map(|path| (path, true));
    let there = machine.kernel.iter().chain(&machine.base_image).chain(scripts);
    there.map(|path| (path, false)).chain(overlay).chain(disks)
}

/// Where a path leads in the end.
fn real_path(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(folder.join(path))
}

/// The same for a file that may not be there yet: its folder is.
fn real_place(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    match real_path(folder, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let place = folder.join(path);
            // A link that leads nowhere would be followed by whoever makes the file.
            let (Some(above), Some(name), Err(_)) =
                (place.parent(), place.file_name(), fs::symlink_metadata(&place))
            else {
                return Err(error);
            };
            Ok(fs::canonicalize(above).map_err(|_| error)?.join(name))
        }
        real => real,
    }
}

/// What may be read.
struct Reach<'a> {
    folder: &'a Path,
    outside: &'a [PathBuf],
}

impl Reach<'_> {
    /// Where a path leads in the end, if that may be read: a link may lead elsewhere since its user was asked.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.allowed(real_path(self.folder, path)?)
    }

    /// The same for a file that may not be there yet.
    fn place(&self, path: &Path) -> io::Result<PathBuf> {
        self.allowed(real_place(self.folder, path)?)
    }

    fn allowed(&self, real: PathBuf) -> io::Result<PathBuf> {
        if real.starts_with(self.folder) || self.outside.contains(&real) {
            return Ok(real);
        }
        let message = format!("it leads out of the project, to {}", real.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

/// A kernel of the store by its name, or a file.
fn kernel(reach: &Reach<'_>, kernels: &KernelStore, path: &HostPath) -> io::Result<(PathBuf, Digest)> {
    if path.path == Path::new(KernelName::OF_IMAGE) {
        return Ok((path.path.clone(), Digest::of(b"")));
    }
    let name = path.path.to_str().and_then(|text| text.parse::<KernelName>().ok());
    if let Some(name) = name.as_ref().filter(|name| kernels.has(name)) {
        let kernel = kernels.find(name).map_err(io::Error::other)?;
        return Ok((path.path.clone(), kernel.sha256()));
    }
    let real = match (reach.real_path(&path.path), name) {
        // A name that is no file's is that of a kernel which is not here.
        (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(kernels.find(&name).err().map_or(error, io::Error::other));
        }
        (real, _) => real?,
    };
    let file = locate::open(&real)?;
    if file.metadata()?.len() > LARGEST_KERNEL {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any kernel"));
    }
    let (digest, _) = Digest::of_reader(file.take(LARGEST_KERNEL), |_| {})?;
    Ok((real, digest))
}

fn script_text<'a>(reach: &Reach<'_>, script: &'a Script) -> Result<Vec<u8>, (&'a HostPath, io::Error)> {
    match &script.source {
        ScriptSource::Missing => Ok(Vec::new()),
        ScriptSource::Inline(text) => Ok(text.clone().into_bytes()),
        ScriptSource::File(path) => reach
            .real_path(&path.path)
            .and_then(|real| locate::read_bounded(&real, LONGEST_SCRIPT))
            .map_err(|error| (path, error)),
    }
}

fn digest_of(script: &Script, text: &[u8]) -> String {
    let user = script.user.as_deref().unwrap_or_default();
    let mut bytes = format!("{user}\0").into_bytes();
    bytes.extend_from_slice(text);
    Digest::of(&bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _base: tempfile::TempDir,
        location: Location,
    }

    /// A project in the folder `project` of a new folder.
    fn project() -> Fixture {
        let base = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(base.path()).unwrap().join("project");
        fs::create_dir(&folder).unwrap();
        Fixture { _base: base, location: Location { file: Some(folder.join("vmm.toml")), folder } }
    }

    impl Fixture {
        fn outside(&self, text: &str) -> (Vec<PathBuf>, Digest) {
            outside(&self.location, text, &ProjectFile::parse(text).unwrap()).unwrap()
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.location.folder.join(path), text).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let _ = fs::remove_file(self.location.folder.join(path));
            std::os::unix::fs::symlink(target, self.location.folder.join(path)).unwrap();
        }

        fn kernels(&self) -> KernelStore {
            KernelStore::beneath(&self.location.folder.join("no home"))
        }

        fn gather(&self, text: &str) -> Result<Vec<ReadyMachine>, ProjectError> {
            gather(&self.kernels(), &self.location, &ProjectFile::parse(text).unwrap(), &[])
        }
    }

    fn provision(path: &str) -> String {
        format!("[[provision]]\nfile = \"{path}\"")
    }

    #[test]
    fn files_in_the_project_need_nobodys_word() {
        let project = project();
        fs::create_dir(project.location.folder.join("scripts")).unwrap();
        project.write("scripts/a.sh", "true");
        project.link("link.sh", "scripts/a.sh");
        let absolute = project.location.folder.join("scripts/a.sh");
        let absolute = absolute.to_str().unwrap();
        for path in ["scripts/a.sh", "./scripts/../scripts/a.sh", "link.sh", "../project/link.sh", absolute] {
            assert_eq!(project.outside(&provision(path)).0, Vec::<PathBuf>::new(), "{path}");
        }
    }

    #[test]
    fn whatever_leads_out_is_seen() {
        let project = project();
        project.write("../secret", "word");
        project.write("../project-2", "a name that begins like the project's");
        project.link("link.sh", "../secret");
        project.link("folder", "..");
        let base = project.location.folder.parent().unwrap();
        let absolute = base.join("secret");
        for path in ["../secret", "link.sh", "folder/secret", absolute.to_str().unwrap()] {
            for text in [provision(path), format!("kernel = \"{path}\"")] {
                assert_eq!(project.outside(&text).0, std::slice::from_ref(&absolute), "{text}");
                let Err(ProjectError::File { problems, .. }) = project.gather(&text) else {
                    panic!("what nobody was asked about is not read: {text}")
                };
                assert!(problems[0].message.contains("leads out"), "{problems:?}");
                let file = ProjectFile::parse(&text).unwrap();
                gather(&project.kernels(), &project.location, &file, std::slice::from_ref(&absolute))
                    .unwrap();
            }
        }
        assert_eq!(project.outside(&provision("../project-2")).0, [base.join("project-2")]);
    }

    #[test]
    fn the_question_is_another_when_the_file_or_where_a_link_leads_is() {
        let project = project();
        project.write("../one", "1");
        project.write("../two", "2");
        project.link("link", "../one");
        let first = project.outside(&provision("link")).1;
        assert_eq!(project.outside(&provision("link")).1, first);
        assert_ne!(project.outside(&format!("{}\ntimeout = \"5s\"", provision("link"))).1, first);
        project.link("link", "../two");
        assert_ne!(project.outside(&provision("link")).1, first);
    }

    #[test]
    fn a_file_that_is_none_is_told_with_its_place() {
        let project = project();
        fs::create_dir(project.location.folder.join("folder")).unwrap();
        project.write("long", &"#".repeat(2 << 20));
        let text =
            "kernel = \"folder\"\n[[provision]]\nfile = \"long\"\n[[provision]]\nfile = \"no\\u000asuch\"";
        assert!(ProjectFile::parse(text).is_err(), "a path is one line");
        let text = "kernel = \"folder\"\n[[provision]]\nfile = \"long\"";
        let Err(ProjectError::File { problems, .. }) = project.gather(text) else { panic!("it is refused") };
        let told: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
        assert_eq!(told, [(1, 10), (3, 8)]);
        assert!(problems[0].message.contains("not a file"), "{problems:?}");
        assert!(problems[1].message.contains("longer than 1024 KiB"), "{problems:?}");
        let text = ProjectFile::parse("kernel = \"missing\"").unwrap();
        let Err(ProjectError::File { problems, .. }) = outside(&project.location, "", &text) else {
            panic!("it is refused")
        };
        assert!(problems[0].message.contains("missing: No such file"), "{problems:?}");
    }

    #[test]
    fn a_script_is_known_by_its_text_and_its_user() {
        let project = project();
        let digest = |text: &str| project.gather(text).unwrap()[0].scripts[0].digest.clone();
        let first = digest("[[provision]]\ninline = \"true\"");
        assert_eq!(digest("[[provision]]\nname = \"x\"\nrun = \"always\"\ninline = \"true\""), first);
        assert_ne!(digest("[[provision]]\ninline = \"false\""), first);
        assert_ne!(digest("[[provision]]\nuser = \"nobody\"\ninline = \"true\""), first);
    }

    #[test]
    fn a_kernel_is_compared_by_its_content() {
        let project = project();
        project.write("kernel", "one");
        let first = project.gather("kernel = \"kernel\"").unwrap()[0].compared["kernel"].clone();
        project.write("kernel", "two");
        assert_ne!(project.gather("kernel = \"kernel\"").unwrap()[0].compared["kernel"], first);
    }

    #[test]
    fn disks_and_overlays_that_are_yet_to_be_made_stay_in_the_project_too() {
        let project = project();
        let base = project.location.folder.parent().unwrap().to_owned();
        project.write("base.raw", "a disk");
        project.link("dangling", "../elsewhere");
        let inside = "base_image = \"base.raw\"\noverlay = \"new.qcow2\"\n[[disks]]\npath = \"d.qcow2\"\nsize = \"1G\"";
        assert_eq!(project.outside(inside).0, [] as [PathBuf; 0]);
        let ready = project.gather(inside).unwrap().remove(0);
        let here = |name: &str| project.location.folder.join(name);
        assert_eq!(
            ready.base.as_ref().map(|base| (base.file.clone(), base.format)),
            Some((here("base.raw"), Some(Format::Raw)))
        );
        assert_eq!(ready.overlay, Some(here("new.qcow2")));
        assert_eq!(ready.disks[0].1, here("d.qcow2"));
        for text in ["overlay = \"../new.qcow2\"", "[[disks]]\npath = \"../d.qcow2\"\nsize = \"1G\""] {
            let name = if text.starts_with("overlay") { "new.qcow2" } else { "d.qcow2" };
            assert_eq!(project.outside(text).0, [base.join(name)]);
            assert!(project.gather(text).is_err(), "{text}");
        }
        // A link that leads nowhere would be followed by who makes the file.
        for text in
            ["overlay = \"dangling\"", "overlay = \"no/such/folder\"", "[[disks]]\npath = \"missing.raw\""]
        {
            assert!(project.gather(text).is_err(), "{text}");
        }
    }
}
