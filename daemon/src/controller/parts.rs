//! What the controller is made of, and what flows into it.

use punch_api::Event;
use punch_engine::{EngineEvent, Nat64};
use punch_signal_protocol::Identity;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::request::Request;
use super::saving::Kept;
use crate::config::Config;
use crate::driver::command::Command;
use crate::interface::Interface;
use crate::meeting::MeetingPlace;
use crate::store::writer::Desk;
use crate::tasks::Spawner;
use crate::views::facts::Ports;

/// Everything that the controller is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) kept: Kept,
    /// How what is to be kept is written.
    pub(crate) desk: Desk,
    pub(crate) identity: Identity,
    pub(crate) interface: Interface,
    /// The translator's prefix that an earlier process has used.
    pub(crate) nat64: Option<Nat64>,
    /// Where packets come in.
    pub(crate) ports: Ports,
    /// Where peers meet that may.
    pub(crate) place: MeetingPlace,
    pub(crate) driver: mpsc::Sender<Command>,
    pub(crate) broadcast: broadcast::Sender<Event>,
    pub(crate) spawner: Spawner,
}

/// What flows into the controller.
pub(crate) struct Inlets {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) events: mpsc::Receiver<EngineEvent>,
    pub(crate) stop: oneshot::Receiver<Ending>,
}

/// How punchd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// For good, as far as it knows.
    Goodbye,
    /// Another process goes on: what routers and peers hold for this machine stays.
    Replaced,
}
