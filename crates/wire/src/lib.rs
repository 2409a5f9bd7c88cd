//! What crosses a process boundary: generated protobuf code, conversions to and from the pure
//! types, resource names, NATS subjects.
//!
//! Outside values are checked here, once: a conversion either yields a valid value of `twin` or
//! `posture`, or an [`InvalidField`] that names the field. This crate never performs I/O.

pub mod configurations;
pub mod events;
pub mod invalid;
pub mod names;
pub mod subjects;
pub mod time;

pub use invalid::InvalidField;

/// Encoded `FileDescriptorSet` of all contracts, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Generated code of `proto/twinward/agent/v1`: the door for agents.
pub mod agent {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.agent.v1.rs"));
    }
}

/// Generated code of `proto/twinward/registry/v1`: identities and credentials.
pub mod registry {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.registry.v1.rs"));
    }
}

/// Generated code of `proto/twinward/twin/v1`: twins.
pub mod twin {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.twin.v1.rs"));
    }
}

/// Generated code of `proto/twinward/policy/v1`: policies.
pub mod policy {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.policy.v1.rs"));
    }
}

/// Generated code of `proto/twinward/device/v1`: what back ends ask of devices.
pub mod device {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.device.v1.rs"));
    }
}

/// Generated code of `proto/twinward/link/v1`: devices that come through the gateway.
pub mod link {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.link.v1.rs"));
    }
}

/// Generated code of `proto/twinward/bus/v1`: messages between our services on NATS.
pub mod bus {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/twinward.bus.v1.rs"));
    }
}
