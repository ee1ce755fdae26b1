//! The header of a vsock packet, as it lies in the queues' buffers (virtio 1.2, 5.10.6).

use super::GuestCid;

/// The length of a header in a buffer.
pub(super) const HEADER_LENGTH: u32 = 44;

/// The host's address (`VMADDR_CID_HOST`).
pub(super) const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`: the only type of socket that we have.
pub(super) const STREAM: u16 = 1;

/// What a packet asks for or says (virtio 1.2, 5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    /// Asks for a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Ends one at once, or refuses it.
    Reset = 3,
    /// Says what its sender will no longer do: the flags are [`Directions`].
    Shutdown = 4,
    /// Carries bytes of the stream.
    ReadWrite = 5,
    /// Tells of room that became free.
    CreditUpdate = 6,
    /// Asks for a [`Operation::CreditUpdate`].
    CreditRequest = 7,
}

impl Operation {
    /// The operation of that number, if there is one.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The directions of a stream as the sender of a [`Operation::Shutdown`] sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directions {
    /// What it receives (`VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`).
    pub receive: bool,
    /// What it sends (`VIRTIO_VSOCK_SHUTDOWN_F_SEND`).
    pub send: bool,
}

impl Directions {
    pub(super) const NONE: Self = Self { receive: false, send: false };
    pub(super) const RECEIVE: Self = Self { receive: true, send: false };
    pub(super) const SEND: Self = Self { receive: false, send: true };
    pub(super) const BOTH: Self = Self { receive: true, send: true };

    pub(super) fn from_flags(flags: u32) -> Self {
        Self { receive: flags & 1 != 0, send: flags & 2 != 0 }
    }

    pub(super) fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { receive: self.receive || other.receive, send: self.send || other.send }
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self { receive: self.receive && !other.receive, send: self.send && !other.send }
    }
}

/// The header of a packet. Its numbers are as the guest wrote them: nothing is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    /// The number of bytes that follow.
    pub length: u32,
    /// The type of socket.
    pub socket_type: u16,
    /// See [`Operation`].
    pub operation: u16,
    /// Their meaning depends on the operation.
    pub flags: u32,
    /// The size of the sender's whole buffer for this connection.
    pub buffer_allocation: u32,
    /// How many bytes of the stream the sender has taken out of that buffer, modulo 2³².
    pub forward_count: u32,
}

impl Header {
    /// Takes a header apart.
    pub(super) fn parse(bytes: &[u8; HEADER_LENGTH as usize]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            source_cid: long(0),
            destination_cid: long(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            socket_type: half(28),
            operation: half(30),
            flags: word(32),
            buffer_allocation: word(36),
            forward_count: word(40),
        }
    }

    /// Puts a header together.
    pub(super) fn bytes(&self) -> [u8; HEADER_LENGTH as usize] {
        let mut bytes = [0; HEADER_LENGTH as usize];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer_allocation.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.forward_count.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet, which the guest sent.
    pub(super) fn refusal(&self, guest: GuestCid) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: guest.into(),
            source_port: self.destination_port,
            destination_port: self.source_port,
            socket_type: self.socket_type,
            operation: Operation::Reset as u16,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fields_lie_where_the_specification_puts_them() {
        let mut bytes = [0; 44];
        for (value, byte) in (1..).zip(&mut bytes) {
            *byte = value;
        }
        let header = Header::parse(&bytes);
        assert_eq!(header.source_cid, 0x0807_0605_0403_0201);
        assert_eq!(header.destination_cid, 0x100f_0e0d_0c0b_0a09);
        assert_eq!((header.source_port, header.destination_port), (0x1413_1211, 0x1817_1615));
        assert_eq!(header.length, 0x1c1b_1a19);
        assert_eq!((header.socket_type, header.operation), (0x1e1d, 0x201f));
        assert_eq!(header.flags, 0x2423_2221);
        assert_eq!((header.buffer_allocation, header.forward_count), (0x2827_2625, 0x2c2b_2a29));
    }

    #[test]
    fn every_operation_has_the_number_that_it_is_found_by() {
        let known: Vec<u16> =
            (0..=u16::MAX).filter(|number| Operation::from_number(*number).is_some()).collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 6, 7]);
        assert!(known.iter().all(|number| Operation::from_number(*number).unwrap() as u16 == *number));
    }

    #[test]
    fn a_refusal_goes_back_to_where_the_packet_came_from() {
        let packet = Header {
            source_cid: 3,
            destination_cid: HOST_CID,
            source_port: 1000,
            destination_port: 22,
            length: 5,
            socket_type: STREAM,
            operation: Operation::ReadWrite as u16,
            ..Header::default()
        };
        let refusal = packet.refusal(GuestCid::try_from(3).unwrap());
        assert_eq!((refusal.source_cid, refusal.source_port), (HOST_CID, 22));
        assert_eq!((refusal.destination_cid, refusal.destination_port), (3, 1000));
        assert_eq!((refusal.operation, refusal.length), (Operation::Reset as u16, 0));
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_taken_apart_again(bytes: [u8; 32], tail: [u8; 12]) {
            let mut whole = [0; 44];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::parse(&whole).bytes(), whole);
        }

        #[test]
        fn directions_keep_the_two_flags_that_they_know(flags: u32) {
            prop_assert_eq!(Directions::from_flags(flags).flags(), flags & 3);
        }
    }
}
