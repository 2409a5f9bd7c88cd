//! Bytes that are no message, at a real server.

use http::uri::PathAndQuery;
use service_kit::client::{self, ClientConfig};
use service_kit::error::{Classified as _, Kind};
use service_kit::server::GrpcConfig;
use service_kit::status::RemoteError;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::support::{Running, within};

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use prost::bytes::Buf as _;
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let server = Running::start(&GrpcConfig::default()).await;
    let channel = client::connect(&ClientConfig::to(format!("http://{}", server.address)));
    let channel = channel.expect("a usable configuration");
    // The health service is tonic's own: what it answers goes through our layers alone.
    for (bytes, reason) in [
        (vec![0xff; 40], ("MALFORMED_MESSAGE", 400_006)),
        (vec![0x0a, 0x7f, 0x01], ("MALFORMED_MESSAGE", 400_006)),
        (vec![0x0a; 5 << 20], ("MESSAGE_TOO_LARGE", 413_001)),
    ] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        within("a connection", client.ready())
            .await
            .expect("a connection");
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let call = client.unary(tonic::Request::new(bytes), path, Raw);
        let status = within("an answer", call).await.expect_err("no message");
        let error = RemoteError::from(status);
        assert_eq!(
            (error.kind(), (error.reason(), error.iot_hub().number())),
            (Kind::InvalidArgument, reason)
        );
    }
    server.stop().await;
}
