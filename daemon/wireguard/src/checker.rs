//! What stands before every handshake message: the right length, the right MAC, and under load a cookie (§5.3, §5.4.4, §5.4.7), by
//! boringtun's rate limiter. Nothing here costs more than hashing a hundred bytes.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest};
use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;

use crate::job::HandshakeJob;
use crate::keys::LocalKeys;
use crate::message::{
    COOKIE_REPLY, COOKIE_REPLY_LENGTH, INITIATION, INITIATION_LENGTH, Initiation, RESPONSE,
    RESPONSE_LENGTH, index_at, session_of,
};

/// Handshake messages per second before senders must prove their address with a cookie: each costs an eighth of a millisecond
/// or more on another thread.
const MESSAGES_PER_SECOND: u32 = 400;
/// Cookies per second for known endpoints, and as many for all others: each costs as much as ten packets, and a flood with a
/// right MAC takes nothing but this machine's public key.
const COOKIES_PER_SECOND: u32 = 400;
/// Under load, messages per second of one address (of one /64) that has proven itself, so that this address alone does not fill
/// the rest.
const PROVEN_PER_SECOND: u32 = 20;
/// Cookies are made with one secret for so long (§5.4.7).
const COOKIE_LIFE: Duration = Duration::from_secs(120);

/// What the checker says to a datagram.
#[derive(Debug)]
pub enum Checked {
    /// Somebody asks for new keys.
    Initiation(Box<[u8; INITIATION_LENGTH]>),
    /// A response or a cookie for the session with this number.
    For(u32),
    /// Under load: send this back.
    Cookie(Vec<u8>),
    /// Under such a load that nothing is done for the datagram.
    Overload,
    /// Not WireGuard, or not for this machine.
    Refused,
}

/// Checks handshake messages before anything is computed for them.
pub struct CookieChecker {
    own: Arc<LocalKeys>,
    /// Asks for a cookie always; replaced with its secret when cookies made with that have become too old.
    strict: Option<(RateLimiter, Instant)>,
    second: Second,
}

/// What has been counted in the second that began at `since`.
#[derive(Default)]
struct Second {
    since: Option<Instant>,
    messages: u32,
    /// Cookies for unknown endpoints, and for known ones.
    cookies: [u32; 2],
    /// Messages of addresses that have proven themselves.
    proven: HashMap<IpAddr, u32>,
}

impl Second {
    fn advance(&mut self, now: Instant) {
        let running =
            |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !self.since.is_some_and(running) {
            self.since = Some(now);
            self.messages = 0;
            self.cookies = [0; 2];
            self.proven.clear();
        }
    }
}

impl CookieChecker {
    /// A checker of messages to this machine.
    pub fn new(own: Arc<LocalKeys>) -> Self {
        Self {
            own,
            strict: None,
            second: Second::default(),
        }
    }

    /// Looks at a datagram that is neither data nor STUN; `known` says that a peer has its path there.
    pub fn check(
        &mut self,
        from: SocketAddr,
        known: bool,
        datagram: &[u8],
        now: Instant,
    ) -> Checked {
        let Some([kind, 0, 0, 0]) = datagram.first_chunk() else {
            return Checked::Refused;
        };
        match (*kind, datagram.len()) {
            (INITIATION, INITIATION_LENGTH) | (RESPONSE, RESPONSE_LENGTH) => {}
            (COOKIE_REPLY, COOKIE_REPLY_LENGTH) => {
                return Checked::For(session_of(index_at(datagram, 4)));
            }
            _ => return Checked::Refused,
        }
        self.second.advance(now);
        if self.second.cookies[usize::from(known)] >= COOKIES_PER_SECOND {
            return Checked::Overload;
        }
        if self
            .own
            .limiter
            .verify_packet(None, datagram, &mut [])
            .is_err()
        {
            return Checked::Refused;
        }
        self.second.messages = self.second.messages.saturating_add(1);
        if self.second.messages > MESSAGES_PER_SECOND
            && let Some(instead) = self.check_cookie(from, known, datagram, now)
        {
            return instead;
        }
        if *kind == RESPONSE {
            return Checked::For(session_of(index_at(datagram, 8)));
        }
        datagram.try_into().map_or(Checked::Refused, |message| {
            Checked::Initiation(Box::new(message))
        })
    }

    /// What is said under load instead of letting the message pass; `None` lets it pass.
    fn check_cookie(
        &mut self,
        from: SocketAddr,
        known: bool,
        datagram: &[u8],
        now: Instant,
    ) -> Option<Checked> {
        let good = |since: &Instant| now.saturating_duration_since(*since) < COOKIE_LIFE;
        if !self.strict.as_ref().is_some_and(|(_, since)| good(since)) {
            self.strict = Some((RateLimiter::new(&self.own.public, 0), now));
        }
        let (limiter, _) = self.strict.as_ref()?;
        let mut reply = [0; COOKIE_REPLY_LENGTH];
        match limiter.verify_packet(Some(cookie_address(from)), datagram, &mut reply) {
            Ok(_) => {
                // As many addresses as have a cookie, each of which was sent: 800 in a second, and those of two minutes before.
                let proven = self.second.proven.entry(network(from.ip())).or_default();
                *proven += 1;
                (*proven > PROVEN_PER_SECOND).then_some(Checked::Overload)
            }
            Err(TunnResult::WriteToNetwork(reply)) => {
                self.second.cookies[usize::from(known)] += 1;
                Some(Checked::Cookie(reply.to_vec()))
            }
            Err(_) => Some(Checked::Refused),
        }
    }

    /// The job of finding out who has sent an initiation; what is sent for it goes to `reply_to`.
    pub fn identify<R>(&self, message: Box<Initiation>, reply_to: R) -> HandshakeJob<R> {
        HandshakeJob::identify(self.own.clone(), message, reply_to)
    }
}

impl fmt::Debug for CookieChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieChecker").finish_non_exhaustive()
    }
}

/// A cookie is for an address and port (§5.4.7), and boringtun makes it for an address: this stands for both.
fn cookie_address(from: SocketAddr) -> IpAddr {
    let mut hash = Blake2s256::new();
    match from.ip() {
        IpAddr::V4(ip) => hash.update(ip.octets()),
        IpAddr::V6(ip) => hash.update(ip.octets()),
    }
    hash.update(from.port().to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut address = [0; 16];
    address.copy_from_slice(&digest[..16]);
    Ipv6Addr::from(address).into()
}

/// The network that an address stands for: whoever has one address of an IPv6 /64 has all of them.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
