//! What a monitor and its guest say.

use std::io::{self, PipeReader, Read};

/// The end of a pipe, and all that came out of it.
pub(crate) struct Console {
    pipe: PipeReader,
    said: String,
}

impl Console {
    pub(crate) fn new(pipe: PipeReader) -> Self {
        Self { pipe, said: String::new() }
    }

    /// Returns when these words were said.
    pub(crate) fn read_until(&mut self, words: &str) -> io::Result<()> {
        let mut bytes = [0; 4096];
        while !self.said.contains(words) {
            match self.pipe.read(&mut bytes)? {
                0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("never said {words:?}"),
                    ));
                }
                count => self.said += &String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()),
            }
        }
        Ok(())
    }

    pub(crate) fn said(&self) -> &str {
        &self.said
    }
}
