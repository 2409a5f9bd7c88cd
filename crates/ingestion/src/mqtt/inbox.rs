//! Decides which messages from the cloud go to a device, and when they are done with.
//!
//! Pure. Delivery is level-triggered: a hint, the slow tick, a subscription and each acknowledgement
//! ask whether there is more. What has gone out at `QoS` 1 is removed from the queue by its PUBACK
//! alone, and comes again with the next connection until then, so many times at most; at `QoS` 0 it
//! is removed as it goes.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use bus::Sequence;
use iot_hub::message::DELIVERIES_MAX;
use rmqtt_codec::types::QoS;

/// Messages that may wait for their PUBACK: with the largest ones half a megabyte for one device.
const UNACKNOWLEDGED_MAX: usize = 8;

/// How often each message went to the device in earlier connections, and was not acknowledged.
pub(super) type Counts = HashMap<Sequence, u32>;

/// What a connection knows of its device's queue.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// As what is granted; none: the device has not subscribed.
    granted: Option<QoS>,
    /// The last message that was looked at.
    position: Sequence,
    /// A read is on its way.
    reading: bool,
    /// There was none behind the position when it was last looked at.
    drained: bool,
    /// Something was said to have come since the read on its way began.
    again: bool,
    /// In the order in which they went out.
    unacknowledged: VecDeque<(NonZeroU16, Sequence)>,
    /// None: not read yet.
    counts: Option<Counts>,
    last_id: u16,
}

/// What is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The first message behind this one.
    pub(super) after: Sequence,
    /// And how often messages went out before.
    pub(super) counts: bool,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It goes out without an acknowledgement, so that it is done with.
    Once,
    /// It goes out, and is done with when this is acknowledged.
    Until {
        /// Of the packet.
        id: NonZeroU16,
        /// Whether it went out before.
        again: bool,
    },
    /// It went out as often as it may, and is done with.
    InVain,
    /// Nobody wants it now.
    Later,
}

impl Inbox {
    /// What to read now, if anything; then [`Inbox::on_read`], [`Inbox::on_unfit`] or
    /// [`Inbox::on_nothing`]. `granted` is what the device has subscribed with.
    pub(super) fn look(&mut self, granted: Option<QoS>) -> Option<Look> {
        if granted.is_some() && self.granted.is_none() {
            self.drained = false;
        }
        self.granted = granted;
        let idle = !self.reading && !self.drained;
        let room = self.unacknowledged.len() < UNACKNOWLEDGED_MAX;
        if granted.is_none() || !idle || !room {
            return None;
        }
        self.reading = true;
        self.again = false;
        Some(Look {
            after: self.position,
            counts: self.counts.is_none(),
        })
    }

    /// There may be more.
    pub(super) fn on_hint(&mut self) {
        self.drained = false;
        self.again = true;
    }

    /// How often messages went out before.
    pub(super) fn on_counts(&mut self, counts: Counts) {
        self.counts = Some(counts);
    }

    /// There was nothing, or it could not be read.
    pub(super) fn on_nothing(&mut self) {
        self.reading = false;
        self.drained = !self.again;
    }

    /// A message that is not to be delivered was read.
    pub(super) fn on_unfit(&mut self, sequence: Sequence) {
        self.reading = false;
        self.position = sequence;
    }

    /// A message was read: what becomes of it.
    pub(super) fn on_read(&mut self, sequence: Sequence) -> Delivery {
        self.reading = false;
        let Some(granted) = self.granted else {
            return Delivery::Later;
        };
        self.position = sequence;
        let before = self.before(sequence);
        if before >= DELIVERIES_MAX {
            return Delivery::InVain;
        }
        if granted == QoS::AtMostOnce {
            return Delivery::Once;
        }
        let id = self.next_id();
        self.unacknowledged.push_back((id, sequence));
        Delivery::Until {
            id,
            again: before > 0,
        }
    }

    /// The device has acknowledged: what is done with. Of an id that nothing waits for, nothing.
    pub(super) fn on_acknowledged(&mut self, id: NonZeroU16) -> Option<Sequence> {
        let place = self.unacknowledged.iter().position(|(it, _)| *it == id)?;
        let (_, sequence) = self.unacknowledged.remove(place)?;
        Some(sequence)
    }

    /// How often messages that still wait went out, to be kept for the next connection; none: as
    /// what was read.
    pub(super) fn to_keep(&self) -> Option<Counts> {
        let known = self.counts.as_ref()?;
        let later = known.iter().filter(|(it, _)| **it > self.position);
        let later = later.map(|(sequence, count)| (*sequence, *count));
        let in_vain = self.unacknowledged.iter();
        let in_vain = in_vain.map(|(_, sequence)| (*sequence, self.before(*sequence) + 1));
        let counts: Counts = later.chain(in_vain).collect();
        (counts != *known).then_some(counts)
    }

    fn before(&self, sequence: Sequence) -> u32 {
        let counts = self.counts.as_ref();
        let count = counts.and_then(|counts| counts.get(&sequence));
        count.copied().unwrap_or(0)
    }

    /// An id that nothing waits for; there are more ids than may wait.
    fn next_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = NonZeroU16::new(self.last_id) else {
                continue;
            };
            if self.unacknowledged.iter().all(|(it, _)| *it != id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<QoS> = Some(QoS::AtLeastOnce);

    fn id(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn at(sequence: u64) -> Sequence {
        Sequence::new(sequence)
    }

    fn until(number: u16) -> Delivery {
        Delivery::Until {
            id: id(number),
            again: false,
        }
    }

    fn after(inbox: &mut Inbox, granted: Option<QoS>) -> Option<Sequence> {
        inbox.look(granted).map(|look| look.after)
    }

    #[test]
    fn messages_go_out_one_after_the_other_until_none_is_left() {
        let mut inbox = Inbox::default();
        assert_eq!(after(&mut inbox, None), None, "it has not subscribed");
        assert_eq!(after(&mut inbox, ONE), Some(at(0)));
        assert_eq!(after(&mut inbox, ONE), None, "one read at a time");
        assert_eq!(inbox.on_read(at(4)), until(1));
        assert_eq!(after(&mut inbox, ONE), Some(at(4)));
        inbox.on_nothing();
        assert_eq!(after(&mut inbox, ONE), None, "there is none");
        inbox.on_hint();
        assert_eq!(after(&mut inbox, ONE), Some(at(4)));
        // What came while that was read is looked for again.
        inbox.on_hint();
        inbox.on_nothing();
        assert_eq!(after(&mut inbox, ONE), Some(at(4)));
        inbox.on_nothing();
        assert_eq!(after(&mut inbox, None), None);
        let again = after(&mut inbox, ONE);
        assert_eq!(again, Some(at(4)), "who subscribes anew is served");
        assert_eq!(after(&mut inbox, None), None);
        assert_eq!(inbox.on_read(at(5)), Delivery::Later, "nobody hears it");
        assert_eq!(after(&mut inbox, ONE), Some(at(4)));
    }

    #[test]
    fn so_many_wait_for_their_acknowledgement_and_each_is_done_with_once() {
        let mut inbox = Inbox::default();
        for number in 1..=8_u16 {
            assert!(inbox.look(ONE).is_some());
            assert_eq!(inbox.on_read(at(number.into())), until(number));
        }
        assert_eq!(inbox.look(ONE), None);
        assert_eq!(inbox.on_acknowledged(id(99)), None);
        assert_eq!(inbox.on_acknowledged(id(1)), Some(at(1)));
        assert_eq!(inbox.on_acknowledged(id(1)), None);
        assert_eq!(after(&mut inbox, ONE), Some(at(8)));
        inbox.on_unfit(at(9));
        assert_eq!(after(&mut inbox, ONE), Some(at(9)));
        // Ids begin anew, and leave out those that wait.
        inbox.last_id = u16::MAX;
        assert_eq!(inbox.on_read(at(10)), until(1));
        inbox.on_acknowledged(id(1));
        inbox.look(ONE);
        inbox.last_id = 1;
        assert_eq!(inbox.on_read(at(11)), until(9));
    }

    #[test]
    fn without_acknowledgements_nothing_waits() {
        let mut inbox = Inbox::default();
        for number in 1..20 {
            assert!(inbox.look(Some(QoS::AtMostOnce)).is_some());
            assert_eq!(inbox.on_read(at(number)), Delivery::Once);
        }
    }

    #[test]
    fn what_is_not_acknowledged_comes_again_so_many_times() {
        let mut counts = Counts::new();
        for connection in 0..=DELIVERIES_MAX {
            let mut inbox = Inbox::default();
            let look = inbox.look(ONE).unwrap();
            assert!(look.counts, "they are read with the first message");
            inbox.on_counts(counts.clone());
            let first = inbox.on_read(at(3));
            assert!(!inbox.look(ONE).unwrap().counts);
            if connection == DELIVERIES_MAX {
                assert_eq!(first, Delivery::InVain);
                assert_eq!(inbox.to_keep(), Some(Counts::new()));
                continue;
            }
            let again = connection > 0;
            assert_eq!(first, Delivery::Until { id: id(1), again });
            inbox.on_read(at(5));
            assert_eq!(inbox.on_acknowledged(id(2)), Some(at(5)));
            counts = inbox.to_keep().expect("one more");
            assert_eq!(counts, Counts::from([(at(3), connection + 1)]));
        }
    }

    #[test]
    fn what_was_not_reached_keeps_its_count() {
        let known = Counts::from([(at(2), 1), (at(9), 4)]);
        let mut inbox = Inbox::default();
        assert_eq!(inbox.to_keep(), None, "nothing was read");
        inbox.look(ONE);
        inbox.on_counts(known);
        assert_eq!(inbox.to_keep(), None, "nothing changed");
        inbox.on_read(at(2));
        inbox.on_acknowledged(id(1));
        assert_eq!(inbox.to_keep(), Some(Counts::from([(at(9), 4)])));
    }
}
