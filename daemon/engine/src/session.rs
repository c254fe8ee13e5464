//! One WireGuard session with one peer. This is the only file that knows boringtun, so that a patched or another core can
//! take its place.
//!
//! boringtun reads the clock and the operating system's random source itself, and panics when a destination buffer is too
//! small: buffers are sized here from the datagram's own length, never from what is expected.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use punch_packet::{Batch, Buffer};
use punch_signal_protocol::Identity;

/// WireGuard's overhead for a data packet: type, receiver, counter, tag.
pub(crate) const OVERHEAD: usize = 32;
const HANDSHAKE_LENGTH: usize = 148;
/// The first byte of a cookie reply.
pub(crate) const COOKIE_REPLY: u8 = 3;
/// Handshake messages per second before senders must prove their address with a cookie (each costs a quarter of a
/// millisecond, so this is a twentieth of a core; every message is counted twice, here and in its session).
const HANDSHAKES_PER_SECOND: u64 = 400;

/// What kind of WireGuard message a datagram is, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// A handshake initiation from the holder of this key.
    Initiation { public: [u8; 32] },
    /// A handshake's answer or a cookie, for the session with this index.
    For { index: u32 },
}

/// What the gate says to a datagram.
pub(crate) enum Admission {
    Admitted(Message),
    /// Under load: send this cookie back.
    Cookie(Vec<u8>),
    /// Not WireGuard, not for us, or not authentic.
    Refused,
}

/// Keys and the rate limit that all sessions share.
pub(crate) struct Gate {
    secret: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Gate {
    pub(crate) fn new(identity: &Identity) -> Self {
        let secret = StaticSecret::from(identity.x25519_secret().to_bytes());
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        Self {
            secret,
            public,
            limiter,
        }
    }

    /// To be called every second or so.
    pub(crate) fn handle_timeout(&self) {
        self.limiter.reset_count();
    }

    /// Looks at a handshake message before anything expensive is done for it.
    pub(crate) fn admit(&self, from: IpAddr, datagram: &[u8]) -> Admission {
        let mut cookie = [0; HANDSHAKE_LENGTH];
        match self
            .limiter
            .verify_packet(Some(from), datagram, &mut cookie)
        {
            Ok(Packet::HandshakeInit(init)) => {
                match parse_handshake_anon(&self.secret, &self.public, &init) {
                    Ok(half) => Admission::Admitted(Message::Initiation {
                        public: half.peer_static_public,
                    }),
                    Err(_) => Admission::Refused,
                }
            }
            Ok(Packet::HandshakeResponse(response)) => Admission::Admitted(Message::For {
                index: response.receiver_idx >> 8,
            }),
            Ok(Packet::PacketCookieReply(reply)) => Admission::Admitted(Message::For {
                index: reply.receiver_idx >> 8,
            }),
            Ok(Packet::PacketData(_)) | Err(TunnResult::Err(_)) => Admission::Refused,
            Err(TunnResult::WriteToNetwork(reply)) => Admission::Cookie(reply.to_vec()),
            Err(_) => Admission::Refused,
        }
    }
}

/// What came of a handshake message.
pub(crate) enum Opened<'a> {
    /// A handshake message, or the keepalive that confirms one, to be sent back.
    Reply(&'a [u8]),
    /// Authentic, and nothing to do.
    Nothing,
    /// Not authentic, replayed, or for keys that are gone.
    Refused,
}

/// What came of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenedData {
    /// There was a packet in it.
    Packet,
    /// Authentic, and empty.
    Keepalive,
    /// Not authentic, replayed, or for keys that are gone.
    Refused,
}

/// The receiver's index of a data message (type 4, three zero bytes; receiver, counter, then at least a tag).
pub(crate) fn data_index(datagram: &[u8]) -> Option<u32> {
    let header: &[u8; 8] = datagram.first_chunk()?;
    let [4, 0, 0, 0, receiver @ ..] = header else {
        return None;
    };
    (datagram.len() >= OVERHEAD).then(|| u32::from_le_bytes(*receiver) >> 8)
}

pub(crate) struct Session {
    tunn: Tunn,
    index: u32,
    received: bool,
}

impl Session {
    /// `index` has 24 bits; the other end sends it back in every message.
    pub(crate) fn new(
        gate: &Gate,
        peer: &[u8; 32],
        preshared: Option<[u8; 32]>,
        keepalive: Option<u16>,
        index: u32,
    ) -> Self {
        let tunn = Tunn::new(
            gate.secret.clone(),
            PublicKey::from(*peer),
            preshared,
            keepalive,
            index,
            Some(gate.limiter.clone()),
        );
        Self {
            tunn,
            index,
            received: false,
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether a handshake has been completed and not expired.
    pub(crate) fn established(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Whether anything authentic has come through this session's keys.
    pub(crate) fn has_received(&self) -> bool {
        self.received
    }

    pub(crate) fn since_handshake(&self) -> Option<std::time::Duration> {
        self.tunn.time_since_last_handshake()
    }

    /// Appends the sealed packet to `out`; without keys the packet waits and a handshake is appended instead, if none is
    /// under way. Returns the number of bytes appended.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut Buffer) -> usize {
        let room = (packet.len() + OVERHEAD).max(HANDSHAKE_LENGTH);
        out.append_with(room, |slot| written(self.tunn.encapsulate(packet, slot)))
    }

    /// Starts a handshake now, whatever is under way.
    pub(crate) fn initiate(&mut self, out: &mut Buffer) -> usize {
        out.append_with(HANDSHAKE_LENGTH, |slot| {
            written(self.tunn.format_handshake_initiation(slot, true))
        })
    }

    /// Keepalives, rekeys and retries; to be called every quarter of a second.
    pub(crate) fn handle_timeout(&mut self, out: &mut Buffer) -> usize {
        out.append_with(HANDSHAKE_LENGTH, |slot| {
            written(self.tunn.update_timers(slot))
        })
    }

    /// Appends the next packet that waited for keys.
    pub(crate) fn seal_waiting(&mut self, out: &mut Buffer) -> usize {
        out.append_with(65_535 + OVERHEAD, |slot| {
            written(self.tunn.decapsulate(None, &[], slot))
        })
    }

    /// Opens a data message and appends the packet in it, if there is one.
    pub(crate) fn open_data(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        out: &mut Batch,
    ) -> OpenedData {
        let mut opened = OpenedData::Packet;
        out.push_with(datagram.len(), |slot| {
            match self.tunn.decapsulate(Some(from), datagram, slot) {
                // It stands at the start of the slot.
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    Some(packet.len())
                }
                TunnResult::Done => {
                    opened = OpenedData::Keepalive;
                    None
                }
                TunnResult::WriteToNetwork(_) | TunnResult::Err(_) => {
                    opened = OpenedData::Refused;
                    None
                }
            }
        });
        self.received |= opened != OpenedData::Refused;
        opened
    }

    /// Opens a handshake message that [`Gate::admit`] has admitted for this session.
    pub(crate) fn open<'a>(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> Opened<'a> {
        let room = datagram.len().max(HANDSHAKE_LENGTH);
        if scratch.len() < room {
            scratch.resize(room, 0);
        }
        match self.tunn.decapsulate(Some(from), datagram, scratch) {
            // The gate sends cookies; one from here is the answer to something that nobody has authenticated.
            TunnResult::WriteToNetwork(reply) if reply.first() == Some(&COOKIE_REPLY) => {
                Opened::Refused
            }
            TunnResult::WriteToNetwork(reply) => Opened::Reply(reply),
            TunnResult::Done => Opened::Nothing,
            TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..)
            | TunnResult::Err(_) => Opened::Refused,
        }
    }
}

/// boringtun writes at the start of the buffer that it is given.
fn written(result: TunnResult<'_>) -> usize {
    match result {
        TunnResult::WriteToNetwork(bytes) => bytes.len(),
        _ => 0,
    }
}
