//! Compiles the contracts in `proto/` with protox, so that no machine needs a `protoc`.

use std::path::{Path, PathBuf};

use prost::Message as _;

const PROTOS: &[&str] = &[
    "twinward/agent/v1/events.proto",
    "twinward/agent/v1/agent_service.proto",
    "twinward/registry/v1/registry_service.proto",
    "twinward/registry/v1/access_service.proto",
    "twinward/registry/v1/audit_service.proto",
    "twinward/registry/v1/provisioning_service.proto",
    "twinward/twin/v1/twin_service.proto",
    "twinward/twin/v1/query_service.proto",
    "twinward/twin/v1/history_service.proto",
    "twinward/twin/v1/bulk_service.proto",
    "twinward/policy/v1/policy_service.proto",
    "twinward/policy/v1/configuration_service.proto",
    "twinward/policy/v1/rollout_service.proto",
    "twinward/policy/v1/freeze_service.proto",
    "twinward/policy/v1/guard_service.proto",
    "twinward/policy/v1/reevaluation_service.proto",
    "twinward/policy/v1/operation_service.proto",
    "twinward/link/v1/device_link_service.proto",
    "twinward/bus/v1/bus.proto",
    "twinward/device/v1/device_command_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={}", root.join(proto).display());
    }
    let descriptors = protox::compile(PROTOS, [&root])?;
    #[allow(
        clippy::disallowed_methods,
        reason = "a build script has no configuration; cargo talks to it through the environment"
    )]
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
