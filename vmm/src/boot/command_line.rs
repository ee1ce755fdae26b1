//! The kernel's command line.

use std::fmt;

use snafu::{Snafu, ensure};

use crate::arch::Arch;

/// The parameters that a kernel is started with, in order. Of two for the same thing the kernel takes the later, so
/// what a user adds overrules what we set.
///
/// An engine adds its own behind: [`CommandLine::LIMIT`] leaves room for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    ours: &'static str,
    /// Each with a space before it.
    added: String,
    /// Somebody wants to trace in the guest.
    traces: bool,
}

/// Why something cannot stand on a command line.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum CommandLineError {
    /// Kernels read printable ASCII; a line end would end the line for some of them.
    #[snafu(display("the kernel's command line cannot hold {character:?}: use printable ASCII"))]
    Character {
        /// What was found.
        character: char,
    },
    /// The kernel would cut it.
    #[snafu(display(
        "the kernel's command line would have {length} bytes: at most {} are possible",
        CommandLine::LIMIT
    ))]
    TooLong {
        /// How long it would be.
        length: usize,
    },
    /// Quotes would swallow what comes behind.
    #[snafu(display("a quote in the kernel's command line has no end: {text}"))]
    Quote {
        /// What was to be added.
        text: String,
    },
    /// `--` hands all that follows to init, what the engine adds too.
    #[snafu(display("the kernel's command line cannot hold `--`: it would end the kernel's own parameters"))]
    EndOfParameters,
}

impl CommandLine {
    /// The longest command line, in bytes: the kernel's own limit (2048 on both architectures, with the final zero)
    /// less 256 for what an engine adds.
    pub const LIMIT: usize = 2047 - 256;

    /// What every guest is started with: a console that tells only what is wrong, and an end instead of a wait when
    /// the kernel dies.
    pub fn new(arch: Arch) -> Self {
        Self::with_console(match arch {
            Arch::X86_64 => "console=ttyS0 quiet panic=-1 reboot=t 8250.nr_uarts=1 noreplace-smp",
            Arch::Arm64 => "console=ttyAMA0 quiet panic=-1",
        })
    }

    /// The same on a virtio console. What the kernel has to say before it has found that goes to the serial port, which
    /// is touched for nothing else.
    pub fn on_virtio_console(arch: Arch) -> Self {
        Self::with_console(match arch {
            // Behind `quiet`: an early console tells at once what was said before it, and all of it.
            Arch::X86_64 => {
                "console=hvc0 quiet earlycon=uart8250,io,0x3f8 panic=-1 reboot=t 8250.nr_uarts=0 noreplace-smp"
            }
            Arch::Arm64 => "console=hvc0 quiet panic=-1",
        })
    }

    /// A triple fault (`reboot=t`) is the reset that every engine sees. Of the other parameters that are said to hasten
    /// a boot, only these do: the search for fewer serial ports; [`Self::NO_TRACE_NAMES`]; and `noreplace-smp`. Without
    /// that, a kernel that finds itself on one processor takes the lock prefix from ten thousand instructions, and for
    /// each it enters another address space and comes back (arch/x86/kernel/alternative.c, `alternatives_smp_unlock`).
    fn with_console(ours: &'static str) -> Self {
        Self { ours, added: String::new(), traces: false }
    }

    /// A kernel with tracing looks through all its events for each name of a number in them, a tenth of its whole boot, so
    /// that tools which read the events' formats see numbers. Only tools that trace in the guest miss it.
    const NO_TRACE_NAMES: &str = "initcall_blacklist=trace_eval_init";

    /// Whether some parameter of a line may make the kernel refuse modules without a signature, or end for one.
    pub fn wants_signed_modules(text: &str) -> bool {
        names(text)
            .any(|name| ["module.sig_enforce", "lockdown", "lsm", "panic_on_taint"].contains(&name.as_str()))
    }

    /// Adds what a user or an image wrote: one or more parameters with spaces between them.
    pub fn append(&mut self, parameters: &str) -> Result<(), CommandLineError> {
        let parameters = parameters.trim();
        let printable = |character: &char| character.is_ascii_graphic() || *character == ' ';
        if let Some(character) = parameters.chars().find(|character| !printable(character)) {
            return CharacterSnafu { character }.fail();
        }
        ensure!(parameters.matches('"').count().is_multiple_of(2), QuoteSnafu { text: parameters });
        ensure!(!parameters.split(' ').any(|word| word == "--"), EndOfParametersSnafu);
        if parameters.is_empty() {
            return Ok(());
        }
        let length = self.to_string().len() + 1 + parameters.len();
        ensure!(length <= Self::LIMIT, TooLongSnafu { length });
        self.traces |= names(parameters).any(|name| {
            ["trace", "ftrace", "tp_printk", "kprobe_event"].iter().any(|tracing| name.starts_with(tracing))
        });
        self.added.push(' ');
        self.added.push_str(parameters);
        Ok(())
    }
}

/// The names of a line's parameters. Kernels take `-` for `_` in them, and the quotes around a parameter away.
fn names(text: &str) -> impl Iterator<Item = String> {
    let names = text.split(' ').map(|word| word.split('=').next().unwrap_or_default());
    names.map(|name| name.trim_matches('"').replace('-', "_"))
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ours)?;
        if !self.traces {
            write!(f, " {}", Self::NO_TRACE_NAMES)?;
        }
        f.write_str(&self.added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_user_adds_comes_last() {
        let mut line = CommandLine::new(Arch::X86_64);
        line.append(" loglevel=7  debug ").unwrap();
        line.append("").unwrap();
        let text = line.to_string();
        assert!(text.starts_with("console=ttyS0 quiet "), "{text}");
        assert!(text.ends_with(" loglevel=7  debug"), "{text}");
    }

    #[test]
    fn the_console_is_that_of_the_architecture() {
        assert!(CommandLine::new(Arch::Arm64).to_string().contains("console=ttyAMA0"));
        assert!(!CommandLine::new(Arch::Arm64).to_string().contains("reboot=t"));
    }

    #[test]
    fn an_early_console_holds_the_place_of_a_virtio_console_and_is_as_quiet() {
        let text = CommandLine::on_virtio_console(Arch::X86_64).to_string();
        assert!(text.starts_with("console=hvc0 quiet earlycon="), "{text}");
        assert!(!text.contains("ttyS0"), "{text}");
        assert_eq!(
            CommandLine::on_virtio_console(Arch::Arm64).to_string(),
            "console=hvc0 quiet panic=-1 initcall_blacklist=trace_eval_init"
        );
    }

    #[test]
    fn who_traces_in_the_guest_has_the_names_of_numbers() {
        let mut line = CommandLine::new(Arch::X86_64);
        assert!(line.to_string().contains(" initcall_blacklist=trace_eval_init"), "{line}");
        line.append("debug trace_event=sched:*").unwrap();
        assert!(!line.to_string().contains("trace_eval_init"), "{line}");
        assert!(line.to_string().ends_with(" debug trace_event=sched:*"), "{line}");
        // Refused as a whole.
        let mut line = CommandLine::new(Arch::X86_64);
        line.append(&format!("trace_event={}", "x".repeat(2000))).unwrap_err();
        assert_eq!(line, CommandLine::new(Arch::X86_64));
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let mut line = CommandLine::new(Arch::X86_64);
        let before = line.clone();
        assert_eq!(line.append("a\nb"), Err(CommandLineError::Character { character: '\n' }));
        assert_eq!(line.append("ä"), Err(CommandLineError::Character { character: 'ä' }));
        assert_eq!(line.append("a=\"b c"), Err(CommandLineError::Quote { text: "a=\"b c".into() }));
        assert_eq!(line.append("quiet -- x"), Err(CommandLineError::EndOfParameters));
        assert!(matches!(line.append(&"x".repeat(2000)), Err(CommandLineError::TooLong { .. })));
        assert_eq!(line, before);
        line.append("a=\"b c\" --x").unwrap();
    }

    #[test]
    fn what_forbids_modules_without_a_signature_is_seen() {
        for text in [
            "quiet module.sig_enforce",
            "module.sig-enforce=1 x",
            "\"lockdown=integrity\"",
            "lsm=lockdown,yama",
            "panic_on_taint=0x2000",
        ] {
            assert!(CommandLine::wants_signed_modules(text), "{text}");
        }
        assert!(!CommandLine::wants_signed_modules("quiet nolockdown x.lsm=1 root=lockdown"));
    }

    proptest! {
        #[test]
        fn no_addition_breaks_the_line(additions in proptest::collection::vec("\\PC{0,300}|[ -~]{0,300}", 0..12)) {
            let mut line = CommandLine::new(Arch::X86_64);
            for addition in additions {
                let _ = line.append(&addition);
                let text = line.to_string();
                prop_assert!(text.len() <= CommandLine::LIMIT);
                prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
