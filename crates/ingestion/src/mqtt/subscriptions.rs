//! What a device has subscribed to, which outlives its connection and our process.
//!
//! SDKs connect with clean session 0 and do not subscribe again after a reconnect, so what they
//! subscribed to is kept in a stream of the bus, the newest record per identity: it is the state of
//! a wire and of no interest to twin-store, and reading one costs a round trip. A record of another
//! generation of the identity is not taken up.

use bus::{Bus, Outgoing};
use iot_hub::mqtt::filter::FILTERS_MAX;
use iot_hub::mqtt::{Filter, FilterKind};
use prost::Message as _;
use rmqtt_codec::types::QoS;
use twin::IdentityKey;
use wire::bus::v1 as bus_wire;
use wire::subjects;

use super::end::End;

/// The subscriptions of one identity, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Subscriptions(Vec<(Filter, QoS)>);

impl Subscriptions {
    /// Adds one, or grants one that is there already another quality of service. What is granted:
    /// at most 1.
    pub(super) fn add(&mut self, filter: Filter, asked: QoS) -> Result<QoS, End> {
        let granted = asked.less_value(QoS::AtLeastOnce);
        if let Some(known) = self.0.iter_mut().find(|(known, _)| *known == filter) {
            known.1 = granted;
            return Ok(granted);
        }
        if self.0.len() == FILTERS_MAX {
            return Err(End::Subscriptions { max: FILTERS_MAX });
        }
        self.0.push((filter, granted));
        Ok(granted)
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, text: &str) {
        self.0.retain(|(filter, _)| filter.as_str() != text);
    }

    /// Whether there is one of a kind.
    pub(super) fn have(&self, kind: &FilterKind) -> bool {
        self.0.iter().any(|(filter, _)| filter.kind() == kind)
    }

    /// With what quality of service a kind is subscribed to; none: it is not.
    pub(super) fn granted(&self, kind: &FilterKind) -> Option<QoS> {
        let found = self.0.iter().find(|(filter, _)| filter.kind() == kind);
        found.map(|(_, qos)| *qos)
    }

    /// Whether a direct method is subscribed to, by its name or with all others.
    pub(super) fn have_method(&self, name: &str) -> bool {
        self.0.iter().any(|(filter, _)| match filter.kind() {
            FilterKind::Methods(None) => true,
            // In the filter the name stands as in the topic.
            FilterKind::Methods(Some(one)) => {
                iot_hub::percent::decode(one).is_some_and(|one| one == name)
            }
            FilterKind::TwinResponses
            | FilterKind::DesiredChanges
            | FilterKind::DeviceBound
            | FilterKind::ModuleInputs => false,
        })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn to_wire(&self, generation_id: &str) -> bus_wire::MqttSession {
        let subscriptions = self
            .0
            .iter()
            .map(|(filter, qos)| bus_wire::MqttSubscription {
                filter: filter.as_str().to_owned(),
                qos: u32::from(qos.value()),
            });
        bus_wire::MqttSession {
            generation_id: generation_id.to_owned(),
            subscriptions: subscriptions.collect(),
        }
    }

    /// What is no filter (any more) is left out: better than to lock a device out.
    fn from_wire(session: bus_wire::MqttSession, identity: &IdentityKey) -> Self {
        let mut subscriptions = Self::default();
        for kept in session.subscriptions {
            let qos = if kept.qos == 0 {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            if let Ok(filter) = Filter::parse(&kept.filter, identity) {
                // More than there may be were never written.
                let _ = subscriptions.add(filter, qos);
            }
        }
        subscriptions
    }
}

/// Reads what an identity subscribed to in earlier connections.
pub(super) async fn load(
    bus: &Bus,
    identity: &IdentityKey,
    generation_id: &str,
) -> Result<Subscriptions, End> {
    let subject = subjects::mqtt_session_subject(identity);
    let kept = bus
        .newest(subjects::MQTT_SESSIONS_STREAM, &subject)
        .await
        .map_err(|error| End::NotRemembered(error.into()))?;
    let Some(session) = kept.and_then(|bytes| bus_wire::MqttSession::decode(bytes).ok()) else {
        return Ok(Subscriptions::default());
    };
    if session.generation_id != generation_id {
        return Ok(Subscriptions::default());
    }
    Ok(Subscriptions::from_wire(session, identity))
}

/// Keeps what an identity has subscribed to; returns once it is durable.
pub(super) async fn keep(
    bus: &Bus,
    identity: &IdentityKey,
    generation_id: &str,
    subscriptions: &Subscriptions,
) -> Result<(), End> {
    let subject = subjects::mqtt_session_subject(identity);
    let record = subscriptions.to_wire(generation_id).encode_to_vec();
    match bus.publish(Outgoing::new(subject, record)).await {
        Ok(_published) => Ok(()),
        Err(error) => Err(End::NotRemembered(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> IdentityKey {
        IdentityKey::parse_path("d").unwrap()
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text, &identity()).unwrap()
    }

    #[test]
    fn what_is_kept_comes_back() {
        let mut subscriptions = Subscriptions::default();
        let twins = || filter("$iothub/twin/res/#");
        assert_eq!(
            subscriptions.add(twins(), QoS::ExactlyOnce).unwrap(),
            QoS::AtLeastOnce
        );
        assert_eq!(
            subscriptions.add(twins(), QoS::AtMostOnce).unwrap(),
            QoS::AtMostOnce
        );
        let methods = filter("$iothub/methods/POST/#");
        subscriptions.add(methods, QoS::AtLeastOnce).unwrap();
        let record = subscriptions.to_wire("g");
        assert_eq!(record.subscriptions.len(), 2);
        let back = Subscriptions::from_wire(record, &identity());
        assert_eq!(back, subscriptions);
        assert!(back.have(&FilterKind::TwinResponses));
        assert!(!back.have(&FilterKind::DesiredChanges));
        subscriptions.remove("$iothub/twin/res/#");
        subscriptions.remove("$iothub/methods/POST/#");
        assert!(subscriptions.is_empty());
    }

    #[test]
    fn a_method_is_subscribed_to_by_name_or_with_all() {
        let mut subscriptions = Subscriptions::default();
        let one = filter("$iothub/methods/POST/get%2Alog/#");
        subscriptions.add(one, QoS::AtMostOnce).unwrap();
        assert!(subscriptions.have_method("get*log"));
        assert!(!subscriptions.have_method("reboot"));
        let all = filter("$iothub/methods/POST/#");
        subscriptions.add(all, QoS::AtMostOnce).unwrap();
        assert!(subscriptions.have_method("reboot"));
    }

    #[test]
    fn there_is_room_for_so_many_only() {
        let mut subscriptions = Subscriptions::default();
        for number in 0..FILTERS_MAX {
            let one = filter(&format!("$iothub/methods/POST/m{number}/#"));
            assert!(subscriptions.add(one, QoS::AtMostOnce).is_ok());
        }
        let more = filter("$iothub/twin/res/#");
        let refused = subscriptions.add(more, QoS::AtMostOnce);
        assert!(matches!(refused, Err(End::Subscriptions { .. })));
        let again = filter("$iothub/methods/POST/m1/#");
        assert!(subscriptions.add(again, QoS::AtMostOnce).is_ok());
    }
}
