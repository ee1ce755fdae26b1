//! Filters as the kernel takes them: classic BPF over `struct seccomp_data` (seccomp(2)).

use std::io;

use super::{Argument, Condition, Rule, Verdict};

/// The kernel's name of the architecture whose system call numbers `libc` has (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

/// x32 calls carry this bit and would slip past a comparison with the number (seccomp(2), "Caveats").
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`. An argument has 64 bits, whose low half comes first on the architectures above.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IS_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const HAS_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// A program that refuses these calls with `EPERM` and allows all others.
pub(super) fn refusing(calls: &[libc::c_long]) -> io::Result<Vec<libc::sock_filter>> {
    let eperm = give(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs());
    let mut program = beginning();
    program.extend([step(HAS_ANY_BIT, 0, 1, X32_BIT), eperm]);
    for &call in calls {
        program.extend([step(IS_EQUAL, 0, 1, number(call)?), eperm]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    Ok(program)
}

/// A program that allows what some rule allows, and gives `otherwise` for every other call.
///
/// What is listed first is found first.
pub(super) fn allowing(rules: &[Rule], otherwise: u32) -> io::Result<Vec<libc::sock_filter>> {
    let mut program = beginning();
    for (at, rule) in rules.iter().enumerate() {
        if rules[..at].iter().any(|earlier| earlier.call == rule.call) {
            continue;
        }
        let mut body = Vec::new();
        for alternative in rules[at..].iter().filter(|alternative| alternative.call == rule.call) {
            body.extend(alternative_of(alternative)?);
        }
        body.push(give(otherwise));
        program.push(step(IS_EQUAL, 0, distance(body.len())?, number(rule.call)?));
        program.extend(body);
    }
    program.push(give(otherwise));
    Ok(program)
}

/// Ends the process where the call is of another architecture's numbering, and loads its number.
fn beginning() -> Vec<libc::sock_filter> {
    vec![
        step(LOAD, 0, 0, ARCHITECTURE),
        step(IS_EQUAL, 1, 0, AUDIT_ARCH),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        step(LOAD, 0, 0, NUMBER),
    ]
}

/// Gives the rule's verdict if all of its conditions hold; what follows is for when they do not.
fn alternative_of(rule: &Rule) -> io::Result<Vec<libc::sock_filter>> {
    let mut body = vec![give(match rule.verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Absent => libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
    })];
    for condition in rule.conditions.iter().rev() {
        let mut tested = test(*condition, distance(body.len())?)?;
        tested.append(&mut body);
        body = tested;
    }
    Ok(body)
}

/// Goes on behind itself if the condition holds, and leaves out `skipped` instructions there if not.
fn test(condition: Condition, skipped: u8) -> io::Result<Vec<libc::sock_filter>> {
    let Condition { index, argument } = condition;
    let mut body = vec![step(LOAD, 0, 0, FIRST_ARGUMENT + 8 * u32::from(index))];
    match argument {
        Argument::OneOf(values) => {
            for (at, value) in values.iter().enumerate() {
                let left = distance(values.len() - at - 1)?;
                body.push(step(IS_EQUAL, left, if left == 0 { skipped } else { 0 }, *value));
            }
        }
        Argument::Without(bits) => body.push(step(HAS_ANY_BIT, skipped, 0, bits)),
        Argument::With(bits) => {
            body.push(step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, bits));
            body.push(step(IS_EQUAL, 0, skipped, bits));
        }
        Argument::ThisProcess => body.push(step(IS_EQUAL, 0, skipped, std::process::id())),
    }
    Ok(body)
}

fn give(verdict: u32) -> libc::sock_filter {
    step(RETURN, 0, 0, verdict)
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

fn number(call: libc::c_long) -> io::Result<u32> {
    u32::try_from(call).map_err(io::Error::other)
}

fn distance(instructions: usize) -> io::Result<u8> {
    u8::try_from(instructions).map_err(|_| io::Error::other("a rule of the filter is too long for a jump"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERWISE: u32 = libc::SECCOMP_RET_TRAP;

    /// What the kernel would do with `program`, for the instructions that it has.
    fn run(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut value) = (0usize, 0u32);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => {
                    value = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        argument => {
                            let index = usize::try_from((argument - FIRST_ARGUMENT) / 8).unwrap();
                            u32::try_from(arguments[index] & 0xffff_ffff).unwrap()
                        }
                    }
                }
                libc::BPF_ALU => value &= step.k,
                libc::BPF_RET => return step.k,
                _ => {
                    let bits = u32::from(step.code) & 0xf0 == libc::BPF_JSET;
                    let holds = if bits { value & step.k != 0 } else { value == step.k };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    fn verdict(program: &[libc::sock_filter], call: libc::c_long, arguments: [u64; 6]) -> u32 {
        run(program, AUDIT_ARCH, number(call).unwrap(), arguments)
    }

    #[test]
    fn what_is_listed_is_refused_and_nothing_else() {
        let calls = [libc::SYS_socket, libc::SYS_ptrace, libc::SYS_bpf];
        let program = refusing(&calls).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        for call in calls {
            assert_eq!(verdict(&program, call, [0; 6]), refused);
        }
        for call in [libc::SYS_read, libc::SYS_exit_group, libc::SYS_futex] {
            assert_eq!(verdict(&program, call, [0; 6]), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(run(&program, AUDIT_ARCH, X32_BIT, [0; 6]), refused);
        assert_eq!(run(&program, AUDIT_ARCH ^ 1, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(verdict(&refusing(&[]).unwrap(), 0, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let program = allowing(&[Rule::any(libc::SYS_read), Rule::any(libc::SYS_write)], OTHERWISE).unwrap();
        for call in [libc::SYS_read, libc::SYS_write] {
            assert_eq!(verdict(&program, call, [u64::MAX; 6]), libc::SECCOMP_RET_ALLOW);
        }
        for call in [libc::SYS_execve, libc::SYS_exit, libc::SYS_read | i64::from(X32_BIT)] {
            assert_eq!(verdict(&program, call, [0; 6]), OTHERWISE);
        }
        assert_eq!(run(&program, AUDIT_ARCH ^ 1, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(verdict(&allowing(&[], OTHERWISE).unwrap(), 0, [0; 6]), OTHERWISE);
    }

    #[test]
    fn conditions_are_all_to_hold_and_of_several_rules_one() {
        let rules = [
            Rule::with(libc::SYS_mmap, &[Condition { index: 2, argument: Argument::Without(4) }]),
            Rule::with(
                libc::SYS_tgkill,
                &[
                    Condition { index: 0, argument: Argument::ThisProcess },
                    Condition { index: 2, argument: Argument::OneOf(&[6, 10, 12]) },
                ],
            ),
            Rule::with(libc::SYS_clone, &[Condition { index: 0, argument: Argument::With(0x10100) }]),
            Rule::with(libc::SYS_tgkill, &[Condition { index: 1, argument: Argument::OneOf(&[77]) }]),
            Rule::absent(libc::SYS_clone3),
        ];
        let program = allowing(&rules, OTHERWISE).unwrap();
        let us = u64::from(std::process::id());
        let allowed = |call, arguments| verdict(&program, call, arguments) == libc::SECCOMP_RET_ALLOW;
        assert!(allowed(libc::SYS_mmap, [4, 4, 3, 4, 4, 4]));
        assert!(!allowed(libc::SYS_mmap, [0, 0, 5, 0, 0, 0]));
        for signal in [6, 10, 12] {
            assert!(allowed(libc::SYS_tgkill, [us, 0, signal, 0, 0, 0]));
        }
        assert!(!allowed(libc::SYS_tgkill, [us, 0, 9, 0, 0, 0]));
        assert!(!allowed(libc::SYS_tgkill, [us + 1, 0, 6, 0, 0, 0]));
        assert!(allowed(libc::SYS_tgkill, [us + 1, 77, 9, 0, 0, 0]));
        assert!(allowed(libc::SYS_clone, [0x11f00, 0, 0, 0, 0, 0]));
        assert!(!allowed(libc::SYS_clone, [0x10000, 0, 0, 0, 0, 0]));
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        assert_eq!(verdict(&program, libc::SYS_clone3, [0; 6]), absent);
    }

    #[test]
    fn a_rule_that_no_jump_passes_over_is_an_error() {
        let values: &'static [u32] = Box::leak(vec![0; 300].into_boxed_slice());
        let long = [Condition { index: 0, argument: Argument::OneOf(values) }];
        let rule = Rule::with(libc::SYS_ioctl, Box::leak(Box::new(long)));
        assert!(allowing(&[rule], OTHERWISE).is_err());
    }
}
