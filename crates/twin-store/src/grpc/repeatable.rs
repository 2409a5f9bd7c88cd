//! Calls that may be repeated: the first one's answer is kept in the commit of what it wrote, so a
//! repetition is answered the same and writes nothing, also within one group of work and after a
//! restart.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use prost::Message;
use ring::digest;
use uuid::Uuid;
use wire::InvalidField;
use zeroize::Zeroizing;

use super::Api;
use super::caller::Caller;
use crate::apply::Overlay;
use crate::error::Error;
use crate::secrets::{Sealed, Sealer};
use crate::store::{RequestAnswer, RequestId, Selection};

/// A call with a request id.
#[derive(Debug, Clone)]
pub(super) struct Repeatable {
    given: String,
    id: RequestId,
    fingerprint: [u8; 32],
}

impl Repeatable {
    /// Reads the id of a call; none if it has none. The same id of another caller or method is
    /// another one.
    pub(super) fn read(
        method: &str,
        caller: &Caller,
        request_id: &str,
        request: &impl Message,
    ) -> Result<Option<Repeatable>, Error> {
        if request_id.is_empty() {
            return Ok(None);
        }
        let uuid = Uuid::parse_str(request_id).map_err(|_| {
            let example = "for instance 6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";
            InvalidField::new("request_id", format!("must be a UUID, {example}"))
        })?;
        let hash = digest::digest(&digest::SHA256, &request.encode_to_vec());
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hash.as_ref());
        Ok(Some(Repeatable {
            given: request_id.to_owned(),
            id: RequestId(format!("{method}/{}/{uuid}", caller.name())),
            fingerprint,
        }))
    }

    /// What a decision has to load to know whether it is a repetition.
    pub(super) fn selection(&self) -> Selection {
        Selection::Request(self.id.clone())
    }

    fn owner(&self) -> String {
        format!("request {}", self.id.0)
    }

    /// The answer of the first call, if this one repeats it.
    pub(super) fn known<A: Message + Default>(
        &self,
        sealer: &Sealer,
        overlay: &Overlay,
    ) -> Result<Option<A>, Error> {
        let Some(known) = overlay.answer(&self.id)? else {
            return Ok(None);
        };
        if known.fingerprint != self.fingerprint {
            return Err(Error::RequestReused {
                id: self.given.clone(),
            });
        }
        // An answer that cannot be read is one of a damaged store, as a sealed key would be.
        let unusable = || Error::Secret(crate::secrets::SecretError::Open);
        let text = String::from_utf8(known.answer.clone()).map_err(|_| unusable())?;
        let opened = sealer.open_sealed(&self.owner(), &Sealed(text))?;
        let bytes = Zeroizing::new(
            BASE64_STANDARD
                .decode(opened.as_bytes())
                .map_err(|_| unusable())?,
        );
        A::decode(bytes.as_slice())
            .map(Some)
            .map_err(|_| unusable())
    }

    /// Keeps an answer. It is sealed, because answers may hold keys of devices.
    fn keep(
        &self,
        sealer: &Sealer,
        overlay: &mut Overlay,
        answer: &impl Message,
        now: Timestamp,
    ) -> Result<(), Error> {
        let text = Zeroizing::new(BASE64_STANDARD.encode(answer.encode_to_vec()));
        let closed = sealer.seal(&self.owner(), &text)?;
        overlay.remember(RequestAnswer {
            id: self.id.clone(),
            fingerprint: self.fingerprint,
            answer: closed.0.into_bytes(),
            at: now,
        });
        Ok(())
    }
}

/// Runs a decision unless it was made before, when its answer is given again.
pub(super) fn once<A: Message + Default>(
    repeatable: Option<&Repeatable>,
    sealer: &Sealer,
    overlay: &mut Overlay,
    now: Timestamp,
    decide: impl FnOnce(&mut Overlay, Timestamp) -> Result<A, Error>,
) -> Result<A, Error> {
    let Some(repeatable) = repeatable else {
        return decide(overlay, now);
    };
    if let Some(answer) = repeatable.known(sealer, overlay)? {
        return Ok(answer);
    }
    let answer = decide(overlay, now)?;
    repeatable.keep(sealer, overlay, &answer, now)?;
    Ok(answer)
}

impl Api {
    /// As [`crate::engine::Engine::decide`], once.
    pub(super) async fn decide_once<A: Message + Default + 'static>(
        &self,
        repeatable: Option<Repeatable>,
        selections: impl Into<Vec<Selection>>,
        decide: impl FnOnce(&mut Overlay, Timestamp) -> Result<A, Error> + Send + 'static,
    ) -> Result<A, Error> {
        let sealer = self.sealer.clone();
        let mut selections: Vec<Selection> = selections.into();
        selections.extend(repeatable.as_ref().map(Repeatable::selection));
        self.engine
            .decide(selections, move |overlay, now| {
                once(repeatable.as_ref(), &sealer, overlay, now, decide)
            })
            .await
    }
}
