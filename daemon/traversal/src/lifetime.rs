//! How long a mapping lives that nobody uses (RFC 5780 §4.6): sockets ask once and fall silent, and after different times
//! one more socket asks the server to answer to their public ports (RESPONSE-PORT).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::request::transaction;
use crate::socket::{SocketId, Transmit};

/// Silences that are tried, in seconds.
const SILENCES: [u64; 6] = [8, 15, 25, 40, 60, 120];
/// How often a question is sent.
const SENDS: u32 = 3;
/// Time between two sends of a question.
const RESEND_INTERVAL: Duration = Duration::from_millis(400);
/// The lifetime of a mapping that does not survive the shortest silence.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(5);

/// A socket that falls silent for a while, and what has become of its mapping.
#[derive(Debug)]
struct Silence {
    socket: SocketId,
    wait: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The request that makes the mapping is under way: its transaction, when it is sent again, and how often it still is.
    Opening(TransactionId, Instant, u32),
    /// The mapping has this public port, and is left alone until this time.
    Silent(u16, Instant),
    /// The server is asked to answer to this public port: transaction, port, when that is sent again, and how often it still is.
    Asking(TransactionId, u16, Instant, u32),
    /// The mapping has survived the silence.
    Alive,
    /// The mapping has not survived the silence.
    Dead,
    /// Nothing can be said about the mapping.
    Unknown,
}

/// One measurement of how long an unused mapping lives.
#[derive(Debug)]
pub struct Lifetime {
    asker: SocketId,
    server: SocketAddr,
    silences: Vec<Silence>,
    rng: ChaCha8Rng,
    transmits: VecDeque<Transmit>,
}

impl Lifetime {
    /// How many sockets a measurement wants.
    pub const SOCKETS: usize = SILENCES.len() + 1;

    /// Starts on freshly opened sockets; the first one asks. `None` without two of them.
    pub fn new(sockets: &[SocketId], server: SocketAddr, seed: u64, now: Instant) -> Option<Self> {
        let (asker, rest) = sockets.split_first()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let silences = rest
            .iter()
            .zip(SILENCES)
            .map(|(socket, seconds)| Silence {
                socket: *socket,
                wait: Duration::from_secs(seconds),
                state: State::Opening(transaction(&mut rng), now, SENDS),
            })
            .collect::<Vec<_>>();
        (!silences.is_empty()).then(|| Self {
            asker: *asker,
            server,
            silences,
            rng,
            transmits: VecDeque::new(),
        })
    }

    /// The sockets of this measurement.
    pub fn sockets(&self) -> impl Iterator<Item = SocketId> {
        let silent = self.silences.iter().map(|silence| silence.socket);
        silent.chain([self.asker])
    }

    /// A response has come on one of its sockets.
    pub fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        if from != self.server {
            return;
        }
        for silence in &mut self.silences {
            match silence.state {
                State::Opening(id, ..) if id == message.transaction && socket == silence.socket => {
                    silence.state = match (message.class, message.mapped) {
                        (Class::Success, Some(mapped)) => {
                            State::Silent(mapped.port(), now + silence.wait)
                        }
                        _ => State::Unknown,
                    };
                }
                State::Asking(id, ..) if id == message.transaction => {
                    // An answer that comes to the asker shows that the server does not know RESPONSE-PORT.
                    silence.state = if socket == silence.socket {
                        State::Alive
                    } else {
                        State::Unknown
                    };
                }
                _ => {}
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for silence in &mut self.silences {
            let (socket, id, port, left) = match silence.state {
                State::Opening(id, at, left) if at <= now => (silence.socket, id, None, left),
                State::Silent(port, at) if at <= now => {
                    (self.asker, transaction(&mut self.rng), Some(port), SENDS)
                }
                State::Asking(id, port, at, left) if at <= now => {
                    (self.asker, id, Some(port), left)
                }
                _ => continue,
            };
            let Some(left) = left.checked_sub(1) else {
                silence.state = match port {
                    Some(_) => State::Dead,
                    None => State::Unknown,
                };
                continue;
            };
            let next = now + RESEND_INTERVAL;
            let writer = Writer::new(Class::Request, id);
            let writer = match port {
                Some(port) => {
                    silence.state = State::Asking(id, port, next, left);
                    writer.response_port(port)
                }
                None => {
                    silence.state = State::Opening(id, next, left);
                    writer
                }
            };
            self.transmits
                .push_back(Transmit::new(socket, self.server, writer.finish()));
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` when it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = self.silences.iter().filter_map(|s| match s.state {
            State::Opening(_, at, _) | State::Silent(_, at) | State::Asking(_, _, at, _) => {
                Some(at)
            }
            State::Alive | State::Dead | State::Unknown => None,
        });
        times.min()
    }

    /// The longest silence that a mapping has survived, all shorter ones survived too. `None` when the server cannot help.
    pub fn lifetime(&self) -> Option<Duration> {
        let mut longest = None;
        for silence in &self.silences {
            match silence.state {
                State::Alive => longest = Some(silence.wait),
                State::Dead => return Some(longest.unwrap_or(SHORTEST_LIFETIME)),
                _ => {}
            }
        }
        longest
    }
}
