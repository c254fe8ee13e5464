//! The driver's part in forwards: bytes between the engine's streams and the tasks of their targets, as far as each has room.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use punch_engine::{Engine, Order, PeerHandle, StreamId, TargetEvent, meeting_target};
use punch_platform::clock;
use punch_service::Repeats;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::descriptors::Descriptors;
use crate::meeting::MeetingPlace;
use crate::streams::report::{FromTarget, ToTarget};
use crate::streams::target::{Call, Carrier, Ends, Job, TO_TARGET};
use crate::tasks::{Spawner, Task};

/// A forwarded stream's channel to its task, and what waits for either end.
struct Stream {
    target: mpsc::Sender<ToTarget>,
    /// Room that is kept for the end, so that it never has to wait.
    finish: Option<mpsc::OwnedPermit<ToTarget>>,
    blocked: bool,
    /// The longest chunk.
    chunk: usize,
    /// The client has sent all it will, and the end has not been passed on.
    finishing: bool,
    for_client: VecDeque<(Bytes, OwnedSemaphorePermit)>,
    /// What happened at the target once its last bytes are with the client.
    last_event: Option<TargetEvent>,
    /// Dropped when the client is gone.
    _over: oneshot::Sender<()>,
    task: Task,
}

impl Stream {
    /// A stream whose task is started with where its orders come from, what ends when the client is gone, and the longest chunk.
    fn begin(
        window: usize,
        start: impl FnOnce(mpsc::Receiver<ToTarget>, oneshot::Receiver<()>, usize) -> Task,
    ) -> Self {
        let (sender, orders) = mpsc::channel(TO_TARGET + 1);
        let (over, is_over) = oneshot::channel();
        let chunk = window / TO_TARGET;
        Self {
            finish: sender.clone().try_reserve_owned().ok(),
            target: sender,
            blocked: false,
            chunk,
            finishing: false,
            for_client: VecDeque::new(),
            last_event: None,
            _over: over,
            task: start(orders, is_over, chunk),
        }
    }

    /// Passes the client's end on, if it is due.
    fn pass_finish(&mut self) {
        if std::mem::take(&mut self.finishing)
            && let Some(room) = self.finish.take()
        {
            room.send(ToTarget::Finish);
        }
    }
}

/// Chunks and events of targets that may wait for the driver.
const REPORTS: usize = 1024;

/// All forwarded streams.
pub(super) struct Streams {
    open: HashMap<StreamId, Stream>,
    carrier: Carrier,
    ends: Ends,
    descriptors: Descriptors,
    /// What the log has been told of streams that got no descriptor.
    repeats: Repeats,
    /// This machine's addresses, as they were told last.
    addresses: Vec<IpAddr>,
    /// Where guests' streams lead.
    place: MeetingPlace,
    spawner: Spawner,
}

impl Streams {
    /// No streams yet.
    pub(super) fn new(spawner: Spawner, descriptors: Descriptors, place: MeetingPlace) -> Self {
        let (carrier, ends) = Carrier::new(&spawner, descriptors.clone(), REPORTS);
        Self {
            open: HashMap::new(),
            carrier,
            ends,
            descriptors,
            repeats: Repeats::default(),
            addresses: Vec::new(),
            place,
            spawner,
        }
    }

    /// The next report of a target, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<FromTarget> {
        self.ends.reports.try_recv().ok()
    }

    /// Waits for the next report of a target.
    pub(super) async fn recv(&mut self) -> Option<FromTarget> {
        self.ends.reports.recv().await
    }

    /// This machine has these addresses now: the ways to targets may be others.
    pub(super) fn handle_addresses(&mut self, addresses: Vec<IpAddr>) {
        if self.addresses != addresses {
            self.addresses = addresses;
            self.carrier.forget_names();
            self.ends.network.send_modify(|changes| *changes += 1);
        }
    }

    /// Carries out what the engine wants of a stream.
    pub(super) fn handle_order(&mut self, engine: &mut Engine, order: Order) {
        match order {
            Order::Connect {
                stream,
                target,
                peer,
                window,
                ..
            } if target == meeting_target() => self.welcome(engine, (stream, peer), window),
            Order::Connect {
                stream,
                protocol,
                target,
                peer,
                window,
                ..
            } => {
                let Some(descriptor) = self.descriptors.for_stream() else {
                    let text = "the limit of open files leaves no more for connections to forwards: raise LimitNOFILE of punchd.service";
                    if let Some(unsaid) = self.repeats.note(text, clock::now()) {
                        tracing::warn!(unsaid, "{text}");
                    }
                    engine.handle_target(stream, TargetEvent::Busy, clock::now());
                    return;
                };
                let carrier = self.carrier.clone();
                let begun = Stream::begin(window, |orders, over, chunk| {
                    let carry = carrier.carry(Job {
                        stream,
                        protocol,
                        target,
                        peer,
                        chunk,
                        orders,
                        over,
                        descriptor,
                    });
                    self.spawner.spawn("target", carry)
                });
                self.open.insert(stream, begun);
            }
            Order::Readable(stream) => self.feed_target(engine, stream),
            Order::Writable(stream) => self.feed_client(engine, stream),
            Order::Datagram(stream, bytes) => {
                if let Some(entry) = self.open.get(&stream) {
                    // A target that does not keep up loses datagrams, as it would locally.
                    let _ = entry.target.try_send(ToTarget::Bytes(bytes));
                }
            }
            Order::Finish(stream) => {
                if let Some(entry) = self.open.get_mut(&stream) {
                    entry.finishing = true;
                }
                self.feed_target(engine, stream);
            }
            // The task goes with its handle, and resets the target.
            Order::Reset(stream) => drop(self.open.remove(&stream)),
            Order::Close(stream) => {
                if let Some(mut entry) = self.open.remove(&stream) {
                    entry.pass_finish();
                    // The task ends by itself when its channel closes, so that bytes that are under way arrive.
                    entry.task.detach();
                }
            }
        }
    }

    /// Leads a guest's stream to the meeting place, if there is room.
    fn welcome(
        &mut self,
        engine: &mut Engine,
        (stream, peer): (StreamId, PeerHandle),
        window: usize,
    ) {
        let Some(visit) = self.place.enter(peer) else {
            return engine.handle_target(stream, TargetEvent::Busy, clock::now());
        };
        let (carrier, place) = (self.carrier.clone(), self.place.clone());
        let begun = Stream::begin(window, |orders, _, _| {
            let welcome = carrier.welcome(Call {
                stream,
                visit,
                place,
                orders,
            });
            self.spawner.spawn("guest", welcome)
        });
        self.open.insert(stream, begun);
    }

    /// Moves what a client sent towards its target, as far as there is room.
    fn feed_target(&mut self, engine: &mut Engine, stream: StreamId) {
        let Some(entry) = self.open.get_mut(&stream) else {
            return;
        };
        loop {
            let Ok(room) = entry.target.try_reserve() else {
                entry.blocked = true;
                return;
            };
            let bytes = engine.read_stream(stream, entry.chunk);
            if bytes.is_empty() {
                drop(room);
                entry.blocked = false;
                entry.pass_finish();
                return;
            }
            room.send(ToTarget::Bytes(bytes));
        }
    }

    /// Moves what a target sent towards its client, as far as there is room.
    fn feed_client(&mut self, engine: &mut Engine, stream: StreamId) {
        let Some(entry) = self.open.get_mut(&stream) else {
            return;
        };
        while let Some((bytes, _)) = entry.for_client.front_mut() {
            let taken = engine.write_stream(stream, bytes);
            if taken < bytes.len() {
                let _ = bytes.split_to(taken);
                return;
            }
            entry.for_client.pop_front();
        }
        if let Some(event) = entry.last_event.take() {
            engine.handle_target(stream, event, clock::now());
        }
    }

    /// Takes a report of a target.
    pub(super) fn handle_report(&mut self, engine: &mut Engine, report: FromTarget, now: Instant) {
        match report {
            // What the target sent before its end comes first.
            FromTarget::Event(stream, event @ (TargetEvent::Finished | TargetEvent::Reset)) => {
                if let Some(entry) = self.open.get_mut(&stream) {
                    entry.last_event = Some(event);
                }
                self.feed_client(engine, stream);
            }
            FromTarget::Event(stream, event) => engine.handle_target(stream, event, now),
            FromTarget::Failed(stream, event, what) => {
                engine.handle_target_failure(stream, event, what, now);
            }
            FromTarget::Bytes(stream, bytes, permit) => {
                if let Some(entry) = self.open.get_mut(&stream) {
                    entry.for_client.push_back((bytes, permit));
                }
                self.feed_client(engine, stream);
            }
            FromTarget::Datagram(stream, bytes) => {
                engine.write_datagram(stream, &bytes, now);
            }
            FromTarget::Room(stream) => {
                let blocked = self.open.get(&stream).is_some_and(|entry| entry.blocked);
                if blocked {
                    self.feed_target(engine, stream);
                }
            }
        }
    }
}
