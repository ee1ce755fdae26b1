//! What a sandbox is to be, option by option, as text.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

use vmm::image::BaseFile;
use vmm::project::parse_duration;
use vmm::{
    BootProfileUse, DiskFormat, ExtraDisk, HealthCheck, Home, Progress, PullPolicy, Sandbox, SandboxBuilder,
    StartOptions,
};

use crate::beside;
use crate::cancel::Cancel;
use crate::error::{Error, Failure, free, guarded};
use crate::pointers::{path, place, raw, reference, text, utf8};

/// Every option's name. Where the library's builder has a method of that name, the option means the same.
pub(crate) const NAMES: [&str; 36] = [
    "balloon",
    "base_file",
    "base_format",
    "base_initrd",
    "base_modules",
    "boot_profile",
    "command_line",
    "console",
    "cpus",
    "detached",
    "disk",
    "disk_size",
    "engine",
    "env",
    "executable",
    "health_check",
    "health_interval",
    "health_retries",
    "health_start_period",
    "health_timeout",
    "home",
    "host_name",
    "huge_pages",
    "init",
    "kernel",
    "memory",
    "name",
    "nested",
    "overlay",
    "pull",
    "ready_timeout",
    "remove_at_end",
    "require_hardware",
    "restart",
    "root_writes",
    "stop_timeout",
];

/// The name of the last one, which is for debugging.
pub(crate) const SECCOMP: &str = "seccomp";

/// `vmm_options`.
pub(crate) struct Options {
    /// None: only to start a sandbox that is there.
    image: Option<String>,
    builder: SandboxBuilder,
    start: StartOptions,
    home: Option<PathBuf>,
    base: Option<PathBuf>,
    base_format: Option<DiskFormat>,
    base_initrd: Option<PathBuf>,
    base_modules: Option<PathBuf>,
    health_check: Option<String>,
    /// How it is done; its command is apart.
    health: HealthCheck,
    /// The last of these options that was given.
    of_health: Option<String>,
    has_executable: bool,
    /// An option that was given and that only a new sandbox can have.
    of_new: Option<String>,
}

impl Options {
    pub(crate) fn new(image: Option<String>) -> Self {
        Self {
            builder: Sandbox::builder(image.clone().unwrap_or_default()),
            image,
            start: StartOptions::default(),
            home: None,
            base: None,
            base_format: None,
            base_initrd: None,
            base_modules: None,
            health_check: None,
            health: HealthCheck::new([""]),
            of_health: None,
            has_executable: false,
            of_new: None,
        }
    }

    /// Sets one option; `env` and `disk` add one.
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) -> Result<(), Failure> {
        if value.contains(&0) {
            return Err(Failure::invalid(format!("{name}: the value has a zero byte")));
        }
        let start = self.start.clone();
        let start = match name {
            "home" => {
                self.home = Some(path(value));
                return Ok(());
            }
            "detached" => start.detached(parse(name, value, yes_or_no)?),
            "executable" => {
                self.has_executable = true;
                start.executable(path(value))
            }
            "ready_timeout" => start.ready_timeout(parse(name, value, parse_duration)?),
            SECCOMP => start.seccomp(parse(name, value, yes_or_no)?),
            _ => return self.set_of_new(name, value),
        };
        self.start = start;
        Ok(())
    }

    fn set_of_new(&mut self, name: &str, value: &[u8]) -> Result<(), Failure> {
        match name {
            "base_file" => self.base = Some(path(value)),
            "base_format" => self.base_format = Some(parse(name, value, format)?),
            "base_initrd" => self.base_initrd = Some(path(value)),
            "base_modules" => self.base_modules = Some(path(value)),
            "health_check" => self.health_check = Some(utf8(value, name)?.to_owned()),
            "health_interval" => self.health.interval = self.of_health(name, value, parse_duration)?,
            "health_retries" => self.health.retries = self.of_health(name, value, FromStr::from_str)?,
            "health_start_period" => {
                self.health.start_period = self.of_health(name, value, parse_duration)?;
            }
            "health_timeout" => self.health.timeout = self.of_health(name, value, parse_duration)?,
            _ => self.builder = build(self.builder.clone(), name, value)?,
        }
        self.of_new = Some(name.to_owned());
        Ok(())
    }

    /// An option that says how a health check is done.
    fn of_health<T, E: ToString>(
        &mut self,
        name: &str,
        value: &[u8],
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Failure> {
        self.of_health = Some(name.to_owned());
        parse(name, value, read)
    }

    pub(crate) fn builder(&self) -> Result<SandboxBuilder, Failure> {
        let mut builder = self.builder.clone().options(self.start_options());
        if let Some(home) = &self.home {
            builder = builder.home(&open_home(Some(home))?);
        }
        match (&self.health_check, &self.of_health) {
            (Some(line), _) => {
                let command = ["sh", "-c", line].map(str::to_owned).to_vec();
                builder = builder.health_check(HealthCheck { command, ..self.health.clone() });
            }
            (None, Some(name)) => {
                let message = format!("{name} says something of a health_check, and there is none");
                return Err(Failure::invalid(message));
            }
            (None, None) => {}
        }
        let of_base = [self.base_format.is_some(), self.base_initrd.is_some(), self.base_modules.is_some()];
        match (&self.base, &self.image) {
            (Some(_), Some(image)) => {
                return Err(Failure::invalid(format!(
                    "a base_file is instead of an image, and {image} is one"
                )));
            }
            (None, None) => return Err(Failure::invalid("a new sandbox needs an image, or a base_file")),
            (None, Some(_)) if of_base.contains(&true) => {
                let message =
                    "base_format, base_initrd and base_modules say something of a base_file: name one";
                return Err(Failure::invalid(message));
            }
            (None, Some(_)) => {}
            (Some(file), None) => {
                builder = builder.base_file(BaseFile {
                    format: self.base_format,
                    initrd: self.base_initrd.clone(),
                    modules: self.base_modules.clone(),
                    ..BaseFile::new(file)
                });
            }
        }
        Ok(builder)
    }

    /// For a sandbox that is there: what it is was settled when it was created.
    pub(crate) fn for_start(&self) -> Result<(Home, StartOptions), Failure> {
        if let Some(name) = self.image.as_deref().map(|_| "the image").or(self.of_new.as_deref()) {
            let message =
                format!("{name} was settled when the sandbox was created, and cannot be said to a start");
            return Err(Failure::invalid(message));
        }
        Ok((open_home(self.home.as_ref())?, self.start_options()))
    }

    /// Who has not said which `vmm` is meant gets the one beside this library.
    fn start_options(&self) -> StartOptions {
        let named = std::env::var_os("VMM_BIN").is_some_and(|path| !path.is_empty());
        match beside::executable() {
            Some(executable) if !self.has_executable && !named => self.start.clone().executable(executable),
            _ => self.start.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        format!("{:?} {:?}", self.builder().unwrap(), self.start)
    }
}

fn build(builder: SandboxBuilder, name: &str, value: &[u8]) -> Result<SandboxBuilder, Failure> {
    Ok(match name {
        "balloon" => builder.balloon(parse(name, value, yes_or_no)?),
        "boot_profile" => builder.boot_profile(parse(name, value, boot_profile)?),
        "command_line" => builder.command_line(utf8(value, name)?),
        "console" => builder.console(parse(name, value, FromStr::from_str)?),
        "cpus" => builder.cpus(parse(name, value, FromStr::from_str)?),
        "disk" => builder.disk(parse(name, value, ExtraDisk::parse)?),
        "disk_size" => builder.disk_size(parse(name, value, FromStr::from_str)?),
        "engine" => builder.engine(parse(name, value, FromStr::from_str)?),
        "env" => {
            let (key, value) = variable(value)?;
            builder.env(key, value)
        }
        "host_name" => builder.host_name(utf8(value, name)?),
        "huge_pages" => builder.huge_pages(parse(name, value, yes_or_no)?),
        "init" => builder.init(parse(name, value, FromStr::from_str)?),
        "kernel" => builder.kernel(path(value)),
        "memory" => builder.memory(parse(name, value, FromStr::from_str)?),
        "name" => builder.name(utf8(value, name)?),
        "nested" => builder.nested(parse(name, value, yes_or_no)?),
        "overlay" => builder.overlay(path(value)),
        "pull" => builder.pull(parse(name, value, pull)?),
        "remove_at_end" => builder.remove_at_end(parse(name, value, yes_or_no)?),
        "restart" => builder.restart(parse(name, value, FromStr::from_str)?),
        "require_hardware" => builder.require_hardware(parse(name, value, yes_or_no)?),
        "root_writes" => builder.root_writes(parse(name, value, FromStr::from_str)?),
        "stop_timeout" => builder.stop_timeout(parse(name, value, parse_duration)?),
        _ => {
            let hint = format!("there are {}, {SECCOMP}", NAMES.join(", "));
            return Err(Failure::invalid(format!("there is no option {name:?}")).with_hint(hint));
        }
    })
}

fn parse<T, E: ToString>(
    name: &str,
    value: &[u8],
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let value = utf8(value, name)?;
    read(value).map_err(|error| Failure::invalid(format!("{name}: {value:?}: {}", error.to_string())))
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("write true or false"),
    }
}

fn format(text: &str) -> Result<DiskFormat, &'static str> {
    match text {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        _ => Err("write raw or qcow2"),
    }
}

fn boot_profile(text: &str) -> Result<BootProfileUse, &'static str> {
    let known =
        [BootProfileUse::Image, BootProfileUse::Native].into_iter().find(|known| known.name() == text);
    known.ok_or("write image or native")
}

fn pull(text: &str) -> Result<PullPolicy, &'static str> {
    match text {
        "missing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        _ => Err("write missing or never"),
    }
}

/// The two sides of `KEY=VALUE`.
pub(crate) fn variable(text: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let at = text.iter().position(|&byte| byte == b'=').filter(|&at| at > 0);
    let at = at.ok_or_else(|| {
        Failure::invalid(format!("env: {:?}: write KEY=VALUE", String::from_utf8_lossy(text)))
    })?;
    Ok((&text[..at], &text[at + 1..]))
}

/// The home that is named, or the user's own.
pub(crate) fn open_home(root: Option<&PathBuf>) -> Result<Home, Failure> {
    let home = root.map_or_else(Home::open_default, Home::open);
    Ok(home.map_err(vmm::Error::from)?)
}

/// `vmm_progress_function`.
type ProgressFunction = extern "C" fn(context: *mut c_void, step: *const c_char, done: u64, total: u64);

/// Whoever is told of progress.
struct Listener {
    function: ProgressFunction,
    context: *mut c_void,
}

// SAFETY: the header says that it may be called from other threads, one at a time.
unsafe impl Send for Listener {}

impl Listener {
    fn tell(&self, progress: &Progress) {
        let (step, done, total) = match progress {
            Progress::FindingImage { image } => (format!("finding {image}"), 0, None),
            Progress::Pulling { step, done, total } => (step.clone(), *done, *total),
            Progress::Warning { message } => (format!("warning: {message}"), 0, None),
            Progress::StartingMonitor => ("starting".to_owned(), 0, None),
            Progress::Booting => ("booting".to_owned(), 0, None),
            Progress::Ready => ("ready".to_owned(), 0, None),
            // A step that is newer than this interface.
            _ => return,
        };
        let step = crate::error::c_text(&step);
        (self.function)(self.context, step.as_ptr(), done, total.unwrap_or(0));
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_options_new(
    image: *const c_char,
    options: *mut *mut Options,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let options = unsafe { place(options, "options") }?;
        let image = match image.is_null() {
            true => None,
            // SAFETY: the header asks for null or a text.
            false => Some(unsafe { text(image, "image") }?.to_owned()),
        };
        *options = Box::into_raw(Box::new(Options::new(image)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_options_set(
    options: *mut Options,
    name: *const c_char,
    value: *const c_char,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for options of ours that nobody else uses meanwhile.
        let options = unsafe { exclusive(options) }?;
        // SAFETY: the header asks for texts.
        let (name, value) = unsafe { (text(name, "name")?, raw(value, "value")?) };
        options.set(name, value)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_options_cancel(
    options: *mut Options,
    cancel: *const Cancel,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for options of ours that nobody else uses meanwhile.
        let options = unsafe { exclusive(options) }?;
        // SAFETY: the header asks for a token of ours.
        let cancel = unsafe { reference(cancel, "cancel") }?;
        options.start = options.start.clone().cancel_token(&cancel.0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_options_progress(
    options: *mut Options,
    function: Option<ProgressFunction>,
    context: *mut c_void,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for options of ours that nobody else uses meanwhile.
        let options = unsafe { exclusive(options) }?;
        let function =
            function.ok_or_else(|| Failure::new("null_pointer", "the function is a null pointer"))?;
        let listener = Mutex::new(Listener { function, context });
        options.start = options.start.clone().progress(move |progress| {
            listener.lock().unwrap_or_else(std::sync::PoisonError::into_inner).tell(progress);
        });
        Ok(())
    })
}

/// Options that are about to change.
unsafe fn exclusive<'a>(options: *mut Options) -> Result<&'a mut Options, Failure> {
    // SAFETY: the header asks for null or options of ours that nobody else uses meanwhile.
    unsafe { options.as_mut() }.ok_or_else(|| Failure::new("null_pointer", "options is a null pointer"))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_options_free(options: *mut Options) {
    // SAFETY: the header asks for null or options of ours, which are not used after this.
    unsafe { free(options) }
}
