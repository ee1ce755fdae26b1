//! What an agent sends, read as each kind of message that the host expects, and as frames.
//!
//! Whatever is understood must survive being written and read again.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm_protocol::header;
use vmm_protocol::transfer::Outcome;
use vmm_protocol::{
    AgentMessage, Answer, Change, Configuration, Exit, FRAME_HEADER_SIZE, FileInfo, FolderEntry, FrameHeader, GuestProcess,
    PieceReader, Reply, Request,
};

fuzz_target!(|bytes: &[u8]| {
    a_header::<AgentMessage>(bytes);
    a_header::<Answer>(bytes);
    a_header::<Configuration>(bytes);
    a_header::<Exit>(bytes);
    a_header::<Request>(bytes);
    a_header::<Outcome>(bytes);
    pages(bytes);
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
    let again = header::encode_keeping(&message.body, message.keep).expect("what was read can be written");
    let (same, _) = header::decode::<T>(&again).expect("and read again").expect("whole");
    assert_eq!(again, header::encode_keeping(&same.body, same.keep).expect("and written again"));
}

/// Answers one behind the other, as those that come in pages: what is taken for sound leads nowhere else.
fn pages(mut bytes: &[u8]) {
    while let Ok(Some((answer, taken))) = header::decode::<Answer>(bytes) {
        match answer.body {
            Answer::Ok(Reply::File(info) | Reply::Contents(info)) => an_info(&info),
            Answer::Ok(Reply::Entries(page)) => {
                for entry in page.iter().filter(|entry| FolderEntry::is_sound(entry)) {
                    let name = entry.name.as_bytes();
                    assert!(!name.is_empty() && name != b".." && !name.contains(&b'/') && !name.contains(&0));
                    an_info(&entry.info);
                }
            }
            Answer::Ok(Reply::Changes(page)) => {
                for change in page.iter().filter(|change| Change::is_sound(change)) {
                    let path = std::path::Path::new(change.path.as_os_str());
                    let within = |part| matches!(part, std::path::Component::Normal(_));
                    assert!(path.components().all(within), "{path:?}");
                }
            }
            Answer::Ok(Reply::GuestProcesses(page)) => {
                for process in page.iter().filter(|process| GuestProcess::is_sound(process)) {
                    assert!(process.argv.iter().map(|word| word.as_bytes().len()).sum::<usize>() <= 1024);
                }
            }
            _ => {}
        }
        bytes = &bytes[taken..];
    }
}

fn an_info(info: &FileInfo) {
    if info.is_sound() {
        assert!(info.mode <= 0o7777 && info.modified_ns < 1_000_000_000);
    }
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
