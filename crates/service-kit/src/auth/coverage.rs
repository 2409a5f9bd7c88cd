//! The methods of a contract, so that a service's tests can ask whether each has a rule.

use prost::Message;
use prost_types::FileDescriptorSet;

/// The paths (`/package.Service/Method`) of all methods in encoded file descriptors
/// (`wire::FILE_DESCRIPTOR_SET`).
pub fn methods(descriptors: &[u8]) -> Result<Vec<String>, prost::DecodeError> {
    let set = FileDescriptorSet::decode(descriptors)?;
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                paths.push(format!("/{}.{service}/{method}", file.package()));
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_by_their_path() {
        let found = methods(tonic_health::pb::FILE_DESCRIPTOR_SET).expect("descriptors");
        assert!(
            found.contains(&"/grpc.health.v1.Health/Check".to_owned()),
            "{found:?}"
        );
        assert!(methods(b"no descriptors").is_err());
    }
}
