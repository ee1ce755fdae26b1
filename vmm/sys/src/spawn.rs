//! Starting a process at the least cost: the child borrows our memory until it executes its program.
//!
//! `posix_spawn` does the same, but knows no user, no controlling terminal and (before glibc 2.38) no control group.
//! A plain `fork` copies our page tables and makes us fault on every page that we write afterwards, which an emulated
//! processor pays dearly for.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// A process to start. It gets a session and a process group of its own, the default signal handling, and no
/// descriptors but the three.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The file to execute: the first of these that exists and may be executed.
    pub candidates: &'a [CString],
    /// The arguments, with the program's name as the first.
    pub argv: &'a [CString],
    /// The variables, each `NAME=value`.
    pub environment: &'a [CString],
    /// Descriptor 0. Like the next two, it is not 0, 1 or 2 itself.
    pub stdin: BorrowedFd<'a>,
    /// Descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Descriptor 2.
    pub stderr: BorrowedFd<'a>,
    /// Descriptor 0 is a terminal, and becomes the controlling terminal of the new session.
    pub terminal: bool,
    /// Who it runs as. Whoever we are when there is none.
    pub identity: Option<Identity<'a>>,
    /// Where it starts: the first of these that it may enter. Where we are when there are none.
    pub directories: &'a [CString],
    /// The control group it is born in: an open folder of cgroup2.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The soft limit of open files, where it differs from ours.
    pub open_files: Option<u64>,
}

/// Whom a process runs as.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Further groups.
    pub groups: &'a [u32],
}

/// Where a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The system gave no process.
    Clone,
    /// It could not get its session, or its terminal.
    Session,
    /// It could not get its descriptors or limits.
    Descriptors,
    /// It could not become its user.
    Identity,
    /// It could enter none of the directories.
    Directory,
    /// It could execute none of the candidates.
    Execute,
}

/// Why a process did not start.
#[derive(Debug)]
pub struct SpawnError {
    /// At which step.
    pub step: Step,
    /// The system's reason.
    pub source: io::Error,
}

impl SpawnError {
    fn new(step: Step, errno: i32) -> Self {
        Self { step, source: io::Error::from_raw_os_error(errno) }
    }
}

/// The child calls a dozen functions of the C library, none of them deep.
const STACK_SIZE: usize = 64 * 1024;

/// Starts processes. It owns the stack on which a child runs until it executes its program.
pub struct Spawner {
    stack: Box<[u128]>,
}

/// All that the child needs: it must not allocate, since the allocator is ours.
struct Child {
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    directories: Vec<*const c_char>,
    descriptors: [RawFd; 3],
    terminal: bool,
    identity: Option<(u32, u32, *const u32, usize)>,
    open_files: Option<libc::rlimit>,
    failure: Option<(Step, i32)>,
}

impl Spawner {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        // The pages are the system's until a child touches them.
        Self { stack: vec![0; STACK_SIZE / size_of::<u128>()].into_boxed_slice() }
    }

    /// Starts a process and gives its number once it executes its program, or says why it does not. The caller
    /// waits for it some day.
    pub fn spawn(&mut self, program: &Program<'_>) -> Result<u32, SpawnError> {
        let descriptors = [program.stdin, program.stdout, program.stderr].map(|fd| fd.as_raw_fd());
        if descriptors.iter().any(|&fd| fd < 3) {
            return Err(SpawnError::new(Step::Descriptors, libc::EBADF));
        }
        let mut child = Child {
            candidates: pointers(program.candidates),
            argv: pointers(program.argv),
            environment: pointers(program.environment),
            directories: pointers(program.directories),
            descriptors,
            terminal: program.terminal,
            identity: program.identity.map(|identity| {
                (identity.uid, identity.gid, identity.groups.as_ptr(), identity.groups.len())
            }),
            open_files: match program.open_files {
                Some(soft) => Some(open_files_limit(soft)?),
                None => None,
            },
            failure: None,
        };
        let pid = self.clone_and_run(&mut child, program.cgroup)?;
        match child.failure {
            None => Ok(pid),
            Some((step, errno)) => {
                // It has ended already: this takes its entry from the process table.
                let _ = rustix::process::waitpid(
                    i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw),
                    rustix::process::WaitOptions::empty(),
                );
                Err(SpawnError::new(step, errno))
            }
        }
    }

    #[expect(unsafe_code, reason = "no safe interface creates a process that borrows our memory")]
    fn clone_and_run(
        &mut self,
        child: &mut Child,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<u32, SpawnError> {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK;
        // SAFETY: the structure is plain integers, for which zero means "not used".
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = u64::from(flags.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
        arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        arguments.stack = self.stack.as_mut_ptr() as u64;
        arguments.stack_size = size_of_val(&*self.stack) as u64;
        if let Some(cgroup) = cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        }
        // SAFETY: the stack is ours alone (`&mut self`), aligned to 16 and large enough. CLONE_VFORK stops this
        // thread until the child has executed a program or ended, so `child`, what its pointers refer to, and the
        // stack outlive the child's use of them, and the two never touch them at the same time. `run` never returns
        // and calls only functions that are safe between fork and exec.
        let result = unsafe { clone3(&arguments, run, ptr::from_mut(child).cast()) };
        // What the child wrote came by a way that the compiler cannot see; the assembly clobbers memory.
        match u32::try_from(result) {
            Ok(pid) => Ok(pid),
            Err(_) => Err(SpawnError::new(Step::Clone, i32::try_from(-result).unwrap_or(libc::EIO))),
        }
    }
}

impl Default for Spawner {
    fn default() -> Self {
        Self::new()
    }
}

/// Handlers become the default in the child; what is ignored stays so.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// The child is born in a control group.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn open_files_limit(soft: u64) -> Result<libc::rlimit, SpawnError> {
    use rustix::process::{Resource, getrlimit};
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(libc::RLIM_INFINITY);
    Ok(libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard })
}

/// `clone3` with a stack for the child, on which it calls `entry(context)`. Returns the child's number, or a negative
/// error number, to the parent alone.
///
/// # Safety
///
/// `arguments` name a stack that is writable, aligned to 16 and used by nobody else. With `CLONE_VM`, `entry` does
/// only what is safe beside a parent that stands still, and never returns.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the child starts on another stack, which only assembly can say")]
unsafe fn clone3(
    arguments: &libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    context: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the parent leaves the block as from any system call, which clobbers rcx and r11 only. The child comes
    // out of the call with the stack pointer at the top of its own stack, aligned to 16 as the calling convention
    // demands before a call, and leaves by the call and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") context,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The same for 64-bit Arm.
///
/// # Safety
///
/// As above.
#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "the child starts on another stack, which only assembly can say")]
unsafe fn clone3(
    arguments: &libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    context: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the parent leaves the block as from any system call, which clobbers x0 only. The child comes out of the
    // call with the stack pointer at the top of its own stack, aligned to 16, and leaves by the call and never comes
    // back.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") ptr::from_ref(arguments) => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x20") context,
            in("x21") entry,
            // The branch to the child's function is in this block, if only the child takes it.
            lateout("x30") _,
        );
    }
    result
}

/// The child's life until it executes its program.
#[expect(unsafe_code, reason = "between clone and exec only plain system calls are allowed")]
extern "C" fn run(context: *mut c_void) -> ! {
    // SAFETY: `clone_and_run` passes a `Child` that nobody else touches while we run.
    let child = unsafe { &mut *context.cast::<Child>() };
    let failure = become_program(child);
    child.failure = Some(failure);
    // SAFETY: ends this process and runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

/// Executes the program; returns only if that fails.
#[expect(unsafe_code, reason = "between clone and exec only plain system calls are allowed")]
fn become_program(child: &Child) -> (Step, i32) {
    macro_rules! attempt {
        ($step:expr, $call:expr) => {
            // SAFETY: a plain system call; its pointers come from `Child`, whose owner stands still until we are
            // gone. The functions for user and group go around the C library, which would tell all threads of the
            // process it takes us for.
            if unsafe { $call } < 0 {
                return ($step, errno());
            }
        };
    }
    attempt!(Step::Session, libc::setsid());
    for (target, source) in (0..).zip(child.descriptors) {
        attempt!(Step::Descriptors, libc::dup2(source, target));
    }
    if child.terminal {
        attempt!(Step::Session, libc::ioctl(0, libc::TIOCSCTTY, 0));
    }
    if let Some(limit) = &child.open_files {
        attempt!(Step::Descriptors, libc::setrlimit(libc::RLIMIT_NOFILE, limit));
    }
    if let Some((uid, gid, groups, length)) = child.identity {
        attempt!(Step::Identity, libc::syscall(libc::SYS_setgroups, length, groups));
        attempt!(Step::Identity, libc::syscall(libc::SYS_setresgid, gid, gid, gid));
        attempt!(Step::Identity, libc::syscall(libc::SYS_setresuid, uid, uid, uid));
    }
    if child.directories.len() > 1 {
        let mut reason = None;
        for &directory in child.directories.iter().filter(|directory| !directory.is_null()) {
            // SAFETY: a string that lives until we are gone.
            if unsafe { libc::chdir(directory) } == 0 {
                reason = None;
                break;
            }
            reason = reason.or(Some(errno()));
        }
        if let Some(reason) = reason {
            return (Step::Directory, reason);
        }
    }
    // The Rust runtime ignores this signal, and that would be inherited.
    // SAFETY: the default action runs nothing of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: an empty set is written before it is used.
    unsafe {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
    let mut reason = libc::ENOENT;
    for &candidate in child.candidates.iter().filter(|candidate| !candidate.is_null()) {
        // SAFETY: strings and arrays that end with a null pointer, alive until we are gone.
        unsafe { libc::execve(candidate, child.argv.as_ptr(), child.environment.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => reason = libc::EACCES,
            other => return (Step::Execute, other),
        }
    }
    (Step::Execute, reason)
}

#[expect(unsafe_code, reason = "the error number of the last system call")]
fn errno() -> i32 {
    // SAFETY: the C library's own place for it; with our memory we share the parent's, which stands still.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, WaitOptions, waitpid};
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn strings(texts: &[&str]) -> Vec<CString> {
        texts.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    struct Ran {
        output: String,
        status: Option<i32>,
    }

    fn run(change: impl FnOnce(&mut Program<'_>)) -> Result<Ran, SpawnError> {
        let null = File::open("/dev/null").unwrap();
        let (mut output, far) = std::io::pipe().unwrap();
        let argv =
            strings(&["sh", "-c", "echo $A; pwd; id -u; id -G; echo $$; cut -d' ' -f6 /proc/self/stat"]);
        let (candidates, environment) =
            (strings(&["/nowhere/sh", "/bin/sh"]), strings(&["A=b", "PATH=/usr/bin:/bin"]));
        let directories = strings(&["/nowhere", "/dev"]);
        let mut program = Program {
            candidates: &candidates,
            argv: &argv,
            environment: &environment,
            stdin: null.as_fd(),
            stdout: far.as_fd(),
            stderr: far.as_fd(),
            terminal: false,
            identity: None,
            directories: &directories,
            cgroup: None,
            open_files: None,
        };
        change(&mut program);
        let pid = Spawner::new().spawn(&program)?;
        drop(far);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        let (_, status) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
        Ok(Ran { output: text, status: status.exit_status() })
    }

    #[test]
    fn a_program_gets_its_variables_directory_output_and_session() {
        let ran = run(|_| {}).unwrap();
        assert_eq!(ran.status, Some(0));
        let lines: Vec<_> = ran.output.lines().collect();
        assert_eq!(lines[..2], ["b", "/dev"]);
        // It leads a session of its own.
        assert_eq!(lines[4], lines[5]);
    }

    #[test]
    fn a_program_runs_as_the_user_and_groups_it_is_given() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let identity = Identity { uid: 1234, gid: 2345, groups: &[3456, 4567] };
        let ran = run(|program| program.identity = Some(identity)).unwrap();
        let lines: Vec<_> = ran.output.lines().collect();
        assert_eq!(lines[2..4], ["1234", "2345 3456 4567"]);
    }

    #[test]
    fn a_start_that_fails_says_at_which_step_and_why() {
        let failure = |change: fn(&mut Program<'_>)| {
            let error = run(change).map(|_| ()).unwrap_err();
            (error.step, error.source.raw_os_error().unwrap())
        };
        assert_eq!(failure(|program| program.candidates = &[]), (Step::Execute, libc::ENOENT));
        assert_eq!(
            failure(|program| {
                let candidates = Box::leak(Box::new(strings(&["/etc/passwd", "/nowhere"])));
                program.candidates = candidates;
            }),
            (Step::Execute, libc::EACCES)
        );
        assert_eq!(
            failure(|program| program.directories = &program.directories[..1]),
            (Step::Directory, libc::ENOENT)
        );
        assert_eq!(failure(|program| program.terminal = true), (Step::Session, libc::ENOTTY));
    }

    #[test]
    fn signals_are_as_a_fresh_program_expects_them() {
        let ran = run(|program| {
            program.argv = Box::leak(Box::new(strings(&["cat", "/proc/self/status"])));
            program.candidates = Box::leak(Box::new(strings(&["/bin/cat", "/usr/bin/cat"])));
        })
        .unwrap();
        let mask = |name: &str| {
            let line = ran.output.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(mask("SigBlk:"), 0);
        assert_eq!(mask("SigCgt:"), 0);
        assert_eq!(mask("SigIgn:") & (1 << (libc::SIGPIPE - 1)), 0);
    }
}
