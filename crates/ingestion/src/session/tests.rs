use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::security_event::Payload;

use super::*;

const LIMITS: SessionLimits = SessionLimits {
    batch: BatchLimits {
        event_bytes_max: 1 << 10,
        batch_bytes_max: 8 << 10,
        batch_events_max: 10,
    },
    batches_max: 2,
};

const GENERATION: &str = "7d1c1fb2-0d1f-4a4e-9f55-000000000001";

fn request(message: Message) -> agent::OpenSessionRequest {
    agent::OpenSessionRequest {
        message: Some(message),
    }
}

fn hello(applied_desired_version: u64) -> agent::OpenSessionRequest {
    request(Message::Hello(agent::Hello {
        agent_version: "1.0".to_owned(),
        session_id: "0d4b4a1e-93a0-4f3c-9a3f-000000000001".to_owned(),
        applied_desired_version,
        generation_id: String::new(),
        takes_methods: false,
    }))
}

fn events(sequence: u64) -> agent::OpenSessionRequest {
    let event = agent::SecurityEvent {
        sequence,
        observe_time: Some(prost_types::Timestamp::default()),
        payload: Some(Payload::Heartbeat(agent::Heartbeat {})),
    };
    request(Message::Events(agent::EventBatch {
        lane: agent::Lane::Low.into(),
        epoch: "6f6b0c5e-27a5-4c9c-9c41-5a4b7a2f0001".to_owned(),
        events: vec![event],
        ..agent::EventBatch::default()
    }))
}

fn patch(id: &str) -> agent::OpenSessionRequest {
    request(Message::PatchReported(agent::PatchReported {
        request_id: id.to_owned(),
        patch_json: "{}".to_owned(),
    }))
}

fn open() -> Session {
    let mut session = Session::new(LIMITS, GENERATION);
    let effects = session.on_message(hello(0));
    assert!(
        matches!(effects.as_slice(), [Effect::Open(_), Effect::FetchDesired]),
        "{effects:?}"
    );
    session
}

fn next(session: &mut Session) -> Option<Response> {
    session.next_response(Timestamp::UNIX_EPOCH)?.message
}

fn check_refused(
    session: &mut Session,
    message: agent::OpenSessionRequest,
    reason: &str,
) -> String {
    let effects = session.on_message(message);
    assert!(
        matches!(effects.as_slice(), [Effect::Refused(found)] if *found == reason),
        "{effects:?}"
    );
    let Some(Response::Error(error)) = next(session) else {
        panic!("no error for {reason}")
    };
    assert_eq!((error.reason.as_str(), error.retryable), (reason, false));
    error.message
}

#[test]
fn nothing_is_done_before_hello_and_hello_is_said_once() {
    let mut session = Session::new(LIMITS, GENERATION);
    for message in [events(1), patch("a"), agent::OpenSessionRequest::default()] {
        check_refused(&mut session, message, "UNEXPECTED_MESSAGE");
    }
    let nameless = request(Message::Hello(agent::Hello::default()));
    let words = check_refused(&mut session, nameless, "INVALID_FIELD");
    assert!(words.contains("hello.session_id"), "{words}");
    assert!(!session.is_open());

    assert_eq!(session.on_message(hello(0)).len(), 2);
    assert!(session.is_open());
    check_refused(&mut session, hello(0), "UNEXPECTED_MESSAGE");
}

#[test]
fn the_stream_is_not_read_while_the_window_is_full() {
    let mut session = open();
    for sequence in 1..=2 {
        assert!(session.may_read());
        let effects = session.on_message(events(sequence));
        assert!(
            matches!(effects.as_slice(), [Effect::Publish { .. }]),
            "{effects:?}"
        );
    }
    assert!(!session.may_read());
    session.on_stored(agent::EventsAck {
        through_sequence: 1,
        ..agent::EventsAck::default()
    });
    assert!(session.may_read());
    let Some(Response::EventsAck(ack)) = next(&mut session) else {
        panic!("no ack")
    };
    assert_eq!(ack.through_sequence, 1);
}

#[test]
fn a_slow_reader_is_not_read() {
    let mut session = open();
    let mut refused = 0;
    while session.may_read() {
        let effects = session.on_message(agent::OpenSessionRequest::default());
        assert_eq!(effects, [Effect::Refused("UNEXPECTED_MESSAGE")]);
        refused += 1;
    }
    assert_eq!(refused, RESPONSES_MAX);
    assert!(next(&mut session).is_some());
    assert!(session.may_read());
}

#[test]
fn a_malformed_batch_is_answered_and_the_session_goes_on() {
    let mut session = open();
    check_refused(&mut session, events(0), "INVALID_BATCH");
    let effects = session.on_message(events(1));
    assert!(
        matches!(effects.as_slice(), [Effect::Publish { .. }]),
        "{effects:?}"
    );
}

#[test]
fn requests_are_asked_one_after_the_other_in_order() {
    let mut session = open();
    assert!(
        matches!(session.on_message(patch("1")).as_slice(), [Effect::Ask(it)] if it.id() == "1")
    );
    for id in ["2", "3"] {
        assert_eq!(session.on_message(patch(id)), [], "the first is on its way");
    }
    for id in ["2", "3"] {
        let effects = session.on_answered(None);
        assert!(
            matches!(effects.as_slice(), [Effect::Ask(it)] if it.id() == id),
            "{effects:?}"
        );
    }
    assert_eq!(session.on_answered(None), []);
}

#[test]
fn an_acknowledgement_carries_the_time_of_its_push() {
    let mut session = open();
    let section = agent::DesiredConfiguration {
        version: 7,
        ..Default::default()
    };
    assert_eq!(session.on_section(section), []);
    let pushed_at = Timestamp::from_second(99).unwrap();
    assert!(session.next_response(pushed_at).is_some());
    let acknowledge = |version, outcome: Outcome| {
        request(Message::AcknowledgeDesired(agent::AcknowledgeDesired {
            version,
            outcome: outcome.into(),
            reason: "r".repeat(10_000),
            ..Default::default()
        }))
    };
    let effects = session.on_message(acknowledge(7, Outcome::Rejected));
    let [
        Effect::Ask(Request::Acknowledge {
            acknowledge: sent,
            push_time,
        }),
    ] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*push_time, Some(pushed_at));
    assert_eq!(sent.reason.len(), posture::limits::REASON_BYTES_MAX);
    let words = check_refused(
        &mut session,
        acknowledge(7, Outcome::Unspecified),
        "INVALID_FIELD",
    );
    assert!(words.contains("OUTCOME_APPLIED"), "{words}");
}

#[test]
fn answers_go_before_pushes() {
    let mut session = open();
    let section = agent::DesiredConfiguration {
        version: 1,
        ..Default::default()
    };
    assert_eq!(session.on_section(section), []);
    session.on_message(agent::OpenSessionRequest::default());
    session.welcome(agent::Welcome::default());
    assert!(matches!(next(&mut session), Some(Response::Welcome(_))));
    assert!(matches!(next(&mut session), Some(Response::Error(_))));
    assert!(matches!(next(&mut session), Some(Response::Desired(_))));
    assert!(!session.has_response());
}

#[test]
fn messages_over_their_size_are_named() {
    let mut session = open();
    let long_id = patch(&"x".repeat(200));
    assert!(check_refused(&mut session, long_id, "INVALID_FIELD").contains("request_id"));
    let large = request(Message::PatchReported(agent::PatchReported {
        request_id: "1".to_owned(),
        patch_json: "x".repeat(9 << 10),
    }));
    assert!(check_refused(&mut session, large, "MESSAGE_TOO_LARGE").contains("at most 8192"));
}

#[test]
fn calls_wait_for_the_stream_as_answers_do_and_no_longer() {
    let call = |rid: &str| MethodCall {
        rid: rid.to_owned(),
        name: "ping".to_owned(),
        payload: "null".into(),
    };
    let declined = |rid: &str| {
        vec![Effect::Decline {
            rid: rid.to_owned(),
        }]
    };
    let mut session = open();
    assert!(!session.takes_methods());
    assert_eq!(session.on_call(call("1")), declined("1"), "it takes none");
    let mut session = Session::new(LIMITS, GENERATION);
    let Some(Message::Hello(mut hello)) = hello(0).message else {
        panic!("a hello");
    };
    hello.takes_methods = true;
    session.on_message(request(Message::Hello(hello)));
    assert!(session.takes_methods());
    for number in 0..RESPONSES_MAX {
        assert_eq!(session.on_call(call(&number.to_string())), []);
    }
    assert_eq!(session.on_call(call("more")), declined("more"));
    let Some(Response::Method(first)) = next(&mut session) else {
        panic!("no call");
    };
    assert_eq!((&*first.call_id, &*first.payload_json), ("0", "null"));
    let binary = MethodCall {
        payload: bytes::Bytes::from_static(b"\xff"),
        ..call("binary")
    };
    assert_eq!(session.on_call(binary), declined("binary"));
    let answer = agent::MethodResponse {
        call_id: "0".to_owned(),
        status: 200,
        payload_json: "1".to_owned(),
    };
    let effects = session.on_message(request(Message::MethodResponse(answer.clone())));
    assert_eq!(effects, [Effect::Answered(answer)]);
    let long = agent::MethodResponse {
        call_id: "x".repeat(REQUEST_ID_BYTES_MAX + 1),
        ..agent::MethodResponse::default()
    };
    let message = request(Message::MethodResponse(long));
    // The refusal stands behind the calls that wait.
    while next(&mut session).is_some() {}
    check_refused(&mut session, message, "INVALID_FIELD");
}
