//! What a device sends: for applications, as it goes to the bus, or as a security message, for its
//! posture.

use bytes::Bytes;
use iot_hub::mqtt::PropertyBag;
use iot_hub::mqtt::bag::system_name;
use jiff::Timestamp;
use wire::bus::v1 as bus_wire;

use super::end::End;
use super::security::{self, Judged};
use super::wire::MESSAGE_BYTES_MAX;
use crate::auth::Proof;

/// The property that stands for the RETAIN flag, which keeps nothing here.
const RETAIN: &str = "mqtt-retain";
/// What the names begin with by which IoT Hub says who sent a message: a device cannot say that.
const SENDER: &str = "iothub-connection-";
/// The property by which applications know a will.
const MESSAGE_TYPE: &str = "iothub-MessageType";

/// A device-to-cloud message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceMessage {
    properties: PropertyBag,
    body: Bytes,
}

impl DeviceMessage {
    /// As it was published.
    pub(super) fn new(mut properties: PropertyBag, body: Bytes, retain: bool) -> Self {
        if retain {
            properties.push(RETAIN, "true");
        }
        Self { properties, body }
    }

    /// The same as a will.
    #[must_use]
    pub(super) fn into_will(mut self) -> Self {
        self.properties.push(MESSAGE_TYPE, "Will");
        self
    }

    /// What it comes to as a security message; `None` if it is for applications.
    pub(super) fn judge(&self, event_bytes_max: usize) -> Option<Judged> {
        iot_hub::security::is_marked(&self.properties)
            .then(|| security::judge(&self.properties, &self.body, event_bytes_max))
    }

    /// What it counts: body and properties.
    pub(super) fn size(&self) -> usize {
        let properties = self.properties.iter();
        let bag: usize = properties
            .map(|(name, value)| name.len() + value.map_or(0, str::len))
            .sum();
        self.body.len() + bag
    }

    /// Refuses one over the size of messages.
    pub(super) fn check_size(&self) -> Result<(), End> {
        let (bytes, max) = (self.size(), MESSAGE_BYTES_MAX);
        if bytes > max {
            return Err(End::TooLarge { bytes, max });
        }
        Ok(())
    }

    /// As it goes to the bus.
    pub(super) fn to_wire(&self, proof: &Proof, now: Timestamp) -> bus_wire::ApplicationMessage {
        let mut message = bus_wire::ApplicationMessage {
            device_id: proof.identity.device.to_string(),
            module_id: proof
                .identity
                .module
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            generation_id: proof.generation_id.clone(),
            receive_time: Some(wire::time::to_wire(now)),
            system_properties: Vec::new(),
            properties: Vec::new(),
            body: self.body.to_vec(),
        };
        for (name, value) in self.properties.iter() {
            let (list, name) = match system_name(name) {
                Some(long) => (&mut message.system_properties, long),
                None => (&mut message.properties, name),
            };
            if name.starts_with(SENDER) {
                continue;
            }
            list.push(bus_wire::MessageProperty {
                name: name.to_owned(),
                value: value.map(str::to_owned),
            });
        }
        message
    }
}
