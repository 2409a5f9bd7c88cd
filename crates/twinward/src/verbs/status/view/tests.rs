use super::*;
use crate::output::golden::{json, text};

fn reading(answer: &str) -> Readiness {
    serde_json::from_str(answer).unwrap()
}

fn part(name: &'static str, port: u16, says: &str) -> Part {
    let mut seen = Part::at(name, format!("http://127.0.0.1:{port}"));
    seen.judge(&reading(says));
    seen
}

const GOOD: &str = r#"{"ready": true, "components": {"bus": {"state": "serving"}}}"#;
const BAD: &str = r#"{"ready": false, "components":
    {"bus": {"state": "failed", "reason": "no server answers"}, "grpc": {"state": "serving"}}}"#;
const WEAK: &str = r#"{"ready": true, "components":
    {"bus": {"state": "degraded", "reason": "reconnecting"}}}"#;

#[test]
fn everything_serving_is_one_line_a_part() {
    let mut view = StatusView {
        parts: vec![
            part("ingestion", 8420, GOOD),
            part("twin-store", 8430, GOOD),
            part("policy", 8440, GOOD),
            Part::new("nats", None),
        ],
    };
    view.parts[0].count("agentsConnected", 3, "3 agents connected".to_owned());
    view.parts[1].count("devices", 14, "14 devices".to_owned());
    assert!(view.serving());
    insta::assert_snapshot!("serving", text(&view));
    insta::assert_snapshot!("serving_json", json(&view));
}

#[test]
fn what_does_not_serve_says_why() {
    let mut nats = Part::at("nats", "nats://127.0.0.1:4222".to_owned());
    nats.set(State::Down);
    nats.detail(Some("Connection refused (os error 111)".to_owned()));
    let view = StatusView {
        parts: vec![
            part("ingestion", 8420, WEAK),
            part("twin-store", 8430, BAD),
            nats,
        ],
    };
    assert!(!view.serving());
    insta::assert_snapshot!("down", text(&view));
}

#[test]
fn a_service_without_parts_is_starting_and_one_on_its_way_out_is_stopping() {
    let mut starting = Part::new("policy", None);
    starting.judge(&reading(r#"{"ready": false}"#));
    assert_eq!(starting.state, State::Starting);
    let mut stopping = Part::new("policy", None);
    stopping.judge(&reading(r#"{"ready": false, "stopping": true}"#));
    assert_eq!(stopping.state, State::Stopping);
}
