//! STUN requests to servers, with their retransmissions (RFC 8489 §6.2.1).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::TransactionId;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::socket::{SocketId, Transmit};

/// Time before the first retransmission; it doubles with each. RFC 8489 allows less than 500 ms where round trips are
/// known to be short; a daemon that asks once every 20 seconds harms nobody with 250.
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// Draws a transaction.
pub(crate) fn transaction(rng: &mut ChaCha8Rng) -> TransactionId {
    let mut id = [0; 12];
    rng.fill_bytes(&mut id);
    TransactionId(id)
}

/// A request under way, with what the asker wants to remember about it.
#[derive(Debug)]
struct Request<T> {
    transmit: Transmit,
    tag: T,
    first_sent: Instant,
    next: Instant,
    /// How long each of the sends that follow waits for an answer, the last one first.
    waits: Vec<Duration>,
}

/// All requests of one asker.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    waiting: BTreeMap<TransactionId, Request<T>>,
}

impl<T> Requests<T> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
        }
    }

    /// Sends `transmit` now and up to `sends - 1` times more, each time after twice the wait.
    pub(crate) fn start(
        &mut self,
        id: TransactionId,
        transmit: Transmit,
        tag: T,
        sends: u32,
        now: Instant,
    ) -> Transmit {
        let waits = (0..sends).map(|sent| FIRST_RETRY * (1 << sent));
        self.start_after(id, transmit, tag, waits, now)
    }

    /// Sends `transmit` now and again after each of the `waits` but the last, after which there is no answer.
    pub(crate) fn start_after(
        &mut self,
        id: TransactionId,
        transmit: Transmit,
        tag: T,
        waits: impl DoubleEndedIterator<Item = Duration>,
        now: Instant,
    ) -> Transmit {
        let mut waits: Vec<_> = waits.rev().collect();
        let first = waits.pop().unwrap_or_default();
        self.waiting.insert(
            id,
            Request {
                transmit: transmit.clone(),
                tag,
                first_sent: now,
                next: now + first,
                waits,
            },
        );
        transmit
    }

    /// The request that a response to `socket` from `from` answers, with the time since its first send. `elsewhere` tells
    /// for which requests the answer may come from another address than the one that was asked (CHANGE-REQUEST).
    pub(crate) fn answered(
        &mut self,
        id: TransactionId,
        socket: SocketId,
        from: SocketAddr,
        elsewhere: impl Fn(&T) -> bool,
        now: Instant,
    ) -> Option<(T, Duration)> {
        let request = self.waiting.get(&id)?;
        if request.transmit.socket != socket
            || (request.transmit.to != from && !elsewhere(&request.tag))
        {
            return None;
        }
        let request = self.waiting.remove(&id)?;
        Some((
            request.tag,
            now.saturating_duration_since(request.first_sent),
        ))
    }

    /// What is due: retransmissions, and the tags of requests that got no answer.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> (Vec<Transmit>, Vec<T>) {
        let (mut again, mut lost) = (Vec::new(), Vec::new());
        let due: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, request)| request.next <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(request) = self.waiting.get_mut(&id) else {
                continue;
            };
            if let Some(wait) = request.waits.pop() {
                request.next = now + wait;
                again.push(request.transmit.clone());
            } else if let Some(request) = self.waiting.remove(&id) {
                lost.push(request.tag);
            }
        }
        (again, lost)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|request| request.next).min()
    }

    pub(crate) fn contains(&self, id: TransactionId) -> bool {
        self.waiting.contains_key(&id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|request| &request.tag)
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}
