//! What stands before every handshake message: right length, right MAC, and under load a cookie (WireGuard paper §5.3, §5.4.4,
//! §5.4.7). Nothing here costs more than hashing a hundred bytes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use punch_signal_protocol::Identity;
use rand_core::RngCore;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::handshake::{Origin, Seed, Task, Work};
use super::{COOKIE_REPLY, INITIATION, RESPONSE};

pub(super) const INITIATION_LENGTH: usize = 148;
pub(super) const RESPONSE_LENGTH: usize = 92;
pub(super) const COOKIE_LENGTH: usize = 64;
/// Both MACs at the end of a handshake message.
pub(super) const MACS: usize = 32;

/// Handshake messages per second before senders must prove their address with a cookie: each costs an eighth of a millisecond
/// or more, beside the packets.
const MESSAGES_PER_SECOND: u32 = 400;
/// Cookies per second for those whom we know, and as many for all others: each costs as much as ten packets, and a flood with a right
/// MAC takes nothing but our public key.
const COOKIES_PER_SECOND: u32 = 400;
/// Under load, messages per second of one address (of one /64) that has proven itself: that one alone must not fill the rest.
const PROVEN_PER_SECOND: u32 = 20;
/// Cookies are made with one secret for so long, and are good for as long (§5.4.7).
pub(super) const COOKIE_LIFE: Duration = Duration::from_secs(120);

pub(super) type Mac = [u8; 16];

/// What is made of an end's public key: who knows it can speak to that end at all.
pub(super) struct Labels {
    mac: [u8; 32],
    cookie: [u8; 32],
}

impl Labels {
    pub(super) fn new(public: &[u8; 32]) -> Self {
        let hash = |label: &[u8]| {
            Blake2s256::new()
                .chain(label)
                .chain(public)
                .finalize()
                .into()
        };
        Self {
            mac: hash(b"mac1----"),
            cookie: hash(b"cookie--"),
        }
    }

    /// Writes both MACs of a message to this end to its last 32 bytes; returns the first.
    pub(super) fn sign(&self, message: &mut [u8], cookie: Option<&Mac>) -> Mac {
        let first = message.len() - MACS;
        let mac1 = mac(&self.mac, &[&message[..first]]);
        message[first..first + 16].copy_from_slice(&mac1);
        let mac2 = cookie.map_or([0; 16], |cookie| mac(cookie, &[&message[..first + 16]]));
        message[first + 16..].copy_from_slice(&mac2);
        mac1
    }

    /// The cookie in a reply of this end to a message with this MAC.
    pub(super) fn open_cookie(&self, reply: &[u8], mac1: &Mac) -> Option<Mac> {
        let reply: &[u8; COOKIE_LENGTH] = reply.try_into().ok()?;
        let mut cookie: Mac = *reply[32..].first_chunk()?;
        let tag = Tag::from_slice(&reply[48..]);
        XChaCha20Poly1305::new(Key::from_slice(&self.cookie))
            .decrypt_in_place_detached(XNonce::from_slice(&reply[8..32]), mac1, &mut cookie, tag)
            .ok()?;
        Some(cookie)
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    // A key of at most 32 bytes is never refused.
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else {
        return [0; 16];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// This end's keys, for those who do the arithmetic.
pub(super) struct Own {
    pub(super) secret: Zeroizing<[u8; 32]>,
    labels: Labels,
}

/// What the gate says to a datagram.
pub(crate) enum Admission {
    /// Somebody asks for new keys.
    Initiation(Box<[u8; INITIATION_LENGTH]>),
    /// An answer, or a cookie, for the session with this index.
    For(u32),
    /// Under load: send this back.
    Cookie(Vec<u8>),
    /// Under such a load that nothing is done for it.
    Overload,
    /// Not WireGuard, or not for us.
    Refused,
}

pub(crate) struct Gate {
    pub(super) own: Arc<Own>,
    secret: Zeroizing<[u8; 32]>,
    secret_since: Option<Instant>,
    /// Messages in the second that began then, and cookies to those whom we know and to others.
    count: u32,
    cookies: [u32; 2],
    proven: HashMap<IpAddr, u32>,
    counted_since: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self {
            own: Arc::new(Own {
                secret: Zeroizing::new(identity.x25519_secret().to_bytes()),
                labels: Labels::new(identity.id().x25519()),
            }),
            secret: Zeroizing::default(),
            secret_since: None,
            count: 0,
            cookies: [0; 2],
            proven: HashMap::new(),
            counted_since: None,
        }
    }

    /// Looks at what is neither data nor STUN; `known` says that a peer has its path there.
    pub(crate) fn admit(
        &mut self,
        from: SocketAddr,
        known: bool,
        datagram: &[u8],
        rng: &mut impl RngCore,
        now: Instant,
    ) -> Admission {
        let Some([kind, 0, 0, 0]) = datagram.first_chunk() else {
            return Admission::Refused;
        };
        let receiver = match (*kind, datagram.len()) {
            (INITIATION, INITIATION_LENGTH) => None,
            (RESPONSE, RESPONSE_LENGTH) => datagram[8..].first_chunk(),
            (COOKIE_REPLY, COOKIE_LENGTH) => {
                let receiver = datagram[4..].first_chunk().map(|bytes| index(*bytes));
                return receiver.map_or(Admission::Refused, Admission::For);
            }
            _ => return Admission::Refused,
        };
        self.count(now);
        let cookies = usize::from(known);
        if self.cookies[cookies] >= COOKIES_PER_SECOND {
            return Admission::Overload;
        }
        let (signed, mac2) = datagram.split_at(datagram.len() - 16);
        let (body, mac1) = signed.split_at(signed.len() - 16);
        if !bool::from(mac(&self.own.labels.mac, &[body]).ct_eq(mac1)) {
            return Admission::Refused;
        }
        self.count = self.count.saturating_add(1);
        if self.count > MESSAGES_PER_SECOND {
            let cookie = self.cookie(from, rng, now);
            if !bool::from(mac(&cookie, &[signed]).ct_eq(mac2)) {
                self.cookies[cookies] += 1;
                return Admission::Cookie(self.cookie_reply(datagram, mac1, cookie, rng));
            }
            // As many addresses as have a cookie, each of which was sent: 800 in a second, and those of two minutes before.
            let proven = self.proven.entry(network(from.ip())).or_default();
            *proven += 1;
            if *proven > PROVEN_PER_SECOND {
                return Admission::Overload;
            }
        }
        match receiver {
            Some(receiver) => Admission::For(index(*receiver)),
            None => datagram.try_into().map_or(Admission::Refused, |message| {
                Admission::Initiation(Box::new(message))
            }),
        }
    }

    /// The work of finding out who sends an initiation.
    pub(crate) fn identify(
        &self,
        message: Box<[u8; INITIATION_LENGTH]>,
        origin: Origin,
        seed: Seed,
    ) -> Work {
        Work::new(&self.own, seed, Task::Identify { origin, message })
    }

    /// Begins to count again each second.
    fn count(&mut self, now: Instant) {
        let running =
            |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !self.counted_since.is_some_and(running) {
            self.counted_since = Some(now);
            self.count = 0;
            self.cookies = [0; 2];
            self.proven.clear();
        }
    }

    fn cookie(&mut self, from: SocketAddr, rng: &mut impl RngCore, now: Instant) -> Mac {
        let good = |since: Instant| now.saturating_duration_since(since) < COOKIE_LIFE;
        if !self.secret_since.is_some_and(good) {
            rng.fill_bytes(&mut *self.secret);
            self.secret_since = Some(now);
        }
        let port = from.port().to_be_bytes();
        match from.ip() {
            IpAddr::V4(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
        }
    }

    /// Shorter than what it answers.
    fn cookie_reply(
        &self,
        message: &[u8],
        mac1: &[u8],
        mut cookie: Mac,
        rng: &mut impl RngCore,
    ) -> Vec<u8> {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&self.own.labels.cookie));
        let sealed =
            cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut cookie);
        let Ok(tag) = sealed else { return Vec::new() };
        let sender = &message[4..8];
        [&[COOKIE_REPLY, 0, 0, 0], sender, &nonce, &cookie, &tag].concat()
    }
}

/// Whoever has one address of an IPv6 network of this length has all.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// A session's index is in the upper 24 bits of those of its keys.
fn index(receiver: [u8; 4]) -> u32 {
    u32::from_le_bytes(receiver) >> 8
}
