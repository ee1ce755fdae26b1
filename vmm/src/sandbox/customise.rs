//! Customising an image: its script runs once in a machine of its own, through the same start as any other.

use std::time::Duration;

use super::builder::{SandboxBuilder, StartOptions};
use super::command::Stdin;
use super::progress::Observer;
use super::start::{self, cancelled};
use super::{Error, Sandbox};
use crate::arch::Arch;
use crate::home::{EndReason, EngineChoice, Home};
use crate::image::{
    self, Customisation, Customising, Image, ImageError, ImageRef, ImageStore, PullMode, Pulled,
};
use crate::machine::MemorySize;

/// How long the guest may take to write what it has and be off.
const GRACE: Duration = Duration::from_secs(60);

/// A script that takes longer hangs.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

/// How many bytes of what a script wrote are told when it fails.
const TOLD: usize = 500;

/// A pull that ends with an image that is ready to boot.
///
/// ```no_run
/// let home = vmm::Home::open_default()?;
/// let pulled = vmm::ImagePull::new("alpine".parse()?).run(&home, &())?;
/// println!("{}", pulled.pulled.image);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is run"]
pub struct ImagePull {
    image: ImageRef,
    arch: Option<Arch>,
    mode: PullMode,
    engine: EngineChoice,
    options: StartOptions,
}

/// What a pull did.
#[derive(Debug)]
pub struct PulledImage {
    /// The image, and whether it was fetched.
    pub pulled: Pulled,
    /// Why it could not be customised here, as on a machine without an engine: its first start does it.
    pub pending: Option<Error>,
}

impl ImagePull {
    /// Of this image, for the host's architecture, if it is not here.
    pub fn new(image: ImageRef) -> Self {
        let (engine, options) = (EngineChoice::default(), StartOptions::default());
        Self { image, arch: None, mode: PullMode::IfMissing, engine, options }
    }

    /// For machines of this architecture.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = Some(arch);
        self
    }

    /// When it is fetched.
    pub fn mode(mut self, mode: PullMode) -> Self {
        self.mode = mode;
        self
    }

    /// What runs the machine in which it is customised.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// How that machine is started, and what cancels it.
    pub fn options(mut self, options: StartOptions) -> Self {
        self.options = options;
        self
    }

    /// Fetches the image and customises it.
    pub fn run(self, home: &Home, progress: &dyn image::Progress) -> Result<PulledImage, Error> {
        let arch = self.arch.or_else(Arch::host).ok_or(Error::NoArch)?;
        let pulled = ImageStore::open(home.root())?.pull(&self.image, arch, self.mode, progress);
        let pulled = pulled.map_err(cancelled)?;
        let Self { engine, options, .. } = &self;
        let work = Work { home, engine: *engine, require_hardware: false, options };
        let foreign = Some(arch) != Arch::host() && pulled.image.is_pending();
        let finished = if foreign { Err(Error::NoArch) } else { work.finish(pulled.image.clone(), progress) };
        match finished {
            Ok(image) => Ok(PulledImage { pulled: Pulled { image, ..pulled }, pending: None }),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            // What was pulled is good: where a machine starts, it can be customised.
            Err(error) => Ok(PulledImage { pulled, pending: Some(error) }),
        }
    }
}

/// What images are customised with.
pub(super) struct Work<'a> {
    pub(super) home: &'a Home,
    pub(super) engine: EngineChoice,
    pub(super) require_hardware: bool,
    pub(super) options: &'a StartOptions,
}

impl Work<'_> {
    /// Customises an image, if it is pending.
    pub(super) fn finish(&self, image: Image, progress: &dyn image::Progress) -> Result<Image, Error> {
        if !image.is_pending() {
            return Ok(image);
        }
        let [major, minor, _] = image.version().release();
        progress.image(&format!("{} {major}.{minor}", image.name()));
        let store = ImageStore::open(self.home.root())?;
        let customising = match store.customise(&image, progress).map_err(cancelled)? {
            Customisation::Done(image) => return Ok(*image),
            Customisation::Due(customising) => customising,
        };
        self.run_script(&customising)?;
        Ok(customising.publish()?)
    }

    fn run_script(&self, customising: &Customising) -> Result<(), Error> {
        let image = customising.image();
        let failed = |why: String| Error::from(ImageError::Customise { image: image.to_string(), why });
        let sandbox = start::on_layers(&self.builder(image)?, image, customising.disk()?)?;
        let (script, arguments) = customising.script();
        let words = ["sh", "-e", "/dev/stdin"].map(str::to_owned);
        let output = sandbox
            .command(words.into_iter().chain(arguments))
            .stdin(Stdin::Bytes(script.into_bytes()))
            .timeout(SCRIPT_TIMEOUT)
            .output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let end = said.len().saturating_sub(TOLD);
            let said = String::from_utf8_lossy(said.get(end..).unwrap_or_default()).trim().to_owned();
            let said: String = said.chars().filter(|c| !c.is_control() || *c == '\n').collect();
            return Err(failed(format!("its script ended with {}: {said}", output.status)));
        }
        // Only what the guest has written out and let go of is whole.
        let end = sandbox.stop(GRACE)?;
        if end.reason != EndReason::Stopped {
            return Err(failed(format!("its machine did not shut down in order: {}", end.message)));
        }
        Ok(())
    }

    fn builder(&self, image: &Image) -> Result<SandboxBuilder, Error> {
        let memory = MemorySize::default();
        let options = StartOptions { observer: Observer::default(), ..self.options.clone() }.detached(false);
        let builder = Sandbox::builder(image.to_string())
            .home(self.home)
            .memory(memory)
            .engine(self.engine)
            .require_hardware(self.require_hardware)
            .options(options);
        Ok(builder)
    }
}
