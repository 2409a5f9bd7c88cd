//! What a SAS token is for: a host and a path below it.

use std::fmt;

use twin::{DeviceId, IdentityKey, ModuleId};

use crate::percent;

/// A host with path segments: `{host}/devices/{d}`, `{host}/devices/{d}/modules/{m}`, `{host}`.
///
/// Hosts compare without case and port; segments compare exactly, because ids are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SasResource {
    /// In lower case, without a port.
    host: String,
    segments: Vec<String>,
}

impl SasResource {
    /// The resource of an identity on a host. The host may carry a port, which does not count.
    pub fn of_identity(host: &str, identity: &IdentityKey) -> Self {
        let mut segments = vec!["devices".to_owned(), identity.device.as_str().to_owned()];
        if let Some(module) = &identity.module {
            segments.extend(["modules".to_owned(), module.as_str().to_owned()]);
        }
        Self {
            host: host_of(host),
            segments,
        }
    }

    /// The whole host.
    pub fn of_host(host: &str) -> Self {
        Self {
            host: host_of(host),
            segments: Vec::new(),
        }
    }

    /// A path on a host: `devices/{d}`. Escapes in it stand for what they mean, and one that is
    /// broken for itself.
    pub fn of_path(host: &str, path: &str) -> Self {
        Self {
            host: host_of(host),
            segments: path
                .split('/')
                .filter(|segment| !segment.is_empty())
                .map(|segment| percent::decode(segment).unwrap_or_else(|| segment.to_owned()))
                .collect(),
        }
    }

    /// The host, in lower case and without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Reads a percent-encoded resource; a scheme, a port and a last slash do not count. `None` if it
    /// has no host or an escape is broken.
    pub(super) fn parse(raw: &str) -> Option<Self> {
        let decoded = percent::decode(raw)?;
        let path = decoded
            .split_once("://")
            .map_or(decoded.as_str(), |(_, rest)| rest);
        let mut parts = path.strip_suffix('/').unwrap_or(path).split('/');
        let host = host_of(parts.next()?);
        if host.is_empty() {
            return None;
        }
        let mut segments: Vec<String> = parts.map(str::to_owned).collect();
        // Old device code takes its MQTT user name for the resource, version and all.
        if segments
            .last()
            .is_some_and(|last| last.starts_with("api-version="))
        {
            segments.pop();
        }
        Some(Self { host, segments })
    }

    /// Whether a token for this serves `wanted` too: same host, and these segments stand first. By
    /// segment, so `devices/a` does not cover `devices/ab`.
    pub fn covers(&self, wanted: &Self) -> bool {
        self.host == wanted.host && wanted.segments.starts_with(&self.segments)
    }

    /// The identity this is, if it is exactly one.
    pub fn identity(&self) -> Option<IdentityKey> {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["devices", device] => Some(IdentityKey {
                device: DeviceId::parse(device).ok()?,
                module: None,
            }),
            ["devices", device, "modules", module] => Some(IdentityKey {
                device: DeviceId::parse(device).ok()?,
                module: Some(ModuleId::parse(module).ok()?),
            }),
            _ => None,
        }
    }
}

/// The host without its port, in lower case. An IPv6 address keeps its brackets.
fn host_of(authority: &str) -> String {
    let without_port = match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') =>
        {
            // `[::1]` splits inside its brackets; only what ends outside of them is a port.
            if host.starts_with('[') && !host.ends_with(']') {
                authority
            } else {
                host
            }
        }
        _ => authority,
    };
    without_port.to_ascii_lowercase()
}

impl fmt::Display for SasResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        for segment in &self.segments {
            write!(f, "/{segment}")?;
        }
        Ok(())
    }
}
