//! Random bytes for the kernel's own generator.

use std::io;
use std::os::fd::AsRawFd;

/// More is not needed: the generator's state is 32 bytes.
pub const MAX_ENTROPY: usize = 512;

/// `_IOW('R', 3, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;

/// `struct rand_pool_info` of the kernel, with room for the bytes.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; MAX_ENTROPY],
}

/// Gives the kernel random bytes and tells it to trust them (`RNDADDENTROPY`), so that its generator is ready at once.
/// What is beyond [`MAX_ENTROPY`] is left out. Needs the rights of an administrator.
#[expect(unsafe_code, reason = "an ioctl with a structure of its own")]
pub fn credit(bytes: &[u8]) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(MAX_ENTROPY)];
    let size = libc::c_int::try_from(bytes.len()).unwrap_or(0);
    let mut pool = Pool { entropy_bits: size * 8, size, bytes: [0; MAX_ENTROPY] };
    pool.bytes[..bytes.len()].copy_from_slice(bytes);
    let device = std::fs::File::options().write(true).open("/dev/random")?;
    // SAFETY: the kernel reads the structure that its documentation (random(4)) describes: two numbers and then
    // `size` bytes, all of which are there.
    match unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_random_bytes_from_an_administrator_only() {
        match credit(&[7; 64]) {
            Ok(()) => assert!(rustix::process::geteuid().is_root()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
