//! Reading an archive, member by member: POSIX (pax), GNU and old tars.

use std::io::{self, Read};

use vmm_sys::beneath::Node;

use crate::error::{Error, damaged};
use crate::header::{self, BLOCK, Block, number, signed_number};
use crate::member::{Kind, Member, Piece, Time};
use crate::pax::{Note, decimal};
use crate::sparse::{self, Map};
use crate::{LONGEST_NOTE, MOST_PIECES};

/// Where an archive is read from.
pub trait Input: Read {
    /// Passes over so many bytes, which must be there.
    fn pass_over(&mut self, length: u64) -> io::Result<()>;
}

/// A stream: what is passed over is read and dropped.
#[derive(Debug)]
pub struct Streamed<R>(pub R);

impl<R: Read> Read for Streamed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Input for Streamed<R> {
    fn pass_over(&mut self, length: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.0.by_ref().take(length), &mut io::sink())?;
        if passed == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Reads an archive.
#[derive(Debug)]
pub struct Reader<I> {
    input: I,
    /// What is left of the current member's data, and what fills its last block.
    left: u64,
    padding: u64,
    /// What is said of all members that follow.
    global: Note,
    may_break_off: bool,
    ended: bool,
}

/// Where it ends too soon.
const CUT: &str = "it ends in the middle";

impl<I: Input> Reader<I> {
    /// Reads an archive from its beginning. One without its end mark is damaged.
    pub fn new(input: I) -> Self {
        Self { input, left: 0, padding: 0, global: Note::default(), may_break_off: false, ended: false }
    }

    /// Takes an archive without an end mark for a whole one.
    #[must_use]
    pub fn without_end_mark(mut self) -> Self {
        self.may_break_off = true;
        self
    }

    /// Where it is read from.
    pub fn input(&self) -> &I {
        &self.input
    }

    /// The next member, if there is one. What is left of the data of the one before is passed over.
    #[expect(clippy::should_implement_trait, reason = "an iterator would lend nothing of its data")]
    pub fn next(&mut self) -> Result<Option<Member>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.pass_over(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut note = self.global.clone();
        let mut noted = 0;
        loop {
            let Some(block) = self.block()? else {
                self.ended = true;
                return if self.may_break_off { Ok(None) } else { damaged(CUT) };
            };
            if header::is_zero(&block) {
                self.ended = true;
                return Ok(None);
            }
            if !header::checksum_is_right(&block) {
                return damaged("the checksum of a member is wrong");
            }
            let kind = block[156];
            if !matches!(kind, b'L' | b'K' | b'x' | b'g' | b'V') {
                return self.member(&block, note).map(Some);
            }
            let length = number(&block[124..136])?;
            noted += length.min(LONGEST_NOTE + 1) + 1;
            if noted > LONGEST_NOTE {
                return damaged("what it notes of a member is too long");
            }
            let text = self.note(length)?;
            match kind {
                b'L' => note.path = Some(header::text(&text).to_vec()),
                b'K' => note.link = Some(header::text(&text).to_vec()),
                b'x' => note.read(&text)?,
                b'g' => {
                    self.global.read(&text)?;
                    // Neither is said of more than one member.
                    self.global.attributes.clear();
                    self.global.sparse = Default::default();
                    note = self.global.clone();
                }
                // The name of the volume.
                _ => {}
            }
        }
    }

    /// Reads data of the current member, of all its pieces one behind the other. 0 at their end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        match self.read_some(&mut buffer[..length])? {
            0 => damaged(CUT),
            length => {
                self.left -= length as u64;
                Ok(length)
            }
        }
    }

    /// Reads what is behind the end mark, which means nothing, to the end of the stream.
    pub fn finish(mut self) -> Result<I, Error> {
        /// More than the largest blocks of tapes that tools fill.
        const MOST: u64 = 64 << 20;
        let passed = io::copy(&mut (&mut self.input).take(MOST), &mut io::sink());
        match passed.map_err(|source| Error::Stream { source })? {
            MOST => damaged("too much follows its end"),
            _ => Ok(self.input),
        }
    }

    fn member(&mut self, block: &Block, note: Note) -> Result<Member, Error> {
        let Note { path, link, size, uid, gid, modified, attributes, sparse } = note;
        let stored = size.map_or_else(|| number(&block[124..136]), Ok)?;
        let mut name = path.unwrap_or_else(|| header::name(block));
        let link = link.unwrap_or_else(|| header::text(&block[157..257]).to_vec());
        let device =
            || Ok::<_, Error>((narrow(number(&block[329..337])?)?, narrow(number(&block[337..345])?)?));
        let mut stored_data = 0;
        let kind = match block[156] {
            b'0' | b'7' | 0 | b'S' if !name.ends_with(b"/") => {
                stored_data = stored;
                Kind::File
            }
            b'0' | b'7' | 0 | b'5' => Kind::Folder,
            // A folder and, as its data, the names in it.
            b'D' => {
                stored_data = stored;
                Kind::Folder
            }
            b'1' => Kind::HardLink(link),
            b'2' => Kind::SymbolicLink(link),
            b'3' => {
                let (major, minor) = device()?;
                Kind::Node(Node::Character(major, minor))
            }
            b'4' => {
                let (major, minor) = device()?;
                Kind::Node(Node::Block(major, minor))
            }
            b'6' => Kind::Node(Node::Fifo),
            b'M' => return damaged("it is a part of an archive in several volumes"),
            _ => return Err(Error::Refused { name, why: "is of a kind that is not known" }),
        };
        self.left = stored_data;
        self.padding = header::padding(stored_data);
        if self.left.checked_add(self.padding).is_none() {
            return damaged("a member is too long");
        }
        let (mut length, mut pieces) = (0, Vec::new());
        if kind == Kind::File {
            length = stored;
            if block[156] == b'S' {
                (length, pieces) = self.old_map(block)?;
            } else if let Some(told) = sparse.length {
                length = told;
                name = sparse.name.unwrap_or(name);
                let map = match (sparse.major, sparse.minor) {
                    (Some(1), Some(0)) => self.map_before_data()?,
                    (None | Some(0), _) => sparse.map,
                    _ => return damaged("it has a sparse file of a format that is not known"),
                };
                pieces = map.of(length, self.left)?;
            } else if length > 0 {
                pieces.push(Piece { at: 0, length });
            }
        }
        let seconds = signed_number(&block[136..148]);
        Ok(Member {
            name,
            kind,
            mode: narrow(number(&block[100..108])? & 0o7777)?,
            uid: narrow(uid.map_or_else(|| number(&block[108..116]), Ok)?)?,
            gid: narrow(gid.map_or_else(|| number(&block[116..124]), Ok)?)?,
            modified: match modified {
                Some(time) => time,
                None => Time { seconds: seconds?, nanoseconds: 0 },
            },
            attributes,
            length,
            pieces,
        })
    }

    /// The map of a sparse file in GNU's old format: four pieces in the header, others in blocks behind it.
    fn old_map(&mut self, block: &Block) -> Result<(u64, Vec<Piece>), Error> {
        let mut map = Map::default();
        let (entries, mut more, length) = sparse::old_header(block)?;
        map.read_old(entries)?;
        // As many blocks as the most pieces take: they may be empty, and then count for nothing.
        for _ in 0..=MOST_PIECES / 21 {
            if !more {
                return Ok((length, map.of(length, self.left)?));
            }
            let Some(block) = self.block()? else { return damaged(CUT) };
            let (entries, goes_on) = sparse::old_extension(&block);
            map.read_old(entries)?;
            more = goes_on;
        }
        damaged("a member has too many pieces")
    }

    /// The map of a sparse file in the format of today: numbers, a line each, before the data.
    fn map_before_data(&mut self) -> Result<Map, Error> {
        const WRONG: &str = "the map of a sparse member is wrong";
        /// No number has more digits.
        const DIGITS: usize = 20;
        let mut map = Map::default();
        let (mut line, mut wanted, mut begun) = (Vec::new(), None, None);
        loop {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.read(&mut block[filled..])? {
                    0 => return damaged(WRONG),
                    length => filled += length,
                }
            }
            for byte in block {
                if byte != b'\n' {
                    if line.len() == DIGITS {
                        return damaged(WRONG);
                    }
                    line.push(byte);
                    continue;
                }
                let Some(number) = decimal(&line) else { return damaged(WRONG) };
                line.clear();
                match (&mut wanted, begun.take()) {
                    (None, _) => wanted = Some(number),
                    (Some(_), None) => begun = Some(number),
                    (Some(wanted), Some(at)) => {
                        map.add(Piece { at, length: number })?;
                        *wanted -= 1;
                    }
                }
                if wanted == Some(0) {
                    return Ok(map);
                }
            }
        }
    }

    /// What is noted of the member that comes next. Memory grows with what arrives.
    fn note(&mut self, length: u64) -> Result<Vec<u8>, Error> {
        let mut note = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut note);
        read.map_err(|source| Error::Stream { source })?;
        if note.len() as u64 != length {
            return damaged(CUT);
        }
        self.pass_over(header::padding(length))?;
        Ok(note)
    }

    fn pass_over(&mut self, length: u64) -> Result<(), Error> {
        if length == 0 {
            return Ok(());
        }
        self.input.pass_over(length).map_err(|source| Error::Stream { source })
    }

    /// A block; none at the end of the stream.
    fn block(&mut self) -> Result<Option<Block>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 if self.may_break_off => return Ok(None),
                0 => return damaged(CUT),
                length => filled += length,
            }
        }
        Ok(Some(block))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|source| Error::Stream { source }),
            }
        }
    }
}

fn narrow(number: u64) -> Result<u32, Error> {
    u32::try_from(number).or_else(|_| damaged("a number of a member is too large"))
}
