//! What an agent sends, read as each kind of message that the host expects, and as frames.
//!
//! Whatever is understood must survive being written and read again.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm_protocol::header;
use vmm_protocol::{AgentMessage, Answer, Configuration, Exit, FRAME_HEADER_SIZE, FrameHeader, PieceReader, Request};

fuzz_target!(|bytes: &[u8]| {
    a_header::<AgentMessage>(bytes);
    a_header::<Answer>(bytes);
    a_header::<Configuration>(bytes);
    a_header::<Exit>(bytes);
    a_header::<Request>(bytes);
    frames(bytes);
    pieces(bytes);
});

fn a_header<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let decoded = header::decode::<T>(bytes);
    let read = header::read::<T>(&mut &bytes[..]);
    let Ok(Some((message, taken))) = decoded else {
        assert!(read.is_err(), "both ways to read a header agree");
        return;
    };
    assert!(taken <= bytes.len() && read.is_ok());
    let again = header::encode(&message).expect("what was read can be written");
    let (same, _) = header::decode::<T>(&again).expect("and read again").expect("whole");
    assert_eq!(again, header::encode(&same).expect("and written again"));
}

/// An archive in pieces ends only if it is whole.
fn pieces(bytes: &[u8]) {
    let mut reader = PieceReader::new(bytes);
    let mut archive = Vec::new();
    let read = reader.read_to_end(&mut archive);
    assert_eq!(read.is_ok(), reader.totals().is_some());
    assert!(archive.len() <= bytes.len());
}

fn frames(mut bytes: &[u8]) {
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>() {
        let Ok(frame) = FrameHeader::parse(*head) else { return };
        assert_eq!(frame.to_bytes(), *head);
        let Some(rest) = rest.get(frame.data_length()..) else { return };
        bytes = rest;
    }
}
