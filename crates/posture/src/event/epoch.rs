//! The epoch of a lane: 16 bytes made by the agent, shown as a hyphenated UUID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID: want 32 hexadecimal digits, grouped 8-4-4-4-12 or ungrouped")]
pub struct EpochError;

/// One life of an agent's spool lane. Sequences start again at 1 with a new epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LaneEpoch([u8; 16]);

impl LaneEpoch {
    /// Wraps the epoch's bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The epoch's bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LaneEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for LaneEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LaneEpoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        let mut digits = Vec::with_capacity(32);
        for (index, byte) in text.bytes().enumerate() {
            if byte == b'-' && text.len() == 36 && matches!(index, 8 | 13 | 18 | 23) {
                continue;
            }
            let digit = char::from(byte).to_digit(16).ok_or(EpochError)?;
            digits.push(u8::try_from(digit).map_err(|_| EpochError)?);
        }
        if digits.len() != 32 {
            return Err(EpochError);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4) | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for LaneEpoch {
    type Error = EpochError;

    fn try_from(text: String) -> Result<Self, EpochError> {
        text.parse()
    }
}

impl From<LaneEpoch> for String {
    fn from(epoch: LaneEpoch) -> Self {
        epoch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_as_it_was_shown() {
        let epoch = LaneEpoch::from_bytes(*b"0123456789abcdef");
        assert_eq!(epoch.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert_eq!("30313233343536373839616263646566".parse(), Ok(epoch));
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "x",
            "3031323334353637383961626364656",
            "30313233-34353637-3839-616263646566",
            "30313233-3435-3637-3839-61626364656g",
            "30313233-3435-3637-3839-616263646é6",
        ] {
            assert_eq!(text.parse::<LaneEpoch>(), Err(EpochError), "{text}");
        }
    }
}
