//! What each role may ask of the kernel. Everything else ends the process.
//!
//! Threads share their memory, so whoever has one has in time the others, and the widest list counts in the end; the
//! narrow ones keep the way there long.

use libc::c_long;
use vmm_sys::system_call_filter::calls::{
    MAKE_FOLDER, OPEN, POLL, READ_LINK, REMOVE, RENAME, SET_PERMISSIONS, STATUS,
};
use vmm_sys::system_call_filter::{Argument, Condition, Rule};

use super::Role;

/// What one purpose needs.
struct Table {
    /// With the arguments that are named. First, for what a processor's thread does most must be found first.
    rules: &'static [Rule],
    /// With any arguments.
    calls: &'static [&'static [c_long]],
}

/// The rules of a role.
pub(super) fn rules(role: Role) -> Vec<Rule> {
    let tables = tables(role);
    let checked = tables.iter().flat_map(|table| table.rules).copied();
    let calls = tables.iter().flat_map(|table| table.calls).copied().flatten();
    checked.chain(calls.map(|&call| Rule::any(call))).collect()
}

fn tables(role: Role) -> Vec<&'static Table> {
    match role {
        Role::EventLoop => vec![&EVERY, &STREAMS, &ACCEPTING, &FILES],
        Role::Machine => vec![&EVERY, &STREAMS, &PROCESSES, &WAKING, &DISKS, &SOCKET_FILE],
        Role::Starter => {
            let spawned = Role::SPAWNED.into_iter().flat_map(tables);
            [&EVERY, &STARTING].into_iter().chain(spawned).collect()
        }
        Role::Processor => vec![&PROCESSOR, &EVERY, &WAKING, &HANGING_UP],
        Role::Watcher => vec![&EVERY, &STREAMS, &PROCESSES, &DISKS, &SOCKET_FILE],
        Role::Session => vec![&EVERY, &STREAMS, &SHARED_MEMORY, &DISKS, &SOCKET_FILE],
        Role::Queue => vec![&EVERY, &DISKS, &PAUSES],
        Role::Keyboard => vec![&EVERY],
        Role::Sockets => vec![&EVERY, &STREAMS, &ACCEPTING, &CONNECTING],
        Role::Agent => vec![&EVERY, &STREAMS, &CONNECTING],
        Role::Layer => vec![&EVERY, &STREAMS, &CONNECTING, &DISKS],
    }
}

/// An argument of a call.
const fn argument(index: u8, argument: Argument) -> Condition {
    Condition { index, argument }
}

const fn bits(value: i32) -> u32 {
    value.cast_unsigned()
}

/// No code is added to that of the program.
const NOT_EXECUTABLE: &[Condition] = &[argument(2, Argument::Without(bits(libc::PROT_EXEC)))];

/// What every thread does: memory, locks, events, descriptors that it has, the log, its end in order or by `abort`.
const EVERY: Table = Table {
    rules: &[
        Rule::with(libc::SYS_mmap, NOT_EXECUTABLE),
        Rule::with(libc::SYS_mprotect, NOT_EXECUTABLE),
        Rule::with(
            libc::SYS_fcntl,
            &[argument(
                1,
                Argument::OneOf(&[
                    bits(libc::F_DUPFD_CLOEXEC),
                    bits(libc::F_GETFD),
                    bits(libc::F_GETFL),
                    bits(libc::F_SETFL),
                ]),
            )],
        ),
        // As `abort` does, and who finds a stack used up.
        Rule::with(
            libc::SYS_rt_sigaction,
            &[argument(0, Argument::OneOf(&[bits(libc::SIGABRT), bits(libc::SIGSEGV), bits(libc::SIGBUS)]))],
        ),
        Rule::with(
            libc::SYS_tgkill,
            &[argument(0, Argument::ThisProcess), argument(2, Argument::OneOf(&[bits(libc::SIGABRT)]))],
        ),
        // For the line that tells of a forbidden call; and the C library names what it maps, where it is asked to.
        Rule::with(
            libc::SYS_prctl,
            &[argument(0, Argument::OneOf(&[bits(libc::PR_GET_NAME), bits(libc::PR_SET_VMA)]))],
        ),
    ],
    calls: &[
        &[
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_close,
            libc::SYS_futex,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_brk,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_eventfd2,
            libc::SYS_getrandom,
            // Where the C library cannot read the clock by itself.
            libc::SYS_clock_gettime,
            libc::SYS_gettimeofday,
            libc::SYS_sched_yield,
            libc::SYS_restart_syscall,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ],
        POLL,
    ],
};

/// `_IO(KVMIO, 0x80)`, `_IOR(KVMIO, 0x81, struct kvm_regs)`, `_IOR(KVMIO, 0x83, struct kvm_sregs)`.
const KVM_RUN: u32 = 0xae80;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_GET_SREGS: u32 = 0x8138_ae83;

/// Running the guest, and telling the registers of one that came to grief.
const PROCESSOR: Table = Table {
    rules: &[Rule::with(
        libc::SYS_ioctl,
        &[argument(1, Argument::OneOf(&[KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS]))],
    )],
    calls: &[],
};

/// Getting the threads of processors out of the guest.
const WAKING: Table = Table {
    rules: &[Rule::with(
        libc::SYS_tgkill,
        &[argument(0, Argument::ThisProcess), argument(2, Argument::OneOf(&[bits(libc::SIGUSR1)]))],
    )],
    calls: &[],
};

/// Ending connections: a guest that resets its device drops them.
const HANGING_UP: Table = Table { rules: &[], calls: &[&[libc::SYS_shutdown]] };

/// Sockets that are connected.
const STREAMS: Table = Table {
    rules: &[
        Rule::with(libc::SYS_ioctl, &[argument(1, Argument::OneOf(&[FIONBIO]))]),
        Rule::with(
            libc::SYS_setsockopt,
            &[
                argument(1, Argument::OneOf(&[bits(libc::SOL_SOCKET)])),
                argument(2, Argument::OneOf(TIMEOUTS)),
            ],
        ),
    ],
    calls: &[&[
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
    ]],
};

/// Whether calls wait (asm-generic/ioctls.h).
const FIONBIO: u32 = 0x5421;

/// `SO_RCVTIMEO` and `SO_SNDTIMEO`, by their old and their new numbers (asm-generic/socket.h).
const TIMEOUTS: &[u32] = &[20, 21, 66, 67];

/// Clients that connect, and who they are.
const ACCEPTING: Table = Table {
    rules: &[Rule::with(
        libc::SYS_getsockopt,
        &[
            argument(1, Argument::OneOf(&[bits(libc::SOL_SOCKET)])),
            argument(2, Argument::OneOf(&[bits(libc::SO_PEERCRED)])),
        ],
    )],
    calls: &[&[libc::SYS_accept4, libc::SYS_geteuid]],
};

/// Connecting to sockets of this host. By which name a filter cannot see: it lies in memory.
const CONNECTING: Table = Table {
    rules: &[Rule::with(libc::SYS_socket, &[argument(0, Argument::OneOf(&[bits(libc::AF_UNIX)]))])],
    calls: &[&[libc::SYS_connect]],
};

/// Disks that are open. Whoever drops a disk writes what is not written yet.
const DISKS: Table = Table {
    rules: &[],
    calls: &[
        &[
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_fdatasync,
            libc::SYS_fsync,
            libc::SYS_fallocate,
            libc::SYS_fadvise64,
            libc::SYS_ftruncate,
            libc::SYS_lseek,
            libc::SYS_flock,
        ],
        STATUS,
    ],
};

/// Waiting for less than a poller can.
const PAUSES: Table = Table { rules: &[], calls: &[&[libc::SYS_clock_nanosleep, libc::SYS_nanosleep]] };

/// The socket of the guest's that goes with its device.
const SOCKET_FILE: Table = Table { rules: &[], calls: &[STATUS, REMOVE] };

/// Guest memory in a file of QEMU's, once it is seen that nobody can cut it.
const SHARED_MEMORY: Table = Table {
    rules: &[Rule::with(libc::SYS_fcntl, &[argument(1, Argument::OneOf(&[bits(libc::F_GET_SEALS)]))])],
    calls: &[],
};

/// Waiting for the machine's processes and killing them: which ones a filter cannot know.
const PROCESSES: Table = Table {
    rules: &[
        Rule::with(libc::SYS_kill, &[argument(1, Argument::OneOf(&[bits(libc::SIGKILL)]))]),
        Rule::with(libc::SYS_pidfd_send_signal, &[argument(1, Argument::OneOf(&[bits(libc::SIGKILL)]))]),
    ],
    calls: &[&[libc::SYS_wait4, libc::SYS_waitid]],
};

/// The VM's folder, which is recorded in and at last removed.
const FILES: Table = Table {
    // As whoever reads a folder.
    rules: &[Rule::with(libc::SYS_fcntl, &[argument(1, Argument::OneOf(&[bits(libc::F_SETFD)]))])],
    calls: &[
        OPEN,
        STATUS,
        RENAME,
        REMOVE,
        READ_LINK,
        MAKE_FOLDER,
        SET_PERMISSIONS,
        &[
            libc::SYS_getdents64,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_ftruncate,
            libc::SYS_lseek,
            libc::SYS_flock,
        ],
    ],
};

/// A thread as the C library starts it: never a process. Where the flags lie in memory no filter can read them, so
/// that call is absent and the older one is made.
const THREAD: u32 = bits(libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD);

/// Starting threads, which name themselves and put their own filter on.
const STARTING: Table = Table {
    rules: &[
        Rule::absent(libc::SYS_clone3),
        Rule::with(libc::SYS_clone, &[argument(0, Argument::With(THREAD))]),
        Rule::with(
            libc::SYS_prctl,
            &[argument(
                0,
                Argument::OneOf(&[
                    bits(libc::PR_SET_NAME),
                    bits(libc::PR_SET_NO_NEW_PRIVS),
                    bits(libc::PR_SET_SECCOMP),
                ]),
            )],
        ),
    ],
    calls: &[&[libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity]],
};
