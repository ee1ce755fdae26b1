//! Commands in a sandbox that are talked to while they run.

use std::io::{self, Write};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm::{ProcessControl, ProcessEvent, ProcessId, ProcessStdin, Signal, TerminalSize, error_line};

use crate::bytes::Held;
use crate::cancel::{Cancel, token};
use crate::command::{Command, Ending};
use crate::error::{Error, Failure, free, guarded};
use crate::pointers::{bytes, place, reference};
use crate::sandbox::Sandbox;

/// `vmm_process`. One thread reads while another writes and a third one signals.
pub(crate) struct Process {
    id: ProcessId,
    process: Mutex<vmm::Process>,
    stdin: Mutex<Option<ProcessStdin>>,
    control: ProcessControl,
}

// Several threads may use one at once, as the header says.
const _: fn() = || {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Process>();
};

impl Process {
    fn new(mut process: vmm::Process) -> *mut Self {
        let (id, control, stdin) = (process.id(), process.control(), process.stdin.take());
        let (process, stdin) = (Mutex::new(process), Mutex::new(stdin));
        Box::into_raw(Box::new(Self { id, process, stdin, control }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an event is, as the header numbers it.
const STDOUT: i32 = 1;
const STDERR: i32 = 2;
const ENDED: i32 = 3;

/// `vmm_event`: as the header has it, then what it points to.
#[repr(C)]
pub(crate) struct Event {
    pub(crate) kind: i32,
    pub(crate) status: i32,
    pub(crate) signal: i32,
    pub(crate) timed_out: bool,
    pub(crate) data: *const u8,
    pub(crate) length: usize,
    held: Option<Held>,
}

impl Event {
    fn new(event: ProcessEvent) -> Self {
        let (kind, bytes) = match event {
            ProcessEvent::Stdout(bytes) => (STDOUT, bytes),
            ProcessEvent::Stderr(bytes) => (STDERR, bytes),
            ProcessEvent::Ended(status) => {
                let Ending { status, signal, timed_out } = status.into();
                return Self {
                    kind: ENDED,
                    status,
                    signal,
                    timed_out,
                    data: ptr::null(),
                    length: 0,
                    held: None,
                };
            }
        };
        let held = Held::new(bytes);
        let (data, length) = (held.data(), held.length());
        Self { kind, status: 0, signal: 0, timed_out: false, data, length, held: Some(held) }
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_spawn(
    sandbox: *const Sandbox,
    command: *const Command,
    process: *mut *mut Process,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let process = unsafe { place(process, "process") }?;
        // SAFETY: the header asks for a sandbox of ours and a command.
        let (sandbox, command) = unsafe { (reference(sandbox, "sandbox")?, reference(command, "command")?) };
        command.check_streamed()?;
        // SAFETY: the header asks for a command whose pointers are good.
        *process = Process::new(unsafe { command.describe(sandbox) }?.spawn()?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_spawn_detached(
    sandbox: *const Sandbox,
    command: *const Command,
    id: *mut u64,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a number.
        let id =
            unsafe { id.as_mut() }.ok_or_else(|| Failure::new("null_pointer", "id is a null pointer"))?;
        // SAFETY: the header asks for a sandbox of ours and a command.
        let (sandbox, command) = unsafe { (reference(sandbox, "sandbox")?, reference(command, "command")?) };
        command.check_streamed()?;
        if command.input_piped || command.input_length > 0 {
            return Err(Failure::invalid("a command that is left to itself reads nothing from here"));
        }
        // SAFETY: the header asks for a command whose pointers are good.
        *id = unsafe { command.describe(sandbox) }?.start_detached()?.0;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_attach_process(
    sandbox: *const Sandbox,
    id: u64,
    process: *mut *mut Process,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let process = unsafe { place(process, "process") }?;
        // SAFETY: the header asks for a sandbox of ours.
        let sandbox = unsafe { reference(sandbox, "sandbox") }?;
        *process = Process::new(sandbox.sandbox.attach_process(ProcessId(id))?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_id(process: *const Process) -> u64 {
    // SAFETY: the header asks for null or a process of ours.
    unsafe { process.as_ref() }.map_or(0, |process| process.id.0)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_next(
    process: *const Process,
    timeout_ms: i64,
    cancel: *const Cancel,
    event: *mut *mut Event,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for the place of a pointer.
        let event = unsafe { place(event, "event") }?;
        // SAFETY: the header asks for a process of ours.
        let process = unsafe { reference(process, "process") }?;
        // SAFETY: the header asks for null or a token of ours.
        let cancel = unsafe { token(cancel) };
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let next = lock(&process.process).next_event(deadline, cancel.as_ref())?;
        *event = Box::into_raw(Box::new(Event::new(next)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_event_free(event: *mut Event) {
    // SAFETY: the header asks for null or an event of ours, which is not used after this.
    unsafe { free(event) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_write(
    process: *const Process,
    data: *const u8,
    length: usize,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a process of ours.
        let process = unsafe { reference(process, "process") }?;
        // SAFETY: the header asks for so many bytes.
        let bytes = unsafe { bytes(data, length, "data") }?;
        let mut stdin = lock(&process.stdin);
        let input = stdin.as_mut().ok_or_else(|| {
            Failure::new("input_closed", "the input of this process is not piped, or was closed")
        })?;
        input.write_all(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Failure::new("input_closed", "the process has ended, and reads no more")
            }
            _ => Failure::new("system", format!("cannot write to the process: {}", error_line(&error))),
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_close_input(process: *const Process) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a process of ours.
        let process = unsafe { reference(process, "process") }?;
        *lock(&process.stdin) = None;
        Ok(())
    })
}

/// Does something to a process that may be read meanwhile.
unsafe fn control(
    process: *const Process,
    action: impl FnOnce(&ProcessControl) -> Result<(), Failure>,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the header asks for a process of ours.
        action(&unsafe { reference(process, "process") }?.control)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_signal(process: *const Process, signal: i32) -> *mut Error {
    let action = |control: &ProcessControl| {
        let known = u8::try_from(signal).ok().and_then(|number| Signal::try_from(number).ok());
        let known = known.ok_or_else(|| Failure::invalid(format!("no signal has the number {signal}")))?;
        Ok(control.signal(known)?)
    };
    // SAFETY: the header asks for a process of ours.
    unsafe { control(process, action) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_resize(
    process: *const Process,
    rows: u16,
    columns: u16,
) -> *mut Error {
    // SAFETY: the header asks for a process of ours.
    unsafe { control(process, |control| Ok(control.resize(TerminalSize { rows, columns })?)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_detach(process: *const Process) -> *mut Error {
    // SAFETY: the header asks for a process of ours.
    unsafe { control(process, |control| Ok(control.detach()?)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn vmm_process_free(process: *mut Process) {
    // SAFETY: the header asks for null or a process of ours, which is not used after this.
    unsafe { free(process) }
}
