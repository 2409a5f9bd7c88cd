//! Calls that concern partitions of several replicas: each owner is asked for its part.
//!
//! A call about one partition is passed on as a whole, before any handler; what is here is for the
//! few that are about many. A part is asked for in the name of the caller, for whom we vouch, and is
//! marked, so that whoever gets it does its own share and passes nothing on.

use std::collections::BTreeSet;
use std::time::Duration;

use service_kit::auth::{Principal, principal};
use tonic::Request;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use twin::{IdentityKey, Partition};

use super::Api;

/// Header of a call that was passed on.
pub(crate) const FORWARDED: &str = "x-twinward-forwarded";
/// How long another replica may take for its part.
const WITHIN: Duration = Duration::from_secs(10);

/// Where the owners of other partitions are.
pub(crate) trait Directory: Send + Sync {
    /// The present owner of a partition that is not ours, if there is one.
    fn owner(&self, partition: Partition) -> Option<Owner>;

    /// Says in the headers of a call for another replica who its caller is.
    fn vouch(&self, principal: &Principal, metadata: MetadataMap) -> MetadataMap;
}

/// Another replica.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// Tells replicas apart.
    pub(crate) address: String,
    /// The way to it.
    pub(crate) channel: Channel,
}

/// Where a call comes from, to ask in its name.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    metadata: MetadataMap,
}

impl Origin {
    /// Whether it was passed on to us.
    pub(super) fn is_forwarded(&self) -> bool {
        self.metadata.contains_key(FORWARDED)
    }

    /// A call to another replica in the name of the same caller.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        let yes = AsciiMetadataValue::from_static("1");
        request.metadata_mut().insert(FORWARDED, yes);
        request.set_timeout(WITHIN);
        request
    }
}

/// Who does which part of a call.
pub(super) struct Shares {
    owned: BTreeSet<Partition>,
    alone: bool,
}

impl Api {
    /// Where a call comes from.
    pub(super) fn origin<T>(&self, request: &Request<T>) -> Origin {
        let metadata = request.metadata().clone();
        Origin {
            metadata: match &self.peers {
                Some(peers) => peers.vouch(&principal(request), metadata),
                None => metadata,
            },
        }
    }

    /// How a call is shared out at the moment.
    pub(super) fn shares(&self, origin: &Origin) -> Shares {
        Shares {
            owned: self.engine.logs().into_keys().collect(),
            alone: self.peers.is_none() || origin.is_forwarded(),
        }
    }

    /// The replica that does the part of an identity; none: we do, or nobody can at the moment,
    /// which the engine then says.
    pub(super) fn other(&self, shares: &Shares, key: &IdentityKey) -> Option<Owner> {
        let partition = self.engine.partition(key);
        if shares.alone || shares.owned.contains(&partition) {
            return None;
        }
        self.peers.as_ref()?.owner(partition)
    }
}
