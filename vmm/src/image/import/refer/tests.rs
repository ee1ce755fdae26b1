use super::*;
use crate::boot::testing::{bzimage, elf_kernel, gzip};
use crate::image::ImageError;
use crate::image::testing::{Fake, RELEASE, root_file_system};

struct Fixture {
    home: Fake,
    files: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { home: Fake::new(), files: tempfile::tempdir().unwrap() };
        fixture.write("kernel", &bzimage(&gzip(&elf_kernel(RELEASE))));
        fixture.write("disk.raw", &root_file_system());
        fixture
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// A raw disk, with the kernel that is not on it.
    fn base(&self, name: &str) -> BaseFile {
        let path = |name| self.files.path().join(name);
        BaseFile { format: Some(Format::Raw), kernel: Some(path("kernel")), ..BaseFile::new(path(name)) }
    }

    fn refer(&self, base: &BaseFile) -> Result<Image> {
        self.home.store().refer(base, Arch::X86_64, &())
    }
}

#[test]
fn a_file_boots_from_where_it_lies() {
    let fixture = Fixture::new();
    let store = fixture.home.store();
    let image = fixture.refer(&fixture.base("disk.raw")).unwrap();
    assert!(image.is_of_file());
    let files = store.prepare(&image, b"agent", Default::default()).unwrap();
    assert_eq!(fs::read(files.kernel).unwrap(), elf_kernel(RELEASE));
    let [layer] = files.layers.as_slice() else { panic!("one layer") };
    assert_eq!(
        fs::canonicalize(&layer.path).unwrap(),
        fs::canonicalize(fixture.files.path().join("disk.raw")).unwrap()
    );
    assert_eq!(layer.format, Format::Raw);
    // The same file again is the same image, and so is another one with the same contents.
    assert_eq!(fixture.refer(&fixture.base("disk.raw")).unwrap().reference(), image.reference());
    fixture.write("copy.raw", &root_file_system());
    assert_eq!(fixture.refer(&fixture.base("copy.raw")).unwrap().reference(), image.reference());
    assert_eq!(store.layers().list().unwrap().len(), 1);
    // Nobody can call something else so.
    let taken = image.name().as_str().parse().unwrap();
    assert!(matches!(store.tag(&image, &taken), Err(ImageError::Reserved { .. })));
}

#[test]
fn a_file_that_has_changed_is_noticed_and_named() {
    let fixture = Fixture::new();
    let store = fixture.home.store();
    let base = fixture.base("disk.raw");
    let image = fixture.refer(&base).unwrap();
    let layers = [store.layers().layer(image.layer()).unwrap().spec()];
    store.verify_disk(&layers).unwrap();
    let mut other = root_file_system();
    other.extend([0; 4096]);
    fixture.write("disk.raw", &other);
    for error in
        [store.verify_disk(&layers).unwrap_err(), store.verify(&image, Thoroughness::Remembered).unwrap_err()]
    {
        assert!(
            matches!(&error, ImageError::FileChanged { file, .. } if file.ends_with("disk.raw")),
            "{error}"
        );
    }
    // What it is now is another image; and where it comes back, the first one is good again, wherever it lies.
    let now = fixture.refer(&base).unwrap();
    assert_ne!(now.reference(), image.reference());
    fixture.write("old.raw", &root_file_system());
    assert_eq!(fixture.refer(&fixture.base("old.raw")).unwrap().reference(), image.reference());
    store.verify_disk(&layers).unwrap();
}

#[test]
fn removing_the_image_of_a_file_leaves_the_file() {
    let fixture = Fixture::new();
    let store = fixture.home.store();
    let image = fixture.refer(&fixture.base("disk.raw")).unwrap();
    let gone = store.remove_with_layers(&image, &Default::default()).unwrap();
    assert_eq!(gone.len(), 2);
    assert_eq!(fs::read(fixture.files.path().join("disk.raw")).unwrap(), root_file_system());
}

#[test]
fn a_format_is_never_guessed_where_a_guest_could_have_written_it() {
    let fixture = Fixture::new();
    let refusal = |base: &BaseFile| fixture.refer(base).unwrap_err().to_string();
    let raw = BaseFile { format: None, ..fixture.base("disk.raw") };
    assert!(refusal(&raw).contains("--format raw"), "{}", refusal(&raw));
    let qcow2 = BaseFile { format: Some(Format::Qcow2), ..raw };
    assert!(refusal(&qcow2).contains("no qcow2 image"));
    let folder = BaseFile { file: fixture.files.path().into(), ..fixture.base("disk.raw") };
    assert!(refusal(&folder).contains("not a file"));
    // What is called raw is raw.
    let mut disguised = root_file_system();
    disguised[..4].copy_from_slice(QCOW2);
    fixture.write("disguised.raw", &disguised);
    let image = fixture.refer(&fixture.base("disguised.raw")).unwrap();
    assert_eq!(fixture.home.store().layers().layer(image.layer()).unwrap().format, Format::Raw);
}
