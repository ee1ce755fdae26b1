//! A guest of a few instructions: those that tell a processor from something that only imitates one.

use super::cpuid::CpuidEntry;

/// Where the guest says how far it is.
pub const PORT: u16 = 0x80;

/// The last of the steps that are done once. It says each step's number before it begins the step.
pub const STEPS: u32 = 4;

/// Said again and again, after each run of a loop that takes a moment on hardware.
pub const LOOPED: u32 = STEPS + 1;

/// How often the loop goes round.
const ROUNDS: u32 = 20_000;

/// Where the guest has room for itself, in its second mebibyte.
const ROOM: u32 = 0x18_0000;

/// CPUID's function 1, `ecx`: the processor has XSAVE.
const XSAVE: u32 = 1 << 26;

/// The code, for a processor in the state of [`entry_state`](super::entry_state), with this host's abilities.
pub fn instructions(host: &[CpuidEntry]) -> Vec<u8> {
    let has_xsave = host.iter().any(|entry| entry.function == 1 && entry.ecx & XSAVE != 0);
    let mut code = Vec::new();
    // The floating-point unit, as every kernel sets it up first.
    say(&mut code, 1);
    code.extend([0xdb, 0xe3]); // fninit
    code.extend([0x0f, 0xae, 0x04, 0x25]); // fxsave [ROOM]
    code.extend(ROOM.to_le_bytes());
    say(&mut code, 2);
    if has_xsave {
        code.extend([0x0f, 0x20, 0xe0]); // mov rax, cr4
        code.extend([0x48, 0x0d, 0x00, 0x02, 0x04, 0x00]); // or rax, OSFXSR | OSXSAVE
        code.extend([0x0f, 0x22, 0xe0]); // mov cr4, rax
        code.extend([0x31, 0xc9, 0x0f, 0x01, 0xd0]); // xor ecx, ecx; xgetbv
        code.extend([0x0f, 0xae, 0x24, 0x25]); // xsave [ROOM]
        code.extend(ROOM.to_le_bytes());
    }
    say(&mut code, 3);
    code.extend([0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25]); // lock cmpxchg16b [ROOM]
    code.extend(ROOM.to_le_bytes());
    say(&mut code, 4);
    let again = code.len();
    code.push(0xb9); // mov ecx, ROUNDS
    code.extend(ROUNDS.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc]); // dec ecx; jnz to it
    say(&mut code, LOOPED);
    code.push(0xeb); // jmp again
    let back = u8::try_from(code.len() + 1 - again).unwrap_or(0);
    code.push(back.wrapping_neg());
    code
}

fn say(code: &mut Vec<u8>, step: u32) {
    code.push(0xb8); // mov eax, step
    code.extend(step.to_le_bytes());
    let [port, _] = PORT.to_le_bytes();
    code.extend([0xe7, port]); // out PORT, eax
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xsave_is_tried_only_where_the_processor_has_it() {
        let with = CpuidEntry { function: 1, ecx: XSAVE, ..CpuidEntry::default() };
        let xsave = [0x0f, 0xae, 0x24, 0x25];
        let tries = |host: &[CpuidEntry]| instructions(host).windows(4).any(|window| window == xsave);
        assert!(tries(&[with]));
        assert!(!tries(&[CpuidEntry { ecx: 0, ..with }]));
        assert!(!tries(&[]));
    }
}
