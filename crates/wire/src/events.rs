//! Security events: `twinward.agent.v1` outside, `posture` inside.
