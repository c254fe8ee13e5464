//! An attempt's way over relays: what stands until a direct path does, and behind it.

use std::time::{Duration, Instant};

use punch_signal_protocol::{Credentials, RelayToken};
use punch_stun_protocol::Message;
use punch_traversal::{LinkCheck, LinkHealth, Loss, Traffic};

use super::links::CheckedLinks;
use crate::ServerId;
use crate::path::{Path, RelayPath};

/// Links of one attempt, one of each server, that are kept: the others are left.
const MAX_LINKS: usize = 4;
/// Servers are asked again for a link that was lost after this, then at doubled intervals up to [`REJOIN_MAX`].
const REJOIN: Duration = Duration::from_secs(30);
const REJOIN_MAX: Duration = Duration::from_secs(300);

/// What the links of an attempt are made from.
#[derive(Debug)]
pub(crate) struct RelayedConfig {
    /// Both ends know it by their exchange.
    pub(super) token: RelayToken,
    /// Whether both ends have agreed to be reached over relays.
    pub(super) agreed: bool,
    /// This end's, and the other's.
    pub(super) credentials: [Credentials; 2],
    pub(super) seed: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Relayed {
    config: RelayedConfig,
    joined: bool,
    links: CheckedLinks<RelayPath>,
    /// How many links have stood at once.
    most: usize,
    /// When servers are asked again for links that were lost, and the pause before.
    rejoin: Option<(Instant, Duration)>,
    /// Whether that time has come.
    asks_again: bool,
    /// Whether another link is chosen than at the last [`Self::take_changed`].
    changed: bool,
}

impl Relayed {
    /// No link yet.
    pub(super) fn new(config: RelayedConfig) -> Self {
        Self {
            config,
            joined: false,
            links: CheckedLinks::new(),
            most: 0,
            rejoin: None,
            asks_again: false,
            changed: false,
        }
    }

    pub(super) fn is_agreed(&self) -> bool {
        self.config.agreed
    }

    pub(super) fn token(&self) -> RelayToken {
        self.config.token
    }

    /// The link that serves, or would.
    pub(super) fn path(&self) -> Option<RelayPath> {
        self.links.chosen()
    }

    /// The round trip of the link that serves, or would.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.links.serving()?.round_trip()
    }

    /// The loss on the link that serves, or would.
    pub(super) fn loss(&self, now: Instant) -> Option<Loss> {
        self.links.serving()?.loss(now)
    }

    /// What checks have shown of a link, if it still stands.
    pub(super) fn health(&self, path: RelayPath) -> Option<LinkHealth> {
        self.links.get(path).map(LinkCheck::health)
    }

    /// The token, and the servers that need not be asked for a link with it, if the others are to be asked now.
    pub(super) fn join(&mut self) -> Option<(RelayToken, Vec<ServerId>)> {
        let again = std::mem::take(&mut self.asks_again);
        let first = !std::mem::replace(&mut self.joined, true);
        let linked = self.links.paths().map(|path| path.server);
        let wanted = self.config.agreed && (first || again);
        wanted.then(|| (self.config.token, linked.collect()))
    }

    // --- what comes in ---

    /// A server has made a link; returns whether it is kept.
    pub(super) fn handle_ready(&mut self, path: RelayPath, now: Instant) -> bool {
        if !self.config.agreed || !self.joined || self.links.len() >= MAX_LINKS {
            return false;
        }
        let seed = self.config.seed.wrapping_add(u64::from(path.server.0));
        let stand_in = Path::Relayed(path).origin();
        let check = LinkCheck::new(self.config.credentials.clone(), stand_in, seed, now);
        self.links.add(path, check);
        if self.links.len() >= self.most {
            (self.most, self.rejoin) = (self.links.len(), None);
        }
        self.choose(now);
        true
    }

    /// Links have ended; returns whether one of these was among them.
    pub(super) fn handle_gone(
        &mut self,
        is_gone: impl Fn(RelayPath) -> bool,
        now: Instant,
    ) -> bool {
        let gone = self.links.retain(|path, _| !is_gone(path));
        self.handle_lost(&gone, now);
        !gone.is_empty()
    }

    /// A packet of the peer's has come over a link, opened by its session's keys.
    pub(super) fn handle_heard(&mut self, path: RelayPath, now: Instant) {
        self.links.handle_heard(path, now);
    }

    /// No relay is used any more; returns the links that are to be left.
    pub(super) fn forbid(&mut self, now: Instant) -> Vec<RelayPath> {
        self.config.agreed = false;
        let links = self.links.retain(|_, _| false);
        self.choose(now);
        links
    }

    /// A check or an answer has come over a link; returns whether it is one of these.
    pub(super) fn handle_message(
        &mut self,
        path: RelayPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let taken = self.links.handle_message(path, message, now);
        self.choose(now);
        taken.is_some()
    }

    /// Packets of the tunnel go over the link that serves: so many bytes by now.
    pub(super) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        self.links.handle_traffic(traffic, now);
    }

    /// What was known of the links may be so no longer: they are checked now, and none counts as answering until it has.
    pub(super) fn verify(&mut self, now: Instant) {
        self.links.verify(now);
        self.choose(now);
    }

    /// Whether the link that serves, or would, answers.
    pub(super) fn answers(&self) -> bool {
        let serving = self.links.serving();
        serving.is_some_and(|check| check.health() == LinkHealth::Answers)
    }

    /// Whether the last checks of the link that serves, or would, were not answered.
    pub(super) fn is_silent(&self) -> bool {
        let serving = self.links.serving();
        serving.is_some_and(|check| check.health() == LinkHealth::Silent)
    }

    /// Whether a direct path serves now.
    pub(super) fn set_behind(&mut self, behind: bool, now: Instant) {
        self.links.set_behind(behind, now);
    }

    /// Does what is due; returns the links that are dead, which are to be left.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<RelayPath> {
        if let Some((_, pause)) = self.rejoin.filter(|(at, _)| *at <= now) {
            let pause = (2 * pause).min(REJOIN_MAX);
            (self.asks_again, self.rejoin) = (true, Some((now + pause, pause)));
        }
        let dead = self.links.handle_timeout(now);
        self.handle_lost(&dead, now);
        dead
    }

    // --- what goes out ---

    /// The next check or answer, and the link that it goes over.
    pub(super) fn poll_message(&mut self) -> Option<(RelayPath, Vec<u8>)> {
        self.links.poll_message()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let rejoin = self.rejoin.map(|(at, _)| at);
        let checks = self.links.poll_timeout();
        checks.into_iter().chain(rejoin).min()
    }

    /// Whether another link serves, or would, than before.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All links, which are to be left.
    pub(super) fn into_links(self) -> Vec<RelayPath> {
        self.links.paths().collect()
    }

    // --- inside ---

    /// These links have ended: their servers are asked again after a while.
    fn handle_lost(&mut self, links: &[RelayPath], now: Instant) {
        if !links.is_empty() {
            self.rejoin.get_or_insert((now + REJOIN, REJOIN));
        }
        self.choose(now);
    }

    fn choose(&mut self, now: Instant) {
        self.changed |= self.links.choose(|_| true, now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::collections::BTreeMap;

    use punch_signal_protocol::RelayLink;

    use super::*;
    use crate::start::start;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two ends with a link over each of some servers, numbered alike at both.
    struct Rig {
        ends: [Relayed; 2],
        /// How long each server takes from one end to the other; `None` is one that passes nothing on.
        delays: BTreeMap<u32, Option<Duration>>,
        under_way: BTreeMap<(Instant, u64), (usize, RelayPath, Vec<u8>)>,
        passed: u64,
        /// Of so many messages one is lost.
        loses: Option<u64>,
        traffic: Option<Traffic>,
        now: Instant,
    }

    fn link(server: u32) -> RelayPath {
        RelayPath {
            server: ServerId(server),
            link: RelayLink(server),
        }
    }

    impl Rig {
        fn new(delays: &[(u32, Option<u64>)]) -> Self {
            let credentials = [3, 4].map(|byte| Credentials {
                fragment: [byte; 8],
                password: [byte; 32],
            });
            let [one, two] = credentials;
            let end = |credentials: [Credentials; 2], seed| {
                let mut relayed = Relayed::new(RelayedConfig {
                    token: RelayToken([7; 16]),
                    agreed: true,
                    credentials,
                    seed,
                });
                relayed.join();
                relayed
            };
            let mut rig = Self {
                ends: [end([one.clone(), two.clone()], 1), end([two, one], 2)],
                delays: BTreeMap::new(),
                under_way: BTreeMap::new(),
                passed: 0,
                loses: None,
                traffic: None,
                now: start(),
            };
            for (server, delay) in delays {
                rig.delays.insert(*server, delay.map(ms));
                for end in &mut rig.ends {
                    assert!(end.handle_ready(link(*server), rig.now));
                }
            }
            rig
        }

        fn servers(&self) -> [Option<u32>; 2] {
            let server = |end: &Relayed| end.path().map(|path| path.server.0);
            [server(&self.ends[0]), server(&self.ends[1])]
        }

        fn run(&mut self, span: Duration) {
            let end = self.now + span;
            loop {
                for index in [0, 1] {
                    while let Some((path, message)) = self.ends[index].poll_message() {
                        let Some(delay) = self.delays[&path.server.0] else {
                            continue;
                        };
                        self.passed += 1;
                        if self
                            .loses
                            .is_some_and(|one| self.passed.is_multiple_of(one))
                        {
                            continue;
                        }
                        let at = (self.now + delay, self.passed);
                        self.under_way.insert(at, (1 - index, path, message));
                    }
                }
                let arrival = self.under_way.keys().next().map(|(at, _)| *at);
                let due = self.ends.iter().filter_map(Relayed::poll_timeout);
                let tick = self.traffic.map(|_| self.now + ms(20));
                let next = due.chain(arrival).chain(tick).min().unwrap_or(end);
                if next >= end {
                    break;
                }
                self.now = next.max(self.now);
                while let Some(entry) = self.under_way.first_entry() {
                    if entry.key().0 > self.now {
                        break;
                    }
                    let (index, path, bytes) = entry.remove();
                    let message = Message::parse(&bytes).unwrap();
                    // A link that has ended takes nothing.
                    self.ends[index].handle_message(path, &message, self.now);
                }
                if let Some(traffic) = &mut self.traffic {
                    traffic.sent += 1;
                    let serves = self.ends[0].path();
                    let passes = serves.is_some_and(|path| self.delays[&path.server.0].is_some());
                    traffic.received += u64::from(passes);
                    for end in &mut self.ends {
                        end.handle_traffic(*traffic, self.now);
                    }
                }
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
            self.now = end;
        }
    }

    #[test]
    fn the_server_with_the_best_round_trip_serves_and_one_that_is_hardly_better_does_not_take_over()
    {
        let mut rig = Rig::new(&[(1, Some(80)), (2, Some(20)), (3, Some(22))]);
        assert_eq!(rig.servers(), [Some(1), Some(1)], "until more is known");
        rig.run(ms(1000));
        assert_eq!(rig.servers(), [Some(2), Some(2)]);
        assert_eq!(rig.ends[0].round_trip(), Some(ms(40)));
        // It grows slower than the third, but not by much.
        rig.delays.insert(2, Some(ms(26)));
        rig.run(Duration::from_secs(3600));
        assert_eq!(rig.servers(), [Some(2), Some(2)]);
        rig.delays.insert(2, Some(ms(60)));
        rig.run(Duration::from_secs(3600));
        assert_eq!(rig.servers(), [Some(3), Some(3)]);
    }

    #[test]
    fn a_server_that_passes_nothing_on_is_left_within_two_seconds_and_nobody_goes_back_to_it() {
        for moment in 0..30 {
            let mut rig = Rig::new(&[(1, Some(10)), (2, Some(30))]);
            rig.traffic = Some(Traffic::default());
            rig.run(Duration::from_secs(20) + ms(100 * moment));
            assert_eq!(rig.servers(), [Some(1), Some(1)]);
            rig.delays.insert(1, None);
            rig.run(ms(2000));
            assert_eq!(rig.servers(), [Some(2), Some(2)], "{moment}");
            rig.run(Duration::from_secs(60));
            assert_eq!(rig.servers(), [Some(2), Some(2)]);
            assert_eq!(rig.ends[0].links.len(), 1, "the dead one is left");
        }
    }

    #[test]
    fn a_server_that_never_passes_anything_on_does_not_serve_beside_one_that_does() {
        let mut rig = Rig::new(&[(1, None), (2, Some(100))]);
        rig.run(ms(500));
        assert_eq!(rig.servers(), [Some(2), Some(2)]);
    }

    #[test]
    fn the_only_link_is_kept_until_nothing_has_come_for_eight_seconds() {
        let mut rig = Rig::new(&[(1, Some(10))]);
        rig.traffic = Some(Traffic::default());
        rig.run(Duration::from_secs(10));
        // The first check comes within three seconds, the last one of those that are repeated 7.2 s after it.
        rig.delays.insert(1, None);
        rig.run(Duration::from_secs(7));
        rig.delays.insert(1, Some(ms(10)));
        rig.run(Duration::from_secs(8));
        assert_eq!(rig.servers(), [Some(1), Some(1)]);
        rig.delays.insert(1, None);
        rig.run(Duration::from_secs(13));
        assert_eq!(rig.servers(), [None, None]);
        assert!(rig.ends.iter_mut().all(Relayed::take_changed));
    }

    #[test]
    fn the_loss_on_a_link_is_that_of_its_latest_checks() {
        let mut rig = Rig::new(&[(1, Some(10))]);
        rig.run(ms(500));
        assert_eq!(rig.ends[0].loss(rig.now), None, "too few");
        rig.traffic = Some(Traffic::default());
        rig.run(Duration::from_secs(300));
        let loss = rig.ends[0].loss(rig.now).unwrap();
        assert!(loss.lost == 0 && loss.samples >= 90, "{loss:?}");
        rig.loses = Some(10);
        rig.run(Duration::from_secs(660));
        let loss = rig.ends[0].loss(rig.now).unwrap();
        let part = f64::from(loss.lost) / f64::from(loss.samples);
        // A tenth of the checks is lost, and a tenth of the answers to the others.
        assert!((0.1..0.3).contains(&part), "{loss:?}");
        assert_eq!(rig.servers(), [Some(1), Some(1)]);
        rig.loses = None;
        rig.run(Duration::from_secs(660));
        assert_eq!(rig.ends[0].loss(rig.now).unwrap().lost, 0);
    }

    #[test]
    fn a_server_whose_link_is_lost_is_asked_again_less_and_less_often_and_the_others_are_not() {
        let mut rig = Rig::new(&[(1, Some(10)), (2, Some(30))]);
        rig.run(ms(500));
        let lost = rig.ends[0].handle_gone(|path| path == link(1), rig.now);
        assert!(lost && rig.ends[0].join().is_none());
        let began = rig.now;
        let mut asked = Vec::new();
        for second in 0..1000 {
            let now = began + Duration::from_secs(second);
            rig.ends[0].handle_timeout(now);
            // The rig does not run: the other link has no answers, and ends.
            if let Some((_, linked)) = rig.ends[0].join() {
                assert!(!linked.contains(&ServerId(1)));
                asked.push(second);
            }
        }
        assert_eq!(asked, [30, 90, 210, 450, 750]);
        for server in [1, 2] {
            assert!(rig.ends[0].handle_ready(link(server), began + Duration::from_secs(1000)));
        }
        assert_eq!(rig.ends[0].rejoin, None);
    }

    #[test]
    fn a_link_over_which_packets_come_is_alive_although_answers_are_late() {
        for packets in [true, false] {
            let mut rig = Rig::new(&[(1, Some(10)), (2, Some(30))]);
            rig.traffic = Some(Traffic::default());
            rig.run(Duration::from_secs(20));
            // Five seconds of this end's own packets wait at its uplink.
            rig.delays.insert(1, Some(ms(5000)));
            for _ in 0..200 {
                rig.run(ms(50));
                if packets {
                    for end in &mut rig.ends {
                        end.handle_heard(link(1), rig.now);
                    }
                }
                let stays = rig.servers() == [Some(1), Some(1)];
                assert!(stays || !packets);
            }
            assert_eq!(rig.servers() == [Some(1), Some(1)], packets);
        }
    }

    #[test]
    fn behind_a_direct_path_nothing_is_sent_and_what_takes_over_is_checked_at_once() {
        let mut rig = Rig::new(&[(1, Some(10)), (2, Some(30))]);
        rig.run(ms(500));
        for end in &mut rig.ends {
            end.set_behind(true, rig.now);
        }
        rig.run(Duration::from_secs(60));
        let passed = rig.passed;
        rig.run(Duration::from_secs(86_400));
        assert_eq!(rig.passed, passed);
        rig.delays.insert(1, None);
        for end in &mut rig.ends {
            end.set_behind(false, rig.now);
        }
        rig.run(ms(1500));
        assert_eq!(rig.servers(), [Some(2), Some(2)]);
    }

    #[test]
    fn what_is_not_the_peers_gets_no_answer() {
        let mut rig = Rig::new(&[(1, Some(10))]);
        rig.run(ms(500));
        let (sent, _) = (rig.ends[0].poll_message(), ());
        assert!(sent.is_none());
        let forged = punch_stun_protocol::Writer::new(
            punch_stun_protocol::Class::Request,
            punch_stun_protocol::TransactionId([9; 12]),
        )
        .username(b"nobody:nobody")
        .finish_with_integrity(&[9; 32]);
        let message = Message::parse(&forged).unwrap();
        assert!(rig.ends[0].handle_message(link(1), &message, rig.now));
        assert!(!rig.ends[0].handle_message(link(2), &message, rig.now));
        assert!(rig.ends[0].poll_message().is_none());
    }
}
