//! SHA-256 digests, of files and of bytes.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use snafu::Snafu;

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("a SHA-256 digest has 64 lower-case hexadecimal digits"))]
pub struct DigestError;

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere.
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest and the length of everything that a reader gives. `seen` is told the length so far.
    pub fn of_reader(mut reader: impl Read, mut seen: impl FnMut(u64)) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            seen(hasher.length);
        }
    }

    /// A constant of the catalog. What is no digest does not compile there.
    #[expect(clippy::panic, reason = "it runs in the compiler")]
    pub(super) const fn constant(text: &str) -> Self {
        match Self::parse(text.as_bytes()) {
            Some(digest) => digest,
            None => panic!("not 64 lower-case hexadecimal digits"),
        }
    }

    /// Its first digits, which name things that need not be secure against forgery.
    pub(super) fn short(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        let mut index = 0;
        while index < 64 {
            let value = match text[index] {
                digit @ b'0'..=b'9' => digit - b'0',
                letter @ b'a'..=b'f' => letter - b'a' + 10,
                _ => return None,
            };
            bytes[index / 2] = bytes[index / 2] << 4 | value;
            index += 1;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text.as_bytes()).ok_or(DigestError)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A digest in the making, which counts what it was given.
pub(super) struct Hasher {
    sha256: Sha256,
    length: u64,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self { sha256: Sha256::new(), length: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
    }

    /// The digest and the length.
    pub(super) fn finish(self) -> (Digest, u64) {
        (Digest(self.sha256.finalize().into()), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_that_of_the_standard() {
        assert_eq!(Digest::of(b"abc").to_string(), OF_ABC);
        assert_eq!(Digest::of_reader(&b"abc"[..], |_| ()).unwrap(), (Digest::constant(OF_ABC), 3));
        assert_eq!(Digest::of(b"abc").short(), OF_ABC[..16]);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "ba78", &OF_ABC.to_uppercase(), &format!("{OF_ABC}0"), &OF_ABC.replace('a', "g")] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
