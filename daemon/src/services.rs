//! What serves the outside, and how it stops.

use std::time::Duration;

use anyhow::{Context, Result};
use punch_api::Event;
use punch_engine::EngineEvent;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::control::http;
use crate::controller::request::Request;
use crate::controller::{Controller, Ending, Inlets};
use crate::driver::command::Command;
use crate::handover::takeover::Asked;
use crate::handover::{Copies, Left};
use crate::startup::Listeners;
use crate::tasks::{Spawner, Task};
use crate::{metrics, watchdog};

/// Frames that say goodbye take this long to leave.
pub(crate) const FAREWELL: Duration = Duration::from_millis(100);
/// The controller has this long to write what it knows and to give back the router's port.
pub(crate) const CONTROLLER_STOP: Duration = Duration::from_secs(2);
/// Requests that may wait for the controller.
const REQUESTS: usize = 64;

/// What serves the outside: the controller, and the tasks that ask it.
pub(crate) struct Services {
    controller: Task,
    stop_controller: oneshot::Sender<Ending>,
    /// Without it the controller would end with the last task that asks it; it is needed until the goodbyes are said.
    requests: mpsc::Sender<Request>,
    /// Control and metrics.
    askers: Vec<Task>,
    /// What the control API listens to, and whom it tells of processes that want to take over.
    broadcast: broadcast::Sender<Event>,
    successors: mpsc::Sender<Asked>,
    /// Gives a sign of life until the end.
    watchdog: Task,
}

impl Services {
    pub(crate) fn start(
        spawner: &Spawner,
        controller: Controller,
        events: mpsc::Receiver<EngineEvent>,
        listeners: Listeners,
        broadcast: broadcast::Sender<Event>,
        successors: mpsc::Sender<Asked>,
    ) -> Result<Self> {
        let (control, metrics) = listeners.into_async()?;
        let (requests, requests_out) = mpsc::channel(REQUESTS);
        let (stop_controller, stop) = oneshot::channel();
        let inlets = Inlets {
            requests: requests_out,
            events,
            stop,
        };
        let controller = spawner.spawn("controller", controller.run(inlets));
        let watch = watchdog::beat(requests.clone(), broadcast.subscribe());
        let watchdog = spawner.spawn("watchdog", watch);
        let mut askers = Vec::new();
        if let Some(listener) = metrics {
            askers.push(spawner.spawn("metrics", metrics::serve(listener, requests.clone())));
        }
        let control = http::serve(
            control,
            requests.clone(),
            broadcast.clone(),
            successors.clone(),
        );
        askers.push(spawner.spawn("control", control));
        Ok(Self {
            controller,
            stop_controller,
            requests,
            askers,
            broadcast,
            successors,
            watchdog,
        })
    }

    /// The control API answers here, too.
    pub(crate) fn answer_at(&mut self, listener: std::os::unix::net::UnixListener) -> Result<()> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (requests, broadcast) = (self.requests.clone(), self.broadcast.clone());
        let control = http::serve(listener, requests, broadcast, self.successors.clone());
        let spawner = Spawner::new(Handle::current());
        self.askers.push(spawner.spawn("control", control));
        Ok(())
    }

    /// First no more requests, then goodbye to the peers, for which the controller holds the signalling clients; the controller
    /// goes last.
    pub(crate) async fn stop(self, driver: &mpsc::Sender<Command>) {
        drop(self.askers);
        let _ = driver.send(Command::ShutDown).await;
        tokio::time::sleep(FAREWELL).await;
        end(self.controller, self.stop_controller, Ending::Goodbye).await;
        drop((self.requests, self.watchdog));
    }

    /// Another process goes on; peers are told to wait so many seconds for it, if any. Packets flow until all else has ended.
    pub(crate) async fn step_aside(
        self,
        driver: &mpsc::Sender<Command>,
        away: Option<u8>,
        copies: &Copies,
    ) -> Result<Left> {
        drop(self.askers);
        if let Some(seconds) = away {
            let _ = driver.send(Command::GoAway(seconds)).await;
            tokio::time::sleep(FAREWELL).await;
        }
        end(self.controller, self.stop_controller, Ending::Replaced).await;
        drop((self.requests, self.watchdog));
        let (answer, left) = oneshot::channel();
        let copied = copies.keys().cloned().collect();
        let _ = driver.send(Command::HandOver { copied, answer }).await;
        let left = left.await.context("the packet path has ended")?;
        left.context("cannot leave anything to the next process")
    }
}

async fn end(controller: Task, stop: oneshot::Sender<Ending>, ending: Ending) {
    let _ = stop.send(ending);
    let _ = timeout(CONTROLLER_STOP, controller.join()).await;
}
