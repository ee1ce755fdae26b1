//! Flow control of one connection (virtio 1.2, 5.10.6.3).
//!
//! Each side has a buffer for the connection, says how large it is and counts, modulo 2³², the bytes that it has
//! taken out of it; the other side counts what it sent and never has more under way than fits.

use snafu::{Snafu, ensure};

/// How the guest broke the rules of flow control.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub(super) enum CreditError {
    /// It sent what had no room.
    #[snafu(display("{length} bytes were sent where {room} had room"))]
    Exceeded { length: u32, room: u32 },
    /// It says that it took out bytes which we have not sent.
    #[snafu(display("more bytes are said to be received than were sent"))]
    NeverSent,
}

/// What we may send to the guest.
#[derive(Debug, Default)]
pub(super) struct SendCredit {
    /// The guest's buffer.
    allocation: u32,
    /// What the guest has taken out of it.
    forwarded: u32,
    /// What we have sent.
    sent: u32,
}

/// We make no use of more, so what is under way stays below half of the counters' range and a count that runs ahead
/// of what we sent is seen as such.
const MOST_UNDER_WAY: u32 = 1 << 30;

impl SendCredit {
    /// Takes over what a packet's header says.
    pub(super) fn update(&mut self, allocation: u32, forwarded: u32) -> Result<(), CreditError> {
        ensure!(self.sent.wrapping_sub(forwarded) <= MOST_UNDER_WAY, NeverSentSnafu);
        self.allocation = allocation.min(MOST_UNDER_WAY);
        self.forwarded = forwarded;
        Ok(())
    }

    /// How many bytes may be sent now. None at all, if the guest made its buffer smaller than what is under way.
    pub(super) fn available(&self) -> u32 {
        self.allocation.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// Notes that bytes were sent, of which there are no more than [`SendCredit::available`].
    pub(super) fn spend(&mut self, length: u32) {
        self.sent = self.sent.wrapping_add(length);
    }
}

/// What the guest may send to us.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    /// Our buffer.
    allocation: u32,
    /// What the guest has sent.
    received: u32,
    /// What we have taken out of our buffer.
    forwarded: u32,
    /// What the guest knows of that.
    announced: u32,
}

impl ReceiveCredit {
    /// For a buffer of that size.
    pub(super) fn new(allocation: u32) -> Self {
        Self { allocation, received: 0, forwarded: 0, announced: 0 }
    }

    /// The guest sent bytes, which wait in the buffer until they are forwarded.
    pub(super) fn receive(&mut self, length: u32) -> Result<(), CreditError> {
        let room = self.allocation - self.received.wrapping_sub(self.forwarded);
        ensure!(length <= room, ExceededSnafu { length, room });
        self.received = self.received.wrapping_add(length);
        Ok(())
    }

    /// Bytes left the buffer; there were at least so many in it.
    pub(super) fn forward(&mut self, length: u32) {
        self.forwarded = self.forwarded.wrapping_add(length);
    }

    /// What a header tells the guest: the size of the buffer, and the count of what left it.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (self.allocation, self.forwarded)
    }

    /// Whether the guest should hear of free room although there is nothing else to send: it counts half of the
    /// buffer as taken that is not. Seldom enough to cost little, and it comes before the guest has to wait.
    pub(super) fn is_update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= self.allocation / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_may_be_sent_before_the_guest_tells_of_its_buffer() {
        assert_eq!(SendCredit::default().available(), 0);
    }

    #[test]
    fn a_buffer_made_smaller_than_what_is_under_way_leaves_no_credit() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(80);
        credit.update(50, 0).unwrap();
        assert_eq!(credit.available(), 0);
        credit.update(50, 40).unwrap();
        assert_eq!(credit.available(), 10);
    }

    #[test]
    fn a_guest_that_received_what_was_never_sent_is_found_out() {
        let mut credit = SendCredit::default();
        credit.update(100, 0).unwrap();
        credit.spend(10);
        assert_eq!(credit.update(100, 11), Err(CreditError::NeverSent));
    }

    #[test]
    fn a_guest_that_sends_more_than_fits_is_found_out() {
        let mut credit = ReceiveCredit::new(100);
        credit.receive(60).unwrap();
        assert_eq!(credit.receive(41), Err(CreditError::Exceeded { length: 41, room: 40 }));
        credit.forward(1);
        credit.receive(41).unwrap();
    }

    #[test]
    fn an_update_is_due_once_half_of_the_buffer_is_free_and_unannounced() {
        let mut credit = ReceiveCredit::new(100);
        credit.receive(100).unwrap();
        credit.forward(49);
        assert!(!credit.is_update_due());
        credit.forward(1);
        assert!(credit.is_update_due());
        assert_eq!(credit.announce(), (100, 50));
        assert!(!credit.is_update_due());
    }

    proptest! {
        /// Both halves against counters that never wrap: one of ours sends, the other receives, and what the second
        /// announces reaches the first late.
        #[test]
        fn the_counters_agree_with_a_model_that_never_wraps(
            start: u32,
            allocation in 1..=MOST_UNDER_WAY,
            steps in proptest::collection::vec((0..3u8, any::<u32>()), 1..200),
        ) {
            let mut sender = SendCredit { allocation, forwarded: start, sent: start };
            let mut receiver =
                ReceiveCredit { allocation, received: start, forwarded: start, announced: start };
            let (mut sent, mut forwarded, mut known) = (0u64, 0u64, 0u64);
            for (step, amount) in steps {
                let room = u64::from(allocation) - (sent - known);
                prop_assert_eq!(u64::from(sender.available()), room);
                match step {
                    0 => {
                        let length = amount % (sender.available() + 1);
                        sender.spend(length);
                        prop_assert_eq!(receiver.receive(length), Ok(()));
                        sent += u64::from(length);
                    }
                    1 => {
                        let length = u32::try_from(u64::from(amount) % (sent - forwarded + 1)).unwrap();
                        receiver.forward(length);
                        forwarded += u64::from(length);
                        let due = forwarded - known >= u64::from(allocation / 2);
                        prop_assert_eq!(receiver.is_update_due(), due);
                    }
                    _ => {
                        let (allocation, count) = receiver.announce();
                        prop_assert_eq!(sender.update(allocation, count), Ok(()));
                        known = forwarded;
                    }
                }
                let free = u64::from(allocation) - (sent - forwarded);
                if let Ok(too_much) = u32::try_from(free + 1) {
                    prop_assert!(receiver.receive(too_much).is_err());
                }
            }
        }
    }
}
