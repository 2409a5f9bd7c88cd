//! Hints over core NATS: "look again at this identity". A hint may be lost or come twice; whoever
//! listens compares versions anyway (level-triggered), so nothing here is durable or retried.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::connection::Bus;
use crate::error::HintError;
use crate::message::{Headers, Outgoing};

/// One received hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The full subject it came on.
    pub subject: String,
    /// Its headers (the trace context).
    pub headers: Headers,
    /// Its bytes.
    pub payload: Bytes,
}

/// An endless stream of hints; survives reconnects. Ends when the bus is closed. Dropping it ends
/// the subscription.
pub struct Hints {
    subscriber: Subscriber,
}

impl Hints {
    /// The next hint; `None` when the bus was closed. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Hint> {
        self.next().await
    }
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Hint>> {
        self.subscriber.poll_next_unpin(cx).map(|received| {
            received.map(|message| Hint {
                subject: message.subject.to_string(),
                headers: Headers::from_nats(message.headers.as_ref()),
                payload: message.payload,
            })
        })
    }
}

impl Bus {
    /// Sends a hint without waiting for anybody to get it.
    pub async fn send_hint(&self, hint: Outgoing) -> Result<(), HintError> {
        let sent = if hint.headers.is_empty() {
            self.client()
                .publish(hint.subject.clone(), hint.payload)
                .await
        } else {
            let headers = hint.headers.to_nats();
            self.client()
                .publish_with_headers(hint.subject.clone(), headers, hint.payload)
                .await
        };
        sent.map_err(|source| HintError::Send {
            subject: hint.subject,
            source: source.into(),
        })
    }

    /// Listens for hints on a subject, which may end in `*` or `>`.
    ///
    /// It returns after the server knows of the subscription, so a hint sent afterwards by anyone
    /// on the same server arrives.
    pub async fn listen(&self, subject: &str) -> Result<Hints, HintError> {
        let subscriber = self.subscribe(subject).await?;
        Ok(Hints { subscriber })
    }

    /// Subscribes, and returns after the server knows of it.
    pub(crate) async fn subscribe(&self, subject: &str) -> Result<Subscriber, HintError> {
        let failed = |source| HintError::Listen {
            subject: subject.to_owned(),
            source,
        };
        let subscriber = self
            .client()
            .subscribe(subject.to_owned())
            .await
            .map_err(|source| failed(source.into()))?;
        // The client only queues the subscription. The server answers a connection in order, so
        // any answer to a later request means that it knows of it; without that, a hint sent over
        // another connection could overtake it.
        self.context()
            .query_account()
            .await
            .map_err(|source| failed(source.into()))?;
        Ok(subscriber)
    }
}
