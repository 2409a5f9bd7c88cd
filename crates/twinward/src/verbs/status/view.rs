//! What people and programs see of the state of everything.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::connection::Setting;
use crate::output::{Paper, View, table};
use crate::probe::Readiness;

/// The state of a part, as far as it can be seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It works.
    Serving,
    /// It works with less than it should.
    Degraded,
    /// It is not able to work yet.
    Starting,
    /// It is on its way out.
    Stopping,
    /// It does not accept our token.
    Refused,
    /// It does not answer, or says that it cannot work.
    Down,
    /// Nobody told us where it is.
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Degraded => "degraded",
            State::Starting => "starting",
            State::Stopping => "stopping",
            State::Refused => "refused",
            State::Down => "down",
            State::Unknown => "unknown",
        }
    }

    /// Whether it keeps `status` from exiting with 0. What was never named is not missed.
    fn is_bad(self) -> bool {
        match self {
            State::Serving | State::Degraded | State::Unknown => false,
            State::Starting | State::Stopping | State::Refused | State::Down => true,
        }
    }
}

/// One part of the whole.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    name: &'static str,
    state: State,
    address: Option<String>,
    details: Vec<String>,
    /// The same as numbers, for programs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    counts: BTreeMap<&'static str, u64>,
    /// With which devices register themselves.
    #[serde(rename = "idScope", skip_serializing_if = "Option::is_none")]
    id_scope: Option<String>,
}

impl Part {
    /// A part whose state is not known yet.
    pub(super) fn new(name: &'static str, address: Option<&Setting>) -> Self {
        let address = address.map(|setting| setting.value.clone());
        Self {
            name,
            state: State::Unknown,
            address,
            details: Vec::new(),
            counts: BTreeMap::new(),
            id_scope: None,
        }
    }

    /// A part at an address that may be shown.
    pub(super) fn at(name: &'static str, address: String) -> Self {
        Self {
            address: Some(address),
            ..Self::new(name, None)
        }
    }

    /// Sets what is known now.
    pub(super) fn set(&mut self, state: State) {
        self.state = state;
    }

    /// Sets it unless something is known already.
    pub(super) fn set_if_unknown(&mut self, state: State) {
        if self.state == State::Unknown {
            self.state = state;
        }
    }

    /// Whether it is in a bad state.
    pub(super) fn is_bad(&self) -> bool {
        self.state.is_bad()
    }

    /// Adds something worth knowing.
    pub(super) fn detail(&mut self, detail: Option<String>) {
        self.details.extend(detail);
    }

    /// Adds a number of things, for people and for programs.
    pub(super) fn count(&mut self, name: &'static str, number: u64, detail: String) {
        self.counts.insert(name, number);
        self.details.push(detail);
    }

    /// Says with which id scope devices register themselves.
    pub(super) fn scope(&mut self, id_scope: Option<String>) {
        self.details
            .extend(id_scope.iter().map(|scope| format!("id scope {scope}")));
        self.id_scope = id_scope;
    }

    /// Adds it unless something is said already: one reason for one trouble is enough.
    pub(super) fn detail_if_none(&mut self, detail: String) {
        if self.details.is_empty() {
            self.details.push(detail);
        }
    }

    /// Takes over what the service says of itself.
    pub(super) fn judge(&mut self, readiness: &Readiness) {
        let worst = readiness
            .components
            .iter()
            .filter(|(_, part)| part.state != "serving");
        let mut degraded = false;
        let mut starting = false;
        for (name, part) in worst {
            degraded |= part.state == "degraded";
            starting |= part.state == "starting";
            let reason = if part.reason.is_empty() {
                &part.state
            } else {
                &part.reason
            };
            self.details.push(format!("{name}: {reason}"));
        }
        self.state = match (readiness.ready, readiness.stopping) {
            (_, true) => State::Stopping,
            (true, false) if degraded => State::Degraded,
            (true, false) => State::Serving,
            (false, false) if starting || readiness.components.is_empty() => State::Starting,
            (false, false) => State::Down,
        };
    }
}

/// The state of everything.
#[derive(Debug, Serialize)]
pub(super) struct StatusView {
    pub(super) parts: Vec<Part>,
}

impl StatusView {
    /// Whether nothing is in a bad state.
    pub(super) fn serving(&self) -> bool {
        self.parts.iter().all(|part| !part.state.is_bad())
    }
}

#[derive(Serialize)]
struct StatusData<'a> {
    serving: bool,
    parts: &'a [Part],
}

impl View for StatusView {
    fn data(&self) -> impl Serialize {
        StatusData {
            serving: self.serving(),
            parts: &self.parts,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let rows = self.parts.iter().map(|part| {
            vec![
                part.name.to_owned(),
                part.state.name().to_owned(),
                part.address.clone().unwrap_or_default(),
                part.details.join(", "),
            ]
        });
        let mut text = table::table(
            paper,
            &["PART", "STATE", "ADDRESS", "DETAILS"],
            rows.collect(),
        );
        // Colour goes over the finished table, where it cannot disturb the columns.
        for state in [State::Serving, State::Starting, State::Refused, State::Down] {
            let painted = if state.is_bad() {
                paper.red(state.name())
            } else {
                paper.green(state.name())
            };
            text = text.replace(&format!("  {}  ", state.name()), &format!("  {painted}  "));
        }
        text
    }
}

#[cfg(test)]
mod tests;
