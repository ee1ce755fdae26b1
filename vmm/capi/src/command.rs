//! Commands in a sandbox, run to their end.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use vmm::{ExitStatus, Stdin, TerminalSize};

use crate::bytes::Held;
use crate::cancel::{Cancel, token};
use crate::error::{Error, Failure, free, guarded};
use crate::options::variable;
use crate::pointers::{bytes, optional, place, reference, texts, utf8};
use crate::sandbox::Sandbox;

/// `vmm_command`, as the header has it.
#[repr(C)]
pub(crate) struct Command {
    pub(crate) argv: *const *const c_char,
    pub(crate) env: *const *const c_char,
    pub(crate) workdir: *const c_char,
    pub(crate) user: *const c_char,
    pub(crate) input: *const u8,
    pub(crate) input_length: usize,
    pub(crate) input_piped: bool,
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) timeout_ms: u64,
    pub(crate) output_limit: usize,
    pub(crate) cancel: *const Cancel,
    pub(crate) reserved: [*const c_void; 4],
}

impl Command {
    /// What is collected can be limited and cancelled; what is read piece by piece is in its reader's hands.
    pub(crate) fn check_streamed(&self) -> Result<(), Failure> {
        if self.output_limit > 0 || !self.cancel.is_null() {
            return Err(Failure::invalid(
                "output_limit and cancel are for vmm_exec, which collects the output",
            ));
        }
        Ok(())
    }

    /// The library's own.
    ///
    /// # Safety
    ///
    /// Everything in it is null or points to what the header says.
    pub(crate) unsafe fn describe<'a>(&self, sandbox: &'a Sandbox) -> Result<vmm::Command<'a>, Failure> {
        if self.reserved.iter().any(|reserved| !reserved.is_null()) {
            return Err(Failure::invalid(
                "what is reserved in a vmm_command is null: set all of it to zero first",
            ));
        }
        // SAFETY: as the caller of this function promises.
        let (argv, env) = unsafe { (texts(self.argv), texts(self.env)) };
        if !self.argv.is_null() && argv.is_empty() {
            return Err(Failure::invalid("argv is empty: name a program, or give null for the login shell"));
        }
        let mut command = sandbox.sandbox.command(argv);
        for text in env {
            let (key, value) = variable(text)?;
            command = command.env(key, value);
        }
        // SAFETY: as the caller of this function promises.
        let (workdir, user) = unsafe { (optional(self.workdir), optional(self.user)) };
        if let Some(folder) = workdir {
            command = command.workdir(folder);
        }
        if let Some(user) = user {
            command = command.user(utf8(user, "user")?);
        }
        // SAFETY: as the caller of this function promises.
        let input = unsafe { bytes(self.input, self.input_length, "input") }?;
        command = match (input.is_empty(), self.input_piped) {
            (false, true) => return Err(Failure::invalid("input is piped, or given as bytes: not both")),
            (true, true) => command.stdin(Stdin::Piped),
            (false, false) => command.stdin(Stdin::Bytes(input.to_vec())),
            (true, false) => command,
        };
        command = match (self.rows, self.columns) {
            (0, 0) => command,
            (rows, columns) => command.terminal(TerminalSize { rows, columns }),
        };
        if self.timeout_ms > 0 {
            command = command.timeout(Duration::from_millis(self.timeout_ms));
        }
        if self.output_limit > 0 {
            command = command.output_limit(self.output_limit);
        }
        // SAFETY: as the caller of this function promises.
        match unsafe { token(self.cancel) } {
            Some(token) => Ok(command.cancel_token(&token)),
            None => Ok(command),
        }
    }
}

/// How a command ended, as C is told it.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) status: i32,
    pub(crate) signal: i32,
    pub(crate) timed_out: bool,
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        let signal = match status {
            ExitStatus::Signaled(signal) => i32::from(signal),
            ExitStatus::Exited(_) | ExitStatus::TimedOut => 0,
        };
        Self { status: i32::from(status.shell_status()), signal, timed_out: status == ExitStatus::TimedOut }
    }
}

/// `vmm_output`: as the header has it, then what it points to.
#[repr(C)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) signal: i32,
    pub(crate) timed_out: bool,
    pub(crate) truncated: bool,
    pub(crate) out: *const u8,
    pub(crate) out_length: usize,
    pub(crate) err: *const u8,
    pub(crate) err_length: usize,
    held: (Held, Held),
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_exec(
    sandbox: *const Sandbox,
    command: *const Command,
    output: *mut *mut Output,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let output = unsafe { place(output, "output") }?;
        // SAFETY: the header asks for a sandbox of ours and a command.
        let (sandbox, command) = unsafe { (reference(sandbox, "sandbox")?, reference(command, "command")?) };
        if command.input_piped {
            return Err(Failure::invalid("a command whose input is piped is for vmm_spawn"));
        }
        // SAFETY: the header asks for a command whose pointers are good.
        let ran = unsafe { command.describe(sandbox) }?.output()?;
        let Ending { status, signal, timed_out } = ran.status.into();
        let held = (Held::new(ran.stdout), Held::new(ran.stderr));
        *output = Box::into_raw(Box::new(Output {
            status,
            signal,
            timed_out,
            truncated: ran.truncated,
            out: held.0.data(),
            out_length: held.0.length(),
            err: held.1.data(),
            err_length: held.1.length(),
            held,
        }));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_output_free(output: *mut Output) {
    // SAFETY: the header asks for null or an output of ours, which is not used after this.
    unsafe { free(output) }
}
