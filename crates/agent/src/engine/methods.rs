//! The engine's half of direct methods: what the agent does when somebody calls it.
//!
//! There are few, each harmless when it is repeated, since whoever hears nothing calls again. A
//! method never changes how the agent is configured: that is the desired section's alone.

use serde_json::{Value, json};
use wire::agent::v1::open_session_request::Message as Outgoing;
use wire::agent::v1::{MethodRequest, MethodResponse};

use super::{AGENT_VERSION, Engine};
use crate::collectors::driver::Request;
use crate::collectors::set::Audience;

/// Says that the agent is there, and what it is.
const PING: &str = "ping";
/// Has every collector look now, and sends what it saw, whatever the intervals.
const COLLECT_NOW: &str = "collectNow";

/// As of HTTP, which is what callers know.
const OK: i32 = 200;
const NOT_FOUND: i32 = 404;

impl Engine {
    /// Does what a caller asks for, and answers it.
    pub(super) async fn on_method(&mut self, request: MethodRequest) {
        let (status, answer) = match request.method_name.as_str() {
            PING => (OK, json!({ "agentVersion": AGENT_VERSION })),
            COLLECT_NOW => (OK, self.collect_now().await),
            other => (
                NOT_FOUND,
                json!({
                    "message": format!("the agent has no method {other}"),
                    "methods": [COLLECT_NOW, PING],
                }),
            ),
        };
        tracing::info!(method = request.method_name, status, "a method was called");
        self.send(Outgoing::MethodResponse(MethodResponse {
            call_id: request.call_id,
            status,
            payload_json: answer.to_string(),
        }));
    }

    /// What was seen is durable when this returns, and on its way when there is a session.
    async fn collect_now(&mut self) -> Value {
        self.gather(Audience::All, Request::Snapshot).await;
        self.add_status();
        self.commit();
        self.all_due();
        let running = self.state.healths.iter();
        let running =
            running.filter(|(_, health)| **health != crate::collectors::Health::disabled());
        let names: Vec<&str> = running.map(|(name, _)| *name).collect();
        json!({ "collectors": names })
    }
}
