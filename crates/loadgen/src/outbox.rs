//! What an agent is about to say, in order.

use std::collections::VecDeque;

use wire::agent::v1 as agent;
use wire::agent::v1::open_session_request::Message;

/// Puts events ahead of bulk, as the real agent's high lane is; never ahead of their own.
pub(crate) fn push_urgent(outbox: &mut VecDeque<Message>, batch: agent::EventBatch) {
    let place = outbox
        .iter()
        .rposition(is_urgent)
        .map_or(0, |last| last + 1);
    outbox.insert(place, Message::Events(batch));
}

fn is_urgent(message: &Message) -> bool {
    match message {
        Message::Hello(_) => true,
        Message::Events(batch) => batch.lane() == agent::Lane::High,
        Message::PatchReported(_)
        | Message::AcknowledgeDesired(_)
        | Message::GetTwin(_)
        | Message::MethodResponse(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_events_go_ahead_of_bulk_and_behind_what_is_urgent() {
        let batch = |lane: agent::Lane, sequence| agent::EventBatch {
            lane: lane.into(),
            settled_through: sequence,
            ..Default::default()
        };
        let mut outbox = VecDeque::from([
            Message::Hello(agent::Hello::default()),
            Message::Events(batch(agent::Lane::Medium, 1)),
        ]);
        push_urgent(&mut outbox, batch(agent::Lane::High, 1));
        push_urgent(&mut outbox, batch(agent::Lane::High, 2));
        let expected = [
            Message::Hello(agent::Hello::default()),
            Message::Events(batch(agent::Lane::High, 1)),
            Message::Events(batch(agent::Lane::High, 2)),
            Message::Events(batch(agent::Lane::Medium, 1)),
        ];
        assert_eq!(outbox, expected);
    }
}
