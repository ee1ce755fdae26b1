//! Headers: JSON behind its length, with the version around it.
//!
//! A header is a 32-bit little-endian length and that many bytes of JSON: `{"version":"1.0","body":…}`, with `"keep":true`
//! before the body where another request is to follow. Unknown fields are ignored, so that a MINOR version can add some.

use std::io::{self, Read, Write};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use snafu::{ResultExt, Snafu, ensure};

use crate::{VERSION, Version};

/// No header is longer. Arguments and variables of a process must fit.
pub const MAX_HEADER: usize = 1024 * 1024;

/// The size of the length before the JSON.
const LENGTH_SIZE: usize = 4;

/// Why bytes are no header.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum HeaderError {
    /// The length says more than [`MAX_HEADER`].
    #[snafu(display("a header of {length} bytes is longer than the {MAX_HEADER} that are allowed"))]
    TooLarge {
        /// What it says.
        length: usize,
    },
    /// The peer speaks another MAJOR version.
    #[snafu(display("the peer speaks version {theirs} of the agent protocol, we speak {VERSION}"))]
    OtherVersion {
        /// Its version.
        theirs: Version,
    },
    /// The bytes are not the JSON that is expected.
    #[snafu(display("the header is not what the protocol says"))]
    Malformed {
        /// Where it differs.
        source: Mismatch,
    },
    /// The message cannot be written as JSON.
    #[snafu(display("write a message as JSON"))]
    Encode {
        /// Why.
        source: serde_json::Error,
    },
    /// The stream failed.
    #[snafu(display("transfer a header"))]
    Transfer {
        /// How.
        source: io::Error,
    },
    /// The stream ended before a header.
    #[snafu(display("the peer closed the connection instead of sending a header"))]
    Closed,
}

/// Where JSON is not what the protocol says, in words that are fit for a terminal.
///
/// serde quotes what it does not know, as long as it is and whatever characters it has: what the peer wrote would
/// otherwise reach whoever reads the error.
#[derive(Clone, Debug, PartialEq, Eq, Snafu)]
#[snafu(display("{text}"))]
pub struct Mismatch {
    text: String,
}

impl From<serde_json::Error> for Mismatch {
    fn from(error: serde_json::Error) -> Self {
        /// More than serde says of its own accord.
        const LIMIT: usize = 400;
        let text = error.to_string();
        Self { text: text.chars().filter(|character| (' '..='~').contains(character)).take(LIMIT).collect() }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: Version,
    #[serde(default, skip_serializing_if = "is_false")]
    keep: bool,
    body: T,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(keep: &bool) -> bool {
    !keep
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<T> {
    /// The message.
    pub body: T,
    /// Another request is to follow on this connection: the client would like to, the agent waits for it.
    pub keep: bool,
}

/// The bytes of a header with this body and our version.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, HeaderError> {
    encode_keeping(body, false)
}

/// The same, on a connection that is to be kept, or not.
pub fn encode_keeping<T: Serialize>(body: &T, keep: bool) -> Result<Vec<u8>, HeaderError> {
    encode_envelope(&Envelope { version: VERSION, keep, body })
}

/// The bytes of a header that claims another version: for tests of how a peer takes it.
pub fn encode_as<T: Serialize>(version: Version, body: &T) -> Result<Vec<u8>, HeaderError> {
    encode_envelope(&Envelope { version, keep: false, body })
}

fn encode_envelope<T: Serialize>(envelope: &Envelope<&T>) -> Result<Vec<u8>, HeaderError> {
    let mut bytes = vec![0; LENGTH_SIZE];
    serde_json::to_writer(&mut bytes, envelope).context(EncodeSnafu)?;
    let length = bytes.len() - LENGTH_SIZE;
    ensure!(length <= MAX_HEADER, TooLargeSnafu { length });
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    bytes[..LENGTH_SIZE].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Takes a header from the start of what has arrived so far, and says how many bytes it took. `None`: more is to
/// come. A length that is too large is refused before anything of it has arrived.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(Header<T>, usize)>, HeaderError> {
    let Some(end) = end(bytes)? else { return Ok(None) };
    match bytes.get(LENGTH_SIZE..end) {
        Some(json) => Ok(Some((parse(json)?, end))),
        None => Ok(None),
    }
}

/// How many bytes the header at the start of these has, once its length has arrived.
pub fn end(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    let Some(length) = bytes.first_chunk::<LENGTH_SIZE>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    ensure!(length <= MAX_HEADER, TooLargeSnafu { length });
    Ok(Some(LENGTH_SIZE + length))
}

/// Reads the message of a header. Memory grows with what arrives, not with what the length says.
pub fn read<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, HeaderError> {
    read_whole(reader).map(|header| header.body)
}

/// Reads all of a header in the same way.
pub fn read_whole<T: DeserializeOwned>(reader: &mut impl Read) -> Result<Header<T>, HeaderError> {
    let mut length = [0; LENGTH_SIZE];
    reader.read_exact(&mut length).map_err(ended)?;
    let length = end(&length)?.unwrap_or(LENGTH_SIZE) - LENGTH_SIZE;
    let mut json = Vec::new();
    reader.take(length as u64).read_to_end(&mut json).context(TransferSnafu)?;
    ensure!(json.len() == length, ClosedSnafu);
    parse(&json)
}

/// Writes a header.
pub fn write<T: Serialize>(writer: &mut impl Write, body: &T) -> Result<(), HeaderError> {
    writer.write_all(&encode(body)?).context(TransferSnafu)
}

fn ended(source: io::Error) -> HeaderError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        HeaderError::Closed
    } else {
        HeaderError::Transfer { source }
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<Header<T>, HeaderError> {
    match serde_json::from_slice::<Envelope<T>>(json) {
        Ok(Envelope { version, keep, body }) if VERSION.understands(version) => Ok(Header { body, keep }),
        Ok(Envelope { version, .. }) => OtherVersionSnafu { theirs: version }.fail(),
        // Another MAJOR version may have other bodies: what matters then is the version.
        Err(source) => match serde_json::from_slice::<Envelope<IgnoredAny>>(json) {
            Ok(Envelope { version, .. }) if !VERSION.understands(version) => {
                OtherVersionSnafu { theirs: version }.fail()
            }
            _ => Err(Mismatch::from(source)).context(MalformedSnafu),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, Start};

    fn other_version() -> Version {
        Version { major: VERSION.major + 1, minor: 0 }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_however_it_arrives() {
        let request = Request::Start(Start { argv: vec!["true".into()], attach: true, ..Start::default() });
        let bytes = encode(&request).unwrap();
        assert_eq!(read::<Request>(&mut &bytes[..]).unwrap(), request);
        for arrived in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..arrived]).unwrap().is_none());
        }
        let with_more = [&bytes[..], b"more"].concat();
        assert_eq!(decode(&with_more).unwrap(), Some((Header { body: request, keep: false }, bytes.len())));
    }

    #[test]
    fn a_header_says_whether_another_request_follows() {
        let bytes = encode_keeping(&Request::Health, true).unwrap();
        assert!(bytes.ends_with(br#"{"version":"1.5","keep":true,"body":"health"}"#));
        let header = Header { body: Request::Health, keep: true };
        assert_eq!(read_whole::<Request>(&mut &bytes[..]).unwrap(), header);
        assert_eq!(encode_keeping(&Request::Health, false).unwrap(), encode(&Request::Health).unwrap());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_of_it_arrives() {
        let length = u32::MAX.to_le_bytes();
        assert!(matches!(decode::<Request>(&length), Err(HeaderError::TooLarge { .. })));
        assert!(matches!(read::<Request>(&mut &length[..]), Err(HeaderError::TooLarge { .. })));
        assert!(matches!(
            encode(&"x".repeat(MAX_HEADER)),
            Err(HeaderError::TooLarge { length }) if length > MAX_HEADER
        ));
    }

    #[test]
    fn another_major_version_is_named_even_where_its_body_is_unknown() {
        for body in ["\"health\"", "{\"levitate\":{}}", "[1,2]"] {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let bytes = encode_as(other_version(), &body).unwrap();
            let error = decode::<Request>(&bytes).unwrap_err();
            assert!(
                matches!(error, HeaderError::OtherVersion { theirs } if theirs == other_version()),
                "{error:?}"
            );
        }
    }

    #[test]
    fn another_minor_version_and_unknown_fields_are_taken() {
        let newer = Version { minor: VERSION.minor + 1, ..VERSION };
        let body: serde_json::Value =
            serde_json::from_str(r#"{"wait":{"process":3,"until":"sunset"}}"#).unwrap();
        let bytes = encode_as(newer, &body).unwrap();
        let (header, _) = decode::<Request>(&bytes).unwrap().unwrap();
        assert_eq!(header.body, Request::Wait { process: crate::ProcessId(3) });
    }

    #[test]
    fn what_a_peer_wrote_reaches_no_terminal_by_way_of_an_error() {
        let body = format!("\u{1b}]0;owned\u{7}\u{202e}{}", "x".repeat(100_000));
        let error = decode::<Request>(&encode(&body).unwrap()).unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("owned") && text.len() < 1000, "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text:?}");
    }

    #[test]
    fn a_stream_that_ends_early_is_closed_and_garbage_is_malformed() {
        assert!(matches!(read::<Request>(&mut &b""[..]), Err(HeaderError::Closed)));
        assert!(matches!(read::<Request>(&mut &[9, 0, 0, 0, b'{'][..]), Err(HeaderError::Closed)));
        assert!(matches!(read::<Request>(&mut &[1, 0, 0, 0, b'{'][..]), Err(HeaderError::Malformed { .. })));
    }
}
