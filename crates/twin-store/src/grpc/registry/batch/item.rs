//! What one item of a batch asks for, decided as the call alone would be.

use jiff::Timestamp;
use wire::registry::v1 as proto;

use super::super::devices::{CreateDevice, Delete, UpdateDevice};
use super::super::modules::{CreateModule, UpdateModule};
use crate::apply::Overlay;
use crate::error::Error;
use crate::grpc::repeatable::{Repeatable, once};
use crate::secrets::Sealer;

/// What one item of a batch asks for.
pub(super) enum Item {
    CreateDevice(Box<CreateDevice>),
    UpdateDevice(Box<UpdateDevice>),
    CreateModule(Box<CreateModule>),
    UpdateModule(Box<UpdateModule>),
    /// Of either.
    Delete(Box<Delete>),
}

/// What an item made or changed.
pub(super) enum Made {
    Device(proto::Device),
    Module(proto::Module),
}

impl Item {
    pub(super) fn repeatable(&self) -> Option<&Repeatable> {
        match self {
            Item::CreateDevice(create) => create.repeatable.as_ref(),
            Item::UpdateDevice(update) => update.repeatable.as_ref(),
            Item::CreateModule(create) => create.repeatable.as_ref(),
            Item::UpdateModule(update) => update.repeatable.as_ref(),
            Item::Delete(delete) => delete.repeatable.as_ref(),
        }
    }

    pub(super) fn decide(
        self,
        sealer: &Sealer,
        overlay: &mut Overlay,
        now: Timestamp,
    ) -> Result<Option<Made>, Error> {
        let repeatable = self.repeatable().cloned();
        let repeatable = repeatable.as_ref();
        match self {
            Item::CreateDevice(create) => {
                let decide = |overlay: &mut Overlay, now| create.decide(sealer, overlay, now);
                let device = once(repeatable, sealer, overlay, now, decide)?;
                Ok(Some(Made::Device(device)))
            }
            Item::UpdateDevice(update) => {
                let decide = |overlay: &mut Overlay, now| update.decide(sealer, overlay, now);
                let device = once(repeatable, sealer, overlay, now, decide)?;
                Ok(Some(Made::Device(device)))
            }
            Item::CreateModule(create) => {
                let decide = |overlay: &mut Overlay, now| create.decide(sealer, overlay, now);
                let module = once(repeatable, sealer, overlay, now, decide)?;
                Ok(Some(Made::Module(module)))
            }
            Item::UpdateModule(update) => {
                let decide = |overlay: &mut Overlay, now| update.decide(sealer, overlay, now);
                let module = once(repeatable, sealer, overlay, now, decide)?;
                Ok(Some(Made::Module(module)))
            }
            Item::Delete(delete) => {
                let decide = |overlay: &mut Overlay, now| delete.decide(overlay, now);
                once(repeatable, sealer, overlay, now, decide).map(|()| None)
            }
        }
    }
}

impl Made {
    pub(super) fn device(self) -> Option<proto::Device> {
        match self {
            Made::Device(device) => Some(device),
            Made::Module(_) => None,
        }
    }

    pub(super) fn module(self) -> Option<proto::Module> {
        match self {
            Made::Device(_) => None,
            Made::Module(module) => Some(module),
        }
    }
}
