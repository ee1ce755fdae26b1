//! The messages of a vhost-user front end: their bytes, and what they mean.
//!
//! The layout is that of "Vhost-user Protocol" in QEMU's interoperability documents. All numbers are in the byte
//! order of the machine. The front end is not trusted: nothing is read past what was sent, nothing is allocated by
//! a number that it names, and descriptors are taken only where a message may carry them.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use snafu::{OptionExt, ResultExt, ensure};
use vmm_sys::fd_passing;

use super::error::{
    BadLengthSnafu, BadValueSnafu, FilesSnafu, ReceiveSnafu, SendSnafu, TruncatedSnafu, UnknownRequestSnafu,
    VersionSnafu, VhostUserError,
};
use crate::memory::SharedRegion;

const HEADER_SIZE: usize = 12;
/// The longest payload that we know is a configuration space with its header.
const MAX_PAYLOAD: usize = 512;
/// The largest configuration space (`VHOST_USER_MAX_CONFIG_SIZE`).
const MAX_CONFIG: u32 = 256;
/// The largest memory table without `CONFIGURE_MEM_SLOTS`.
const MAX_REGIONS: usize = 8;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The back end's own request that says that the configuration changed.
const CONFIG_CHANGED: u32 = 2;

/// A descriptor's absence is said by this bit beside the ring's number.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// Where a ring lies in the front end's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingAddresses {
    pub descriptor_table: u64,
    pub used_ring: u64,
    pub available_ring: u64,
}

/// A region of the memory table. The ring's addresses are within `[user_address, user_address + size)`.
#[derive(Debug)]
pub(super) struct TableRegion {
    pub user_address: u64,
    pub region: SharedRegion,
}

/// What the front end asks for.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemoryTable(Vec<TableRegion>),
    SetRingSize { ring: u32, size: u32 },
    SetRingAddresses { ring: u32, addresses: RingAddresses },
    SetRingBase { ring: u32, base: u32 },
    GetRingBase { ring: u32 },
    SetRingKick { ring: u32, file: Option<OwnedFd> },
    SetRingCall { ring: u32, file: Option<OwnedFd> },
    SetRingError { ring: u32, file: Option<OwnedFd> },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueCount,
    SetRingEnabled { ring: u32, enabled: bool },
    SetBackEndChannel(OwnedFd),
    GetConfig { offset: u32, size: u32, flags: u32 },
    SetConfig { offset: u32, bytes: Vec<u8> },
    ResetDevice,
}

/// A request and what its header says beside.
#[derive(Debug)]
pub(super) struct Message {
    /// The request's number, which its reply repeats.
    pub code: u32,
    /// The front end waits for an acknowledgement.
    pub need_reply: bool,
    pub request: Request,
}

/// The connection to the front end.
pub(super) struct Connection {
    socket: UnixStream,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Ends the connection for both sides.
    pub(super) fn close(&self) {
        // The peer may have closed it before.
        let _closed = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Waits for the next message. `None`: the front end closed the connection after its last one.
    pub(super) fn receive(&self) -> Result<Option<Message>, VhostUserError> {
        let mut header = [0; HEADER_SIZE];
        // Descriptors travel with the first byte of a message. What comes with later ones is closed at once, so
        // that a trickle of bytes cannot pile them up.
        let (mut length, files) = self.receive_some(&mut header)?;
        if length == 0 {
            return Ok(None);
        }
        length += self.receive_all(&mut header[length..])?;
        debug_assert_eq!(length, HEADER_SIZE);
        let mut header = Fields::new(0, &header);
        let (code, flags, size) = (header.u32()?, header.u32()?, header.u32()?);
        ensure!(flags & (VERSION_MASK | REPLY) == VERSION, VersionSnafu { flags });
        let mut payload = [0; MAX_PAYLOAD];
        let payload = payload.get_mut(..size as usize).context(BadLengthSnafu { code, size })?;
        self.receive_all(payload)?;
        let request = parse(code, payload, files)?;
        Ok(Some(Message { code, need_reply: flags & NEED_REPLY != 0, request }))
    }

    /// Answers a request with a payload of several parts.
    pub(super) fn reply(&self, code: u32, parts: &[&[u8]]) -> Result<(), VhostUserError> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(HEADER_SIZE + size);
        bytes.extend_from_slice(&header(code, VERSION | REPLY, u32::try_from(size).unwrap_or(0)));
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let sent = retry(|| fd_passing::send(&self.socket, rest, &[])).context(SendSnafu)?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    pub(super) fn reply_u64(&self, code: u32, value: u64) -> Result<(), VhostUserError> {
        self.reply(code, &[&value.to_ne_bytes()])
    }

    fn receive_some(&self, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), VhostUserError> {
        retry(|| fd_passing::receive(&self.socket, bytes)).context(ReceiveSnafu)
    }

    fn receive_all(&self, mut bytes: &mut [u8]) -> Result<usize, VhostUserError> {
        let length = bytes.len();
        while !bytes.is_empty() {
            let (count, _closed) = self.receive_some(bytes)?;
            ensure!(count > 0, TruncatedSnafu);
            bytes = &mut bytes[count..];
        }
        Ok(length)
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Tells the front end, on the back end's own channel, that the configuration changed. Never waits: where the
/// channel is full, there are such messages in it already.
pub(super) fn send_config_change(channel: &OwnedFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let bytes = header(CONFIG_CHANGED, VERSION, 0);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(channel, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), flags) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn header(code: u32, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&code.to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// Makes a request of its parts; refuses one that is too short, too long or carries descriptors it should not.
fn parse(code: u32, payload: &[u8], files: Vec<OwnedFd>) -> Result<Request, VhostUserError> {
    let mut fields = Fields::new(code, payload);
    let mut files = Files { code, files };
    let request = match code {
        1 => Request::GetFeatures,
        2 => Request::SetFeatures(fields.u64()?),
        3 => Request::SetOwner,
        4 => Request::ResetOwner,
        5 => Request::SetMemoryTable(parse_table(&mut fields, &mut files)?),
        8 => Request::SetRingSize { ring: fields.u32()?, size: fields.u32()? },
        9 => parse_addresses(&mut fields)?,
        10 => Request::SetRingBase { ring: fields.u32()?, base: fields.u32()? },
        11 => {
            let (ring, _) = (fields.u32()?, fields.u32()?);
            Request::GetRingBase { ring }
        }
        12..=14 => {
            let value = fields.u64()?;
            let ring = u32::try_from(value & 0xff).unwrap_or(u32::MAX);
            let file = if value & NO_DESCRIPTOR == 0 { Some(files.one()?) } else { None };
            match code {
                12 => Request::SetRingKick { ring, file },
                13 => Request::SetRingCall { ring, file },
                _ => Request::SetRingError { ring, file },
            }
        }
        15 => Request::GetProtocolFeatures,
        16 => Request::SetProtocolFeatures(fields.u64()?),
        17 => Request::GetQueueCount,
        18 => {
            let (ring, enabled) = (fields.u32()?, fields.u32()?);
            ensure!(enabled <= 1, BadValueSnafu { code, value: enabled });
            Request::SetRingEnabled { ring, enabled: enabled == 1 }
        }
        21 => Request::SetBackEndChannel(files.one()?),
        24 | 25 => parse_config(&mut fields)?,
        34 => Request::ResetDevice,
        _ => return UnknownRequestSnafu { code }.fail(),
    };
    // QEMU gives the channel's message no payload, other front ends a number that means nothing.
    ensure!(fields.rest.is_empty() || code == 21, BadLengthSnafu { code, size: fields.size });
    ensure!(files.files.is_empty(), FilesSnafu { code });
    Ok(request)
}

fn parse_table(fields: &mut Fields<'_>, files: &mut Files) -> Result<Vec<TableRegion>, VhostUserError> {
    let (count, _padding) = (fields.u32()?, fields.u32()?);
    ensure!((1..=MAX_REGIONS).contains(&(count as usize)), BadValueSnafu { code: fields.code, value: count });
    ensure!(files.files.len() == count as usize, FilesSnafu { code: fields.code });
    let mut regions = Vec::with_capacity(count as usize);
    for file in files.files.drain(..) {
        let (guest_address, size, user_address, file_offset) =
            (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let region = SharedRegion { guest_address, size, file_offset, file };
        regions.push(TableRegion { user_address, region });
    }
    Ok(regions)
}

fn parse_addresses(fields: &mut Fields<'_>) -> Result<Request, VhostUserError> {
    let (ring, flags) = (fields.u32()?, fields.u32()?);
    // The only flag asks for a log of writes, which belongs to a feature that we do not offer.
    ensure!(flags == 0, BadValueSnafu { code: fields.code, value: flags });
    let (descriptor_table, used_ring, available_ring) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let _log = fields.u64()?;
    let addresses = RingAddresses { descriptor_table, used_ring, available_ring };
    Ok(Request::SetRingAddresses { ring, addresses })
}

fn parse_config(fields: &mut Fields<'_>) -> Result<Request, VhostUserError> {
    let (offset, size, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
    ensure!(size <= MAX_CONFIG, BadValueSnafu { code: fields.code, value: size });
    ensure!(offset <= MAX_CONFIG, BadValueSnafu { code: fields.code, value: offset });
    let bytes = fields.bytes(size as usize)?;
    if fields.code == 24 {
        return Ok(Request::GetConfig { offset, size, flags });
    }
    Ok(Request::SetConfig { offset, bytes: bytes.to_vec() })
}

/// What is left of a payload.
struct Fields<'a> {
    code: u32,
    size: u32,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(code: u32, bytes: &'a [u8]) -> Self {
        Self { code, size: u32::try_from(bytes.len()).unwrap_or(u32::MAX), rest: bytes }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], VhostUserError> {
        let too_short = BadLengthSnafu { code: self.code, size: self.size };
        let (taken, rest) = self.rest.split_at_checked(count).context(too_short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], VhostUserError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, VhostUserError> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, VhostUserError> {
        self.array().map(u64::from_ne_bytes)
    }
}

/// The descriptors that came with a message.
struct Files {
    code: u32,
    files: Vec<OwnedFd>,
}

impl Files {
    fn one(&mut self) -> Result<OwnedFd, VhostUserError> {
        self.files.pop().context(FilesSnafu { code: self.code })
    }
}
