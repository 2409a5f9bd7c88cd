//! The layer in front of a handler that refuses, and between two servers.

use std::sync::atomic::{AtomicU32, Ordering};

use service_kit::clock::SystemClock;
use service_kit::error::Classified as _;
use service_kit::metrics::Registry;
use service_kit::status::RemoteError;
use tower::service_fn;
use twin::PartitionCount;

use super::*;

fn third() -> Partition {
    let count = PartitionCount::new(8).expect("a count");
    Partition::new(3, count).expect("there are more")
}

fn refusal() -> Response<Body> {
    let mut status = Status::unavailable("not ours");
    mark(&mut status, third());
    status.into_http()
}

fn layer(owners: &Owners) -> ForwardLayer {
    let metrics = Metrics::new(&Registry::new().scope("test"));
    let vouching = Vouching::new([[7; 32]], SystemClock::shared());
    ForwardLayer::new(
        owners.clone(),
        ClientTls::default(),
        vouching,
        metrics,
        1024,
    )
}

fn request(path: &str) -> Request<Body> {
    let body = Body::new(Full::new(Bytes::from_static(b"\0\0\0\0\x01x")));
    Request::post(path).body(body).expect("a request")
}

fn message(response: &Response<Body>) -> String {
    let message = response.headers().get("grpc-message");
    let message = message.and_then(|text| text.to_str().ok());
    message.unwrap_or_default().to_owned()
}

/// The reason and IoT Hub's number in the details of an answer.
fn told(response: &Response<Body>) -> (String, u32) {
    let status = Status::from_header_map(response.headers()).expect("a status");
    let error = RemoteError::from(status);
    let number = error.fact("iot_hub_code").expect("a number");
    (error.reason().to_owned(), number.parse().expect("a number"))
}

/// Refuses until it has been called `times` times, as while a partition changes hands.
fn refusing(
    times: u32,
    calls: Arc<AtomicU32>,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = BoxFuture<'static, Result<Response<Body>, Infallible>>,
> + Clone
+ Send
+ 'static {
    service_fn(move |request: Request<Body>| {
        let calls = calls.clone();
        async move {
            let body = request.into_body().collect().await.expect("it is whole");
            assert_eq!(body.to_bytes().as_ref(), b"\0\0\0\0\x01x");
            let call = calls.fetch_add(1, Ordering::SeqCst);
            Ok(if call < times {
                refusal()
            } else {
                Status::not_found("decided").into_http()
            })
        }
        .boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_while_its_partition_changes_hands() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = layer(&Owners::default()).layer(refusing(7, calls.clone()));
    let answered = service
        .oneshot(request("/x.Y/Z"))
        .await
        .expect("it cannot fail");
    assert_eq!(message(&answered), "decided");
    assert_eq!(calls.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = layer(&Owners::default()).layer(refusing(u32::MAX, calls));
    let answered = service
        .oneshot(request("/x.Y/Z"))
        .await
        .expect("it cannot fail");
    assert_eq!(told(&answered), ("PARTITION_WITHOUT_OWNER".into(), 503_001));
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_take_longer_than_a_partition_may_be_without_owner() {
    let service = service_fn(|_: Request<Body>| {
        async {
            tokio::time::sleep(PATIENCE * 3).await;
            Ok::<_, Infallible>(Status::not_found("decided").into_http())
        }
        .boxed()
    });
    let service = layer(&Owners::default()).layer(service);
    let answered = service
        .oneshot(request("/x.Y/Z"))
        .await
        .expect("it cannot fail");
    assert_eq!(message(&answered), "decided");
}

#[tokio::test]
async fn what_was_passed_on_is_answered_as_it_is() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = layer(&Owners::default()).layer(refusing(1, calls.clone()));
    let mut passed_on = request("/x.Y/Z");
    let header = HeaderValue::from_static("1");
    passed_on.headers_mut().insert(FORWARDED, header);
    let answered = service.oneshot(passed_on).await.expect("it cannot fail");
    assert_eq!(refused_for(&answered), Some(3));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_owner_that_is_not_there_was_not_asked() {
    let owners = Owners::default();
    let nobody = format!("http://127.0.0.1:{}", testkit::free_port());
    owners.set(BTreeMap::from([(third(), nobody)]));
    let calls = Arc::new(AtomicU32::new(0));
    let service = layer(&owners).layer(refusing(2, calls.clone()));
    let answered = service
        .oneshot(request("/x.Y/Z"))
        .await
        .expect("it cannot fail");
    assert_eq!(message(&answered), "decided");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn too_large_a_request_is_refused() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = layer(&Owners::default()).layer(refusing(0, calls.clone()));
    let body = Body::new(Full::new(Bytes::from(vec![0; 2048])));
    let large = Request::post("/x.Y/Z").body(body).expect("a request");
    let answered = service.oneshot(large).await.expect("it cannot fail");
    assert!(message(&answered).contains("1024"), "{answered:?}");
    assert_eq!(told(&answered), ("MESSAGE_TOO_LARGE".into(), 413_001));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[test]
fn methods_whose_callers_send_streams_are_known() {
    let paths = streaming_methods(wire::FILE_DESCRIPTOR_SET);
    assert!(
        paths.contains("/twinward.agent.v1.AgentService/OpenSession"),
        "{paths:?}"
    );
    // Calls of one message are passed on, and so is a call that is answered by a stream.
    for passed_on in ["PatchTwin", "WatchTwins"] {
        let path = format!("/twinward.twin.v1.TwinService/{passed_on}");
        let known = service_kit::auth::coverage::methods(wire::FILE_DESCRIPTOR_SET);
        assert!(known.expect("descriptors").contains(&path), "{path}");
        assert!(!paths.contains(&path), "{path}");
    }
}
