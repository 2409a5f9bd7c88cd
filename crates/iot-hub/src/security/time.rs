//! Times of security messages: RFC 3339, or the looser forms that agents write.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::item::quoted;

/// Reads a time. One without a zone is UTC: only `TimestampUTC` is read.
pub(super) fn read(text: &str) -> Result<Timestamp, String> {
    let with_zone = text.parse::<Timestamp>();
    let read = with_zone.or_else(|_| {
        let civil = text.parse::<DateTime>()?;
        Ok::<_, jiff::Error>(civil.to_zoned(TimeZone::UTC)?.timestamp())
    });
    read.map_err(|_| {
        format!(
            "is {}; allowed are times as 2024-05-01T10:00:00Z",
            quoted(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_agents_write_are_one_instant() {
        let wanted = "2018-10-09T16:22:50Z".parse::<Timestamp>().unwrap();
        for text in [
            "2018-10-09T16:22:50Z",
            "2018-10-09 16:22:50Z",
            "2018-10-09T16:22:50",
            "2018-10-09T16:22:50.0000000",
            "2018-10-09T18:22:50+02:00",
        ] {
            assert_eq!(read(text), Ok(wanted), "{text}");
        }
        for text in ["", "now", "2018-13-09T16:22:50Z", "16:22:50"] {
            assert!(read(text).unwrap_err().contains("allowed are"), "{text}");
        }
    }
}
