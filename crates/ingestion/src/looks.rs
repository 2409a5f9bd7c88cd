//! The slow ticks of a session, and at which of them it says again that it is here: of two sessions of
//! an identity on two instances the older must hear of the newer, also if the hint that said so was
//! lost.

/// At every such tick it is said again: often enough to end an older session within minutes, and seldom
/// enough for an instance with all its sessions (50,000, a tick each half a minute) to send under two
/// hundred hints a second.
const ANNOUNCE_EVERY: u8 = 10;

/// Counts the ticks.
#[derive(Debug, Default)]
pub(crate) struct Looks(u8);

impl Looks {
    /// Another tick; answers whether the session is to say that it is here.
    pub(crate) fn announces(&mut self) -> bool {
        self.0 = (self.0 + 1) % ANNOUNCE_EVERY;
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_look_announces() {
        let mut looks = Looks::default();
        let told: Vec<_> = (1..=30).filter(|_| looks.announces()).collect();
        assert_eq!(told, [10, 20, 30]);
    }
}
