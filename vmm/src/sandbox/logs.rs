//! What a guest wrote to its console, as it was recorded.

use std::io::{self, Read};

/// Reads the console of a VM. A following reader waits at the end for more and ends when the VM does.
pub struct ConsoleLog(());

impl Read for ConsoleLog {
    fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
