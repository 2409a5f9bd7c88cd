#![allow(clippy::disallowed_methods)] // a server under test needs no supervisor

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use service_kit::client::{ClientConfig, connect};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response};
use tonic_types::{ErrorDetails, StatusExt as _};
use wire::twin::v1::twin_service_server::{TwinService, TwinServiceServer};

use super::*;

type Message = Result<proto::WatchTwinsResponse, Status>;

/// What the service does when it is asked once more.
enum Act {
    Refuse(Status),
    /// Sends these, then ends the stream.
    Send(Vec<Message>),
    /// Sends these, then nothing any more.
    Hang(Vec<Message>),
}

/// A service that plays a script.
#[derive(Clone, Default)]
struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    asked: Arc<Mutex<Vec<proto::WatchTwinsRequest>>>,
}

#[tonic::async_trait]
impl TwinService for Script {
    type WatchTwinsStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

    async fn watch_twins(
        &self,
        request: Request<proto::WatchTwinsRequest>,
    ) -> Result<Response<Self::WatchTwinsStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let act = self.acts.lock().unwrap().pop_front();
        match act.expect("the script goes on") {
            Act::Refuse(status) => Err(status),
            Act::Send(messages) => Ok(Response::new(futures::stream::iter(messages).boxed())),
            Act::Hang(messages) => {
                let messages = futures::stream::iter(messages).chain(futures::stream::pending());
                Ok(Response::new(messages.boxed()))
            }
        }
    }

    async fn get_twin(
        &self,
        _: Request<proto::GetTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn batch_get_twins(
        &self,
        _: Request<proto::BatchGetTwinsRequest>,
    ) -> Result<Response<proto::BatchGetTwinsResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn list_twins(
        &self,
        _: Request<proto::ListTwinsRequest>,
    ) -> Result<Response<proto::ListTwinsResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn patch_twin(
        &self,
        _: Request<proto::PatchTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn replace_twin(
        &self,
        _: Request<proto::ReplaceTwinRequest>,
    ) -> Result<Response<proto::Twin>, Status> {
        Err(Status::unimplemented("not in the script"))
    }
}

const QUICK: Tuning = Tuning {
    retry: Policy {
        first: Duration::from_millis(2),
        cap: Duration::from_millis(10),
        budget: None,
    },
    silence: Duration::from_millis(300),
};

async fn play(acts: Vec<Act>) -> (Script, Watch) {
    let script = Script::default();
    script.acts.lock().unwrap().extend(acts);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(TwinServiceServer::new(script.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let connection = connect(&ClientConfig::to(format!("http://{address}"))).unwrap();
    let what = What {
        name: "devices/d".to_owned(),
        filter: "status = 'enabled'".to_owned(),
        fields: vec!["tags_json".to_owned()],
        changes_only: false,
    };
    let watch = Watch::new(TwinServiceClient::new(connection), what, QUICK);
    (script, watch)
}

#[allow(clippy::unnecessary_wraps)] // as the stream wants it
fn message(event: Sent) -> Message {
    Ok(proto::WatchTwinsResponse {
        event: Some(event),
        ..proto::WatchTwinsResponse::default()
    })
}

fn bookmark(token: &str) -> Message {
    message(Sent::Bookmark(proto::Bookmark {
        resume_token: token.to_owned(),
    }))
}

fn complete(token: &str) -> Message {
    message(Sent::SnapshotComplete(proto::SnapshotComplete {
        twin_count: 0,
        resume_token: token.to_owned(),
    }))
}

fn refusal(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "twinward", std::collections::HashMap::new());
    Status::with_error_details(code, "refused", details)
}

/// The next event, in short.
async fn next(watch: &mut Watch) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next())
        .await
        .expect("it comes");
    match event {
        Ok(Event::Begins(begin)) => format!("begins {begin:?}"),
        Ok(Event::Twin { twin, .. }) => twin.name,
        Ok(Event::Deleted(name)) => format!("-{name}"),
        Ok(Event::Unmatched(name)) => format!("~{name}"),
        Ok(Event::Synced(count)) => format!("synced {count}"),
        Ok(Event::Bookmark) => "bookmark".to_owned(),
        Ok(Event::Interrupted { .. }) => "interrupted".to_owned(),
        Err(refused) => format!("refused {}", refused.refusal().reason()),
    }
}

async fn expect(watch: &mut Watch, events: &[&str]) {
    for event in events {
        assert_eq!(next(watch).await, *event);
    }
}

fn tokens(script: &Script) -> Vec<String> {
    let asked = script.asked.lock().unwrap();
    asked
        .iter()
        .map(|request| request.resume_token.clone())
        .collect()
}

#[tokio::test]
async fn it_resumes_behind_the_last_token_and_asks_for_the_same_things() {
    let twin = proto::Twin {
        name: "devices/d".to_owned(),
        ..proto::Twin::default()
    };
    let (script, mut watch) = play(vec![
        Act::Send(vec![message(Sent::Twin(twin)), complete("1")]),
        Act::Send(vec![bookmark("2"), message(Sent::DeletedName("d".into()))]),
        Act::Hang(vec![message(Sent::UnmatchedName("e".into()))]),
    ])
    .await;
    expect(&mut watch, &["begins First", "devices/d", "synced 0"]).await;
    expect(&mut watch, &["interrupted", "bookmark", "-d"]).await;
    expect(&mut watch, &["interrupted", "~e"]).await;
    assert_eq!(tokens(&script), ["", "1", "2"]);
    assert_eq!(watch.token(), "2");
    let asked = script.asked.lock().unwrap();
    for request in asked.iter() {
        assert_eq!(request.name, "devices/d");
        assert_eq!(request.filter, "status = 'enabled'");
        let mask = request.read_mask.as_ref().expect("a mask");
        assert_eq!(mask.paths, ["tags_json"]);
    }
}

#[tokio::test]
async fn a_token_that_is_no_good_is_dropped_and_the_reader_is_told_why_it_begins_anew() {
    let (script, watch) = play(vec![
        Act::Refuse(refusal(Code::InvalidArgument, NOT_OURS)),
        Act::Send(vec![complete("1"), Err(refusal(Code::OutOfRange, TOO_OLD))]),
        Act::Send(Vec::new()),
        Act::Hang(vec![complete("2")]),
    ])
    .await;
    let mut watch = watch.resume("of another");
    expect(&mut watch, &["interrupted", "begins TokenRefused"]).await;
    expect(&mut watch, &["synced 0", "interrupted"]).await;
    expect(&mut watch, &["begins TokenTooOld", "interrupted"]).await;
    expect(&mut watch, &["begins Interrupted", "synced 0"]).await;
    assert_eq!(tokens(&script), ["of another", "", "", ""]);
}

#[tokio::test]
async fn a_silent_connection_counts_as_lost() {
    let (script, mut watch) = play(vec![
        Act::Hang(vec![complete("1")]),
        Act::Hang(vec![bookmark("2")]),
    ])
    .await;
    let events = ["begins First", "synced 0", "interrupted", "bookmark"];
    expect(&mut watch, &events).await;
    assert_eq!(tokens(&script), ["", "1"]);
}

#[tokio::test]
async fn what_only_people_can_mend_is_an_error_and_can_be_asked_again() {
    let (_script, mut watch) = play(vec![
        Act::Refuse(refusal(Code::PermissionDenied, "MISSING_PERMISSION")),
        Act::Refuse(refusal(Code::Unavailable, "STOPPING")),
        Act::Hang(vec![complete("1")]),
    ])
    .await;
    expect(&mut watch, &["refused MISSING_PERMISSION", "interrupted"]).await;
    expect(&mut watch, &["begins First", "synced 0"]).await;
}

#[tokio::test]
async fn a_watch_that_outlives_its_token_goes_on_if_there_is_a_fresh_one() {
    let expired = || refusal(Code::Unauthenticated, "TOKEN_EXPIRED");
    let (script, mut watch) = play(vec![
        Act::Send(vec![complete("1"), Err(expired())]),
        Act::Send(vec![bookmark("2"), Err(expired())]),
        Act::Refuse(expired()),
        Act::Hang(vec![bookmark("3")]),
    ])
    .await;
    expect(&mut watch, &["begins First", "synced 0", "interrupted"]).await;
    expect(&mut watch, &["bookmark", "interrupted"]).await;
    // There was none; when somebody has seen to it, it goes on where it was.
    expect(&mut watch, &["refused TOKEN_EXPIRED", "bookmark"]).await;
    assert_eq!(tokens(&script), ["", "1", "2", "2"]);
}

#[tokio::test]
async fn a_service_that_ends_every_watch_at_once_is_asked_ever_more_slowly() {
    let acts = (0..6).map(|_| Act::Send(Vec::new())).collect();
    let (_script, mut watch) = play(acts).await;
    let mut pauses = Vec::new();
    while pauses.len() < 6 {
        if let Ok(Event::Interrupted { pause, .. }) = watch.next().await {
            pauses.push(pause);
        }
    }
    assert!(pauses[0] <= Duration::from_millis(2), "{pauses:?}");
    assert!(pauses[5] >= Duration::from_millis(5), "{pauses:?}");
}
