//! Up to where the histories were looked at by what puts revisions together and what counts them. Pure.
//!
//! Revisions are looked at in the order of their times, each once, so that what this costs follows from what
//! is written. A place is kept with the rows (in the table of facts), by the transaction that acts on what was
//! looked at: a process that starts, or another replica, goes on from there.

/// Name of the fact that says up to where routine revisions were put together.
pub(super) const THINNED: &str = "history_thinned";
/// Name of the fact that says up to where histories were looked at for being too long.
pub(super) const COUNTED: &str = "history_counted";

/// A revision, in the order of times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: i64,
    pub(super) device: String,
    pub(super) module: String,
    pub(super) revision: i64,
}

impl Place {
    /// As the table of facts has it.
    pub(super) fn text(&self) -> String {
        let parts = (self.at, &self.device, &self.module, self.revision);
        serde_json::json!(parts).to_string()
    }

    /// The beginning, if it is none: then everything is looked at again, which does no harm.
    fn parse(text: Option<&str>) -> Place {
        let read = text.and_then(|text| serde_json::from_str(text).ok());
        let read: Option<(i64, String, String, i64)> = read;
        read.map_or_else(Place::default, |(at, device, module, revision)| Place {
            at,
            device,
            module,
            revision,
        })
    }
}

/// One that walks over the histories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    stored: Option<String>,
    /// Where it is.
    pub(super) place: Place,
    /// Whether it may find more right now.
    pub(super) more: bool,
}

impl Walk {
    /// Goes on from what the table of facts says, but not from behind `end`, which is not looked at yet:
    /// when a clock was put back, what comes now has earlier times than what was looked at.
    pub(super) fn from(stored: Option<String>, end: i64) -> Walk {
        let place = Place::parse(stored.as_deref());
        let place = if place.at > end {
            Place {
                at: end,
                ..Place::default()
            }
        } else {
            place
        };
        Walk {
            stored,
            place,
            more: false,
        }
    }

    /// Goes up to a place, behind which there may be more.
    pub(super) fn reach(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.place = place;
            self.more = true;
        }
    }

    /// What the table of facts says.
    pub(super) fn stored(&self) -> Option<&str> {
        self.stored.as_deref()
    }

    /// What the table of facts is to say, if it says another thing.
    pub(super) fn changed(&self) -> Option<String> {
        let text = self.place.text();
        let is_new = self.place != Place::parse(self.stored.as_deref());
        is_new.then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(at: i64) -> Place {
        Place {
            at,
            device: "d\u{1}\"".to_owned(),
            module: String::new(),
            revision: i64::MAX,
        }
    }

    #[test]
    fn a_walk_goes_on_from_where_it_was() {
        let mut walk = Walk::from(None, 100);
        assert_eq!((&walk.place, walk.changed()), (&Place::default(), None));
        walk.reach(None);
        assert!(!walk.more, "nothing was found");
        walk.reach(Some(place(7)));
        let text = walk.changed().expect("it moved");
        let next = Walk::from(Some(text), 100);
        assert_eq!((&next.place, next.changed()), (&place(7), None));
        assert!(walk.more && !next.more);
    }

    #[test]
    fn a_clock_that_was_put_back_leaves_nothing_out() {
        let text = place(101).text();
        let walk = Walk::from(Some(text), 100);
        assert_eq!((walk.place.at, walk.place.revision), (100, 0));
        assert_eq!(walk.changed(), Some(r#"[100,"","",0]"#.to_owned()));
    }

    #[test]
    fn what_is_no_place_is_the_beginning() {
        for text in ["", "[]", "{}", r#"[1,"d","m","x"]"#] {
            let walk = Walk::from(Some(text.to_owned()), 100);
            assert_eq!(walk.place, Place::default(), "{text}");
        }
    }
}
