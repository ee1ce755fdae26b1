//! A filter that refuses system calls by number, for this process and all that it starts.

use std::io;

/// The kernel's name of the architecture whose system call numbers `libc` has (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

/// Calls that reach into the processor itself, which only some architectures have.
#[cfg(target_arch = "x86_64")]
pub const PROCESSOR_CALLS: &[libc::c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
/// Calls that reach into the processor itself, which only some architectures have.
#[cfg(not(target_arch = "x86_64"))]
pub const PROCESSOR_CALLS: &[libc::c_long] = &[];

/// x32 calls carry this bit and would slip past a comparison with the number (seccomp(2), "Caveats").
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The most calls one filter lists: a jump reaches 255 instructions.
pub const MAX_CALLS: usize = 200;

/// Refuses these system calls with `EPERM` from now on, for good. Calls of another architecture's numbering end the
/// process. `no_new_privs` must be set.
#[expect(unsafe_code, reason = "prctl(PR_SET_SECCOMP) takes a pointer to a program")]
pub fn refuse(calls: &[libc::c_long]) -> io::Result<()> {
    let mut program = program(calls)?;
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let header = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: `header` describes `program`, which lives until the call returns; the kernel copies it (seccomp(2)).
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const header) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program(calls: &[libc::c_long]) -> io::Result<Vec<libc::sock_filter>> {
    if calls.len() > MAX_CALLS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many system calls in one filter"));
    }
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let give = |verdict| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let any_bit = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();

    let mut program = vec![
        load(ARCHITECTURE),
        instruction(equal, 1, 0, AUDIT_ARCH),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    // Every comparison jumps over what is left of the list, to the refusal just past "allow".
    let mut left = u8::try_from(calls.len()).map_err(io::Error::other)?;
    program.push(instruction(any_bit, left + 1, 0, X32_BIT));
    for &call in calls {
        left -= 1;
        program.push(instruction(equal, left + 1, 0, u32::try_from(call).map_err(io::Error::other)?));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program.push(give(eperm));
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with `program`, for the instructions that it has.
    fn verdict(program: &[libc::sock_filter], architecture: u32, number: u32) -> u32 {
        let (mut at, mut value) = (0usize, 0u32);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => value = if step.k == NUMBER { number } else { architecture },
                libc::BPF_RET => return step.k,
                _ => {
                    let bits = u32::from(step.code) & 0xf0 == libc::BPF_JSET;
                    let holds = if bits { value & step.k != 0 } else { value == step.k };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    #[test]
    fn what_is_listed_is_refused_and_nothing_else() {
        let calls = [libc::SYS_socket, libc::SYS_ptrace, libc::SYS_bpf];
        let program = program(&calls).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        for call in calls {
            assert_eq!(verdict(&program, AUDIT_ARCH, u32::try_from(call).unwrap()), refused);
        }
        for call in [libc::SYS_read, libc::SYS_exit_group, libc::SYS_futex] {
            assert_eq!(verdict(&program, AUDIT_ARCH, u32::try_from(call).unwrap()), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(verdict(&program, AUDIT_ARCH, X32_BIT), refused);
        assert_eq!(verdict(&program, AUDIT_ARCH ^ 1, 0), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn an_empty_list_refuses_nothing() {
        assert_eq!(verdict(&program(&[]).unwrap(), AUDIT_ARCH, 0), libc::SECCOMP_RET_ALLOW);
        assert!(program(&[0; MAX_CALLS + 1]).is_err());
    }
}
