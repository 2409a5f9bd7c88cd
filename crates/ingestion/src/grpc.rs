//! The agents' door: `twinward.agent.v1.AgentService`.
//!
//! Only the shape of the calls is here; each call has its file. The hop before is the agent, the
//! hops after are `outbox` (events) and `twins` (requests).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use service_kit::clock::SharedClock;
use service_kit::log_budget::LogBudget;
use service_kit::shutdown::ShutdownToken;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use twin::Partition;
use wire::agent::v1 as agent;
use wire::agent::v1::agent_service_server::AgentService;
use wire::bus::v1::TelemetryEntry;

use crate::admissions::Admissions;
use crate::alive::Instance;
use crate::auth::Authenticator;
use crate::config::Limits;
use crate::farewells::Farewells;
use crate::grpc::enroll::Enroller;
use crate::inlet::Inlets;
use crate::methods::Calls;
use crate::metrics::Metrics;
use crate::nursery::Nursery;
use crate::outbox::Outbox;
use crate::rejects::Rejects;
use crate::session::SessionLimits;
use crate::sessions::Sessions;
use crate::twins::TwinStore;

pub(crate) mod enroll;
pub(crate) mod link;
mod open_session;

/// Everything a call needs. Clones share it.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) parts: Arc<Parts>,
}

/// The parts of the service, as the calls use them.
pub(crate) struct Parts {
    pub(crate) instance: Instance,
    pub(crate) limits: Limits,
    pub(crate) session_limits: SessionLimits,
    /// How long a device may take until its CONNECT.
    pub(crate) connect_within: Duration,
    pub(crate) bus: bus::Bus,
    pub(crate) auth: Authenticator,
    pub(crate) enroller: Enroller,
    pub(crate) sessions: Sessions,
    /// Whoever's proof, place and subscriptions are being looked up.
    pub(crate) admitting: Admissions,
    pub(crate) calls: Calls,
    pub(crate) nursery: Nursery,
    pub(crate) inlets: Inlets,
    pub(crate) outbox: Outbox,
    /// Ends of sessions that are still to be told.
    pub(crate) farewells: Farewells,
    /// For messages of devices that are none of ours to understand.
    pub(crate) application: Outbox,
    pub(crate) rejects: Rejects,
    /// Which ends of devices' connections are told.
    pub(crate) ends: LogBudget,
    pub(crate) store: TwinStore,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: ShutdownToken,
}

/// How long a session that has ended waits for its twin to be told.
const END_TOLD_WITHIN: Duration = Duration::from_secs(2);

impl Parts {
    /// Tells a twin that a session of its identity has ended: now, or else as soon as the bus takes it.
    pub(crate) async fn tell_end(&self, partition: Partition, ended: TelemetryEntry) {
        let stored = self.outbox.store(partition, ended.clone());
        match tokio::time::timeout(END_TOLD_WITHIN, stored).await {
            Ok(Ok(())) => {
                self.farewells.told();
                return;
            }
            Ok(Err(error)) => tracing::debug!(%error, "end of a session was not published"),
            Err(_elapsed) => tracing::debug!("end of a session was not published in time"),
        }
        self.farewells.leave(partition, ended);
    }
}

/// What a session is, to whoever runs it.
type SessionFuture = BoxFuture<'static, ()>;

#[tonic::async_trait]
impl AgentService for Door {
    async fn enroll(
        &self,
        request: Request<agent::EnrollRequest>,
    ) -> Result<Response<agent::EnrollResponse>, Status> {
        let peer = request.remote_addr().map(|address| address.ip());
        let Parts {
            enroller,
            admitting,
            ..
        } = &*self.parts;
        match enroller.enroll(request.into_inner(), peer, admitting).await {
            Ok(connection_string) => Ok(Response::new(agent::EnrollResponse { connection_string })),
            Err(error) => Err(service_kit::status::to_status(&error)),
        }
    }

    type OpenSessionStream = ReceiverStream<Result<agent::OpenSessionResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<agent::OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        match open_session::begin(self, request).await {
            Ok(responses) => Ok(Response::new(responses)),
            Err(end) => Err(service_kit::status::to_status(&end)),
        }
    }
}
