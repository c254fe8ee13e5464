//! How often one source is answered: token buckets in a bounded table.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Sources remembered; about 4 MiB.
const MAX_SOURCES: usize = 65_536;
/// A bucket holds this many seconds' worth of answers.
const BURST: u32 = 2;

/// Token buckets by source address; an IPv6 /64 is one source.
pub(crate) struct Limiter {
    rate: u32,
    buckets: HashMap<IpAddr, (f64, Instant)>,
    swept: Option<Instant>,
}

impl Limiter {
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
            swept: None,
        }
    }

    /// Whether one more answer to `source` is allowed. When the table is full of busy sources, new ones are not answered.
    pub(crate) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        let full = f64::from(self.rate * BURST);
        let rate = f64::from(self.rate);
        let source = subnet(source);
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&source) {
            // A bucket that is full again says nothing any more. Looking for those costs a millisecond: not for every datagram.
            let refilled = Duration::from_secs(u64::from(BURST));
            let lately = |swept: Instant| now.saturating_duration_since(swept) < refilled;
            if self.swept.is_some_and(lately) {
                return false;
            }
            self.swept = Some(now);
            self.buckets
                .retain(|_, (_, last)| now.saturating_duration_since(*last) < refilled);
            if self.buckets.len() >= MAX_SOURCES {
                return false;
            }
        }
        let (tokens, last) = self.buckets.entry(source).or_insert((full, now));
        let gained = now.saturating_duration_since(*last).as_secs_f64() * rate;
        *tokens = (*tokens + gained).min(full);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

/// The source that an address belongs to.
pub(crate) fn subnet(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_answered_up_to_its_rate_and_again_later() {
        let start = Instant::now();
        let mut limiter = Limiter::new(10);
        let source = IpAddr::from([192, 0, 2, 1]);
        let admitted = (0..100).filter(|_| limiter.admits(source, start)).count();
        assert_eq!(admitted, 20);
        let later = start + Duration::from_secs(1);
        let admitted = (0..100).filter(|_| limiter.admits(source, later)).count();
        assert_eq!(admitted, 10);
    }

    #[test]
    fn one_busy_source_takes_nothing_from_another() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1);
        let busy = IpAddr::from([192, 0, 2, 1]);
        while limiter.admits(busy, now) {}
        assert!(limiter.admits(IpAddr::from([192, 0, 2, 2]), now));
    }

    #[test]
    fn an_ipv6_subnet_is_one_source() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1);
        let address = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        assert!(limiter.admits(address(1), now));
        assert!(limiter.admits(address(2), now));
        assert!(!limiter.admits(address(3), now));
    }

    #[test]
    fn the_table_is_bounded_and_recovers() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1);
        for n in 0..=MAX_SOURCES as u32 {
            limiter.admits(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(limiter.buckets.len(), MAX_SOURCES);
        let fresh = IpAddr::from([255, 255, 255, 255]);
        assert!(!limiter.admits(fresh, now));
        assert!(limiter.admits(fresh, now + Duration::from_secs(3)));
    }
}
