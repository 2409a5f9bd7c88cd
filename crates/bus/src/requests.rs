//! Questions over core NATS: one asks, whoever knows answers. Nothing here is durable or repeated:
//! an answer that does not come says nothing about what became of the question.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{Request, RequestErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::connection::Bus;
use crate::error::{AskError, Cause, HintError};
use crate::message::{Headers, Outgoing};

/// One received question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its headers (the trace context).
    pub headers: Headers,
    /// Its bytes.
    pub payload: Bytes,
    /// Where the answer goes.
    pub reply_to: String,
}

/// An endless stream of questions; survives reconnects. Ends when the bus is closed. Dropping it
/// ends the subscription.
pub struct Questions {
    subscriber: Subscriber,
}

impl Stream for Questions {
    type Item = Question;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Question>> {
        loop {
            match self.subscriber.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => {
                    // Who does not say where the answer goes wants none.
                    let Some(reply) = message.reply else {
                        continue;
                    };
                    return Poll::Ready(Some(Question {
                        headers: Headers::from_nats(message.headers.as_ref()),
                        payload: message.payload,
                        reply_to: reply.to_string(),
                    }));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The answers to a question that several may answer, as they come.
pub struct Answers {
    subject: String,
    subscriber: Subscriber,
}

impl Answers {
    /// The next answer; whoever asks knows how long it waits for one. That nobody listens is known
    /// at once. `None`: the bus was closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Bytes, AskError>> {
        let message = self.subscriber.next().await?;
        Some(match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(AskError::Nobody {
                subject: self.subject.clone(),
            }),
            _ => Ok(message.payload),
        })
    }
}

impl Bus {
    /// Asks all who listen.
    pub async fn ask_all(&self, question: Outgoing) -> Result<Answers, AskError> {
        let Outgoing {
            subject,
            headers,
            payload,
        } = question;
        let failed = |source: Cause| AskError::Send {
            subject: subject.clone(),
            source,
        };
        let client = self.client();
        let inbox = client.new_inbox();
        // The server takes what one connection sends in order: the question comes after this.
        let subscriber = client.subscribe(inbox.clone()).await;
        let subscriber = subscriber.map_err(|source| failed(source.into()))?;
        let asked = client
            .publish_with_reply_and_headers(subject.clone(), inbox, headers.to_nats(), payload)
            .await;
        asked.map_err(|source| failed(source.into()))?;
        Ok(Answers {
            subject,
            subscriber,
        })
    }

    /// Asks, and takes the first answer that comes. That nobody listens is known at once.
    pub async fn ask(&self, question: Outgoing, within: Duration) -> Result<Bytes, AskError> {
        let Outgoing {
            subject,
            headers,
            payload,
        } = question;
        let mut request = Request::new().payload(payload).timeout(Some(within));
        if !headers.is_empty() {
            request = request.headers(headers.to_nats());
        }
        match self.client().send_request(subject.clone(), request).await {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => AskError::Nobody { subject },
                RequestErrorKind::TimedOut => AskError::Silent { subject, within },
                RequestErrorKind::InvalidSubject
                | RequestErrorKind::MaxPayloadExceeded
                | RequestErrorKind::Other => AskError::Send {
                    subject,
                    source: error.into(),
                },
            }),
        }
    }

    /// Listens for questions on a subject. It returns after the server knows of it.
    pub async fn take_questions(&self, subject: &str) -> Result<Questions, HintError> {
        let subscriber = self.subscribe(subject).await?;
        Ok(Questions { subscriber })
    }

    /// Answers a question. Whether the answer arrives nobody knows.
    pub async fn answer(
        &self,
        reply_to: String,
        answer: impl Into<Bytes>,
    ) -> Result<(), HintError> {
        self.send_hint(Outgoing::new(reply_to, answer)).await
    }
}
