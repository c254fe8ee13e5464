//! Invitations of this machine, and those that it follows: who may ask for what, how long a code lives, and who is answered what. None of
//! them outlasts punchd, and no code is written anywhere.

mod one;

use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_api::{
    ApiError, ErrorCode, ForwardKey, InvitationView, Invite, Join, PairingRole, PairingStage,
    PairingView, PeerId, PeerName, Protocol, Secret, ServerAddress, ServerKind,
};
use punch_platform::clock;
use punch_signal_protocol::Identity;
use punch_signal_protocol::pairing::{
    Code, CodeError, MAX_SHARES, OfferedServer, Reply, Share, TurnedAway, Welcome, Words,
};
use punch_state::pairing::{self, Terms};
use punch_state::{Machine, Refusal, State, server};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use zeroize::Zeroizing;

use self::one::{Found, Pairing};
use super::request::{Answer, PairingAsk};
use super::servers::Servers;
use crate::signalling::pairing::{Errand, Met, Part, What, run};
use crate::signalling::server::Access;
use crate::tasks::Spawner;

/// So many may be open at once; each has a connection with every server.
const MAX_OPEN: usize = 8;
/// So many are remembered, with those that are over, and may still answer: the DHT serves no more identities beside this machine's own.
const MAX_KNOWN: usize = punch_dht::MAX_ATTACHED - 1;
/// The seconds for which a code can be used.
const EXPIRES_S: std::ops::RangeInclusive<u64> = 10..=86_400;
/// The seconds for which an inviter is looked for.
const WAIT_S: std::ops::RangeInclusive<u64> = 5..=3600;

/// What an invitation is checked against.
pub(super) struct Ground<'a> {
    pub(super) state: &'a State,
    pub(super) machine: &'a Machine,
    /// The channels by which the other machine may be found.
    pub(super) servers: &'a Servers,
}

/// Two machines that have met, and are to become peers.
pub(super) struct Meeting {
    number: u32,
    pub(super) id: PeerId,
    /// The name that the other one proposes.
    pub(super) proposed: String,
    pub(super) terms: Terms,
    /// Where the newcomer's answer goes.
    answer: Option<oneshot::Sender<Reply>>,
}

/// See the module.
pub(super) struct Pairings {
    list: Vec<Pairing>,
    last: u32,
    own: Identity,
    turn: Arc<Semaphore>,
    again: Arc<Notify>,
    tell: mpsc::Sender<Met>,
    met: mpsc::Receiver<Met>,
    spawner: Spawner,
}

impl Pairings {
    pub(super) fn new(own: &Identity, spawner: &Spawner) -> Self {
        let (tell, met) = mpsc::channel(64);
        Self {
            list: Vec::new(),
            last: 0,
            own: own.clone(),
            turn: Arc::new(Semaphore::new(1)),
            again: Arc::new(Notify::new()),
            tell,
            met,
            spawner: spawner.clone(),
        }
    }

    /// Waits until something happens in one of them. Nothing is lost if the wait is given up.
    pub(super) async fn met(&mut self) -> Met {
        match self.met.recv().await {
            Some(met) => met,
            // One sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// The network has changed.
    pub(super) fn restart(&self) {
        self.again.notify_waiters();
    }

    // --- requests ---

    pub(super) fn handle(&mut self, ask: PairingAsk, ground: &Ground<'_>) {
        match ask {
            PairingAsk::Invite(ask, answer) => reply(answer, self.invite(ask, ground)),
            PairingAsk::Join(ask, answer) => reply(answer, self.join(ask, ground)),
            PairingAsk::List(answer) => {
                let views = self.list.iter().map(Pairing::view);
                reply(answer, Ok(views.collect()));
            }
            PairingAsk::Look(number, answer) => {
                reply(answer, self.find(number).map(|known| known.view()));
            }
            PairingAsk::End(number, answer) => reply(answer, self.end(number)),
        }
    }

    fn invite(&mut self, ask: Invite, ground: &Ground<'_>) -> Result<InvitationView, ApiError> {
        let Invite {
            name,
            forwards,
            host,
            expires_s,
        } = ask;
        if !EXPIRES_S.contains(&expires_s) {
            let text = "an invitation lives for 10 seconds at least, and for 24 hours at most";
            return Err(ApiError::invalid(text));
        }
        if forwards.len() > MAX_SHARES {
            let text = format!("{MAX_SHARES} forwards are the most for one invitation");
            return Err(ApiError::invalid(text));
        }
        let terms = Terms {
            name,
            forwards,
            host,
            servers: Vec::new(),
        };
        pairing::check(ground.state, &terms)?;
        let urls = signal_urls(ground);
        if urls.is_empty() && !ground.servers.has_sides() {
            return Err(no_channel());
        }
        let words = choose_words()?;
        let code = Code {
            words: words.clone(),
            server: urls.first().cloned(),
        };
        let number = self.open(
            Start {
                role: PairingRole::Inviter,
                words,
                terms,
                add_servers: false,
                part: Part::Inviter,
                urls,
                lasts: Duration::from_secs(expires_s),
            },
            ground.servers.access(),
        )?;
        Ok(InvitationView {
            code: Secret::new(code.text().to_string()),
            pairing: self.find(number)?.view(),
        })
    }

    fn join(&mut self, ask: Join, ground: &Ground<'_>) -> Result<PairingView, ApiError> {
        let Join {
            code,
            name,
            add_servers,
            wait_s,
        } = ask;
        if !WAIT_S.contains(&wait_s) {
            let text = "the inviter is looked for 5 seconds at least, and for an hour at most";
            return Err(ApiError::invalid(text));
        }
        let code: Code = code.expose().parse().map_err(ApiError::invalid)?;
        let mine = self.list.iter().any(|known| {
            known.role == PairingRole::Inviter && known.is_open() && known.words.is(&code.words)
        });
        if mine {
            return Err(oneself());
        }
        let terms = Terms {
            name,
            ..Terms::default()
        };
        // Typed again, the command of before means the machine that has got the name by it.
        let is_its_name = |known: &Pairing| known.words.is(&code.words) && known.has_named(&terms);
        if !self.list.iter().any(is_its_name) {
            pairing::check(ground.state, &terms)?;
        }
        let mut urls = signal_urls(ground);
        if let Some(server) = &code.server {
            let address = ServerAddress::parse(ServerKind::Signal, server)
                .map_err(|_| ApiError::invalid(CodeError::Server))?;
            if !urls.iter().any(|known| known == address.as_str()) {
                urls.push(address.as_str().to_owned());
            }
        }
        if urls.is_empty() && !ground.servers.has_sides() {
            return Err(no_channel());
        }
        // The same code once more begins anew.
        self.list
            .retain(|known| known.role == PairingRole::Inviter || !known.words.is(&code.words));
        let number = self.open(
            Start {
                role: PairingRole::Newcomer,
                words: code.words,
                terms,
                add_servers,
                part: Part::Newcomer(own_name()),
                urls,
                lasts: Duration::from_secs(wait_s),
            },
            ground.servers.access(),
        )?;
        Ok(self.find(number)?.view())
    }

    fn open(&mut self, start: Start, access: &Access) -> Result<u32, ApiError> {
        if self.list.iter().filter(|known| known.is_open()).count() >= MAX_OPEN {
            return Err(ApiError::conflict(format!(
                "{MAX_OPEN} invitations are the most at once; wait until one is used or over, or end it where it waits with Ctrl-C"
            )));
        }
        while self.list.len() >= MAX_KNOWN {
            let over = self.list.iter().position(|known| !known.is_open());
            self.list.remove(over.unwrap_or_default());
        }
        self.last += 1;
        let errand = Errand {
            number: self.last,
            words: start.words.clone(),
            part: start.part,
            own: self.own.clone(),
            urls: start.urls,
            access: access.clone(),
            spawner: self.spawner.clone(),
            turn: self.turn.clone(),
            again: self.again.clone(),
            tell: self.tell.clone(),
        };
        let lasts_ms = u64::try_from(start.lasts.as_millis()).unwrap_or(u64::MAX);
        self.list.push(Pairing {
            number: self.last,
            role: start.role,
            stage: PairingStage::Preparing,
            words: start.words,
            terms: start.terms,
            add_servers: start.add_servers,
            expires: clock::now() + start.lasts,
            expires_at_ms: clock::wall_ms().saturating_add(lasts_ms),
            used: None,
            found: Found::default(),
            trouble: None,
            task: Some(self.spawner.spawn("pairing", run(errand))),
        });
        Ok(self.last)
    }

    fn find(&self, number: u32) -> Result<&Pairing, ApiError> {
        let mut list = self.list.iter();
        list.find(|known| known.number == number).ok_or_else(gone)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Pairing> {
        self.list.iter_mut().find(|known| known.number == number)
    }

    fn end(&mut self, number: u32) -> Result<PairingView, ApiError> {
        let at = self.list.iter().position(|known| known.number == number);
        let ended = self.list.remove(at.ok_or_else(gone)?);
        Ok(ended.view())
    }

    // --- times ---

    /// When [`Pairings::handle_timeout`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.list.iter().filter_map(Pairing::due).min()
    }

    pub(super) fn handle_timeout(&mut self) {
        let now = clock::now();
        for known in &mut self.list {
            known.handle_timeout(now);
        }
    }

    // --- what happens in them ---

    /// Takes note of what has happened; two machines that are to become peers are returned.
    pub(super) fn take(&mut self, met: Met, ground: &Ground<'_>) -> Option<Meeting> {
        let own = self.own.id();
        let known = self.get_mut(met.number)?;
        match met.what {
            What::Looking { us, them, sides } => {
                if known.stage == PairingStage::Preparing {
                    known.stage = PairingStage::Waiting;
                }
                let _ = sides.send(ground.servers.attach(&us, them));
                None
            }
            What::Unreached(trouble) => {
                if known.is_open() {
                    known.trouble = trouble;
                }
                None
            }
            What::Failed(text) => {
                known.fail(text);
                None
            }
            What::Introduced(introduction, answer) => match known
                .receive(introduction.id, own)
                .map(|reply| still(reply, introduction.id, ground.state))
            {
                Some(reply) => {
                    let _ = answer.send(reply);
                    None
                }
                None => Some(Meeting {
                    number: met.number,
                    id: introduction.id,
                    proposed: introduction.name,
                    terms: known.terms.clone(),
                    answer: Some(answer),
                }),
            },
            What::Answered(Reply::TurnedAway(why)) => {
                known.fail(turned_away(why).to_owned());
                None
            }
            What::Answered(Reply::Welcome(welcome)) if welcome.id == own => {
                known.fail(oneself().message);
                None
            }
            What::Answered(Reply::Welcome(welcome)) => {
                known.found = Found::of(&welcome);
                let mut terms = known.terms.clone();
                if known.add_servers {
                    terms.servers.clone_from(&known.found.servers);
                }
                Some(Meeting {
                    number: met.number,
                    id: welcome.id,
                    proposed: welcome.name,
                    terms,
                    answer: None,
                })
            }
        }
    }

    /// Whether the two are peers now is known.
    pub(super) fn settle(
        &mut self,
        meeting: Meeting,
        outcome: Result<PeerName, ApiError>,
        ground: &Ground<'_>,
    ) {
        let own = self.own.id();
        let Some(known) = self.get_mut(meeting.number) else {
            return;
        };
        let name = match outcome {
            Ok(name) => name,
            Err(error) => {
                let lasts = error.code == ErrorCode::Internal;
                // What the disk refuses may go well when the newcomer asks again.
                if let (Some(answer), false) = (meeting.answer, lasts) {
                    let _ = answer.send(Reply::TurnedAway(TurnedAway::NotAdded));
                }
                known.trouble = Some(error.message);
                if known.role == PairingRole::Newcomer {
                    known.stage = PairingStage::Failed;
                    known.task = None;
                }
                return;
            }
        };
        tracing::info!(peer = %name, id = ?meeting.id, "paired by a code");
        known.stage = PairingStage::Paired;
        known.trouble = None;
        known.found.peer = Some(name);
        known.found.id = Some(meeting.id);
        let Some(answer) = meeting.answer else {
            known.task = None;
            let used: Vec<_> = server::all(ground.state, ground.machine).collect();
            known.found.servers.retain(|server| !used.contains(&server));
            return;
        };
        known.found.forwards.clone_from(&meeting.terms.forwards);
        known.found.host = meeting.terms.host;
        let reply = Reply::Welcome(Welcome {
            id: own,
            name: own_name(),
            servers: server::all(ground.state, ground.machine)
                .filter_map(offered)
                .collect(),
            shares: meeting
                .terms
                .forwards
                .iter()
                .map(|key| share(*key))
                .collect(),
            host: meeting.terms.host,
        });
        known.used = Some((meeting.id, reply.clone()));
        let _ = answer.send(reply);
    }
}

/// What a pairing begins with.
struct Start {
    role: PairingRole,
    words: Words,
    terms: Terms,
    add_servers: bool,
    part: Part,
    urls: Vec<String>,
    lasts: Duration,
}

fn reply<T>(answer: Answer<T>, result: Result<T, ApiError>) {
    let _ = answer.send(result);
}

fn gone() -> ApiError {
    ApiError::not_found(
        "there is no such invitation; all of them end with punchd, and when they are withdrawn",
    )
}

fn oneself() -> ApiError {
    ApiError::conflict(
        "that is this machine's own invitation: the code is to be typed on the other machine",
    )
}

fn no_channel() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "this machine has no place where another one could find it; use the public DHT with: punchctl server add public; or a signalling server with: punchctl server add signal wss://HOST",
    )
}

/// What a newcomer is told once more: a peer that was removed since is not welcome by the code that has made it one.
fn still(reply: Reply, id: PeerId, state: &State) -> Reply {
    let is_peer = state.peers.values().any(|peer| peer.id() == Some(id));
    match reply {
        Reply::Welcome(_) if !is_peer => Reply::TurnedAway(TurnedAway::Expired),
        reply => reply,
    }
}

fn turned_away(why: TurnedAway) -> &'static str {
    match why {
        TurnedAway::Used => {
            "another machine has used this code; make a new one there with: punchctl invite"
        }
        TurnedAway::Expired => "this code has expired; make a new one there with: punchctl invite",
        TurnedAway::Oneself => {
            "the machine that has made this code has the same key as this one: two machines must not share one state directory"
        }
        TurnedAway::NotAdded => {
            "the machine that has made this code could not add this one; why, it says there"
        }
        TurnedAway::Unknown(_) => {
            "the machine that has made this code has refused this one, for a reason that only a newer version knows"
        }
    }
}

fn choose_words() -> Result<Words, ApiError> {
    let random = punch_platform::random().map(Zeroizing::new);
    let random = random.map_err(|error| ApiError::new(ErrorCode::Internal, error))?;
    Ok(Words::choose(&random))
}

/// The name that this machine proposes for itself.
fn own_name() -> String {
    let name = punch_platform::hostname().unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn signal_urls(ground: &Ground<'_>) -> Vec<String> {
    let all = server::all(ground.state, ground.machine);
    let signal = all.filter(|address| address.kind() == ServerKind::Signal);
    signal.map(|address| address.as_str().to_owned()).collect()
}

/// A server as the newcomer is told of it.
fn offered(address: &ServerAddress) -> Option<OfferedServer> {
    let is_stun = match address {
        ServerAddress::Signal(_) => false,
        ServerAddress::Stun(_) => true,
        // Each machine's user agrees to the public ones, and nodes of one's own are in punchd.toml.
        ServerAddress::Dht(_) | ServerAddress::Public => return None,
    };
    Some(OfferedServer {
        is_stun,
        address: address.as_str().to_owned(),
    })
}

fn share(key: ForwardKey) -> Share {
    Share {
        is_udp: key.protocol == Protocol::Udp,
        first: key.ports.first(),
        last: key.ports.last(),
    }
}

/// Makes two machines that have met peers of each other, in a changed state.
pub(super) fn agree(
    meeting: &Meeting,
    state: &State,
    machine: &Machine,
) -> Result<(State, PeerName), Refusal> {
    let other = (meeting.id, meeting.proposed.as_str());
    pairing::pair(state, machine, other, &meeting.terms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::sync::Mutex;

    use punch_api::Ipv4Range;
    use punch_signal_protocol::pairing::Introduction;
    use tokio::runtime::Handle;
    use tokio::sync::watch;

    use super::one::LINGER;
    use super::*;
    use crate::proxy::ProxySetting;

    /// A machine with one signalling server, where nobody listens.
    struct Desk {
        pairings: Pairings,
        servers: Servers,
        state: Mutex<State>,
        machine: Machine,
    }

    impl Desk {
        fn new() -> Self {
            let own = Identity::from_seed(&[1; 32]);
            let spawner = Spawner::new(Handle::current());
            let (driver, _) = mpsc::channel(64);
            let nat64 = watch::Sender::new(None).subscribe();
            let url = ServerAddress::parse(ServerKind::Signal, "ws://127.0.0.1:9").unwrap();
            Self {
                pairings: Pairings::new(&own, &spawner),
                servers: Servers::new(&own, &ProxySetting::None, &driver, &spawner, nat64).unwrap(),
                state: Mutex::default(),
                machine: Machine {
                    id: own.id(),
                    ipv4: Some(Ipv4Range::DEFAULT),
                    servers: vec![url],
                },
            }
        }

        fn on<T>(&mut self, work: impl FnOnce(&mut Pairings, &Ground<'_>) -> T) -> T {
            let state = self.state.lock().unwrap().clone();
            let ground = Ground {
                state: &state,
                machine: &self.machine,
                servers: &self.servers,
            };
            work(&mut self.pairings, &ground)
        }

        fn invite(&mut self) -> Result<InvitationView, ApiError> {
            let ask = serde_json::from_str(r#"{"forwards":[{"protocol":"tcp","ports":"80"}]}"#);
            self.on(|pairings, ground| pairings.invite(ask.unwrap(), ground))
        }

        fn join(&mut self, code: &str) -> Result<PairingView, ApiError> {
            let ask = Join {
                code: Secret::new(code.to_owned()),
                name: None,
                add_servers: false,
                wait_s: 60,
            };
            self.on(|pairings, ground| pairings.join(ask, ground))
        }

        fn view(&mut self, number: u32) -> PairingView {
            self.pairings.find(number).unwrap().view()
        }

        /// A machine introduces itself; what it is told, if anything.
        fn introduce(&mut self, number: u32, seed: u8, saved: bool) -> Option<Reply> {
            let (answer, mut answered) = oneshot::channel();
            let introduction = Introduction {
                id: Identity::from_seed(&[seed; 32]).id(),
                name: "laptop".to_owned(),
            };
            let what = What::Introduced(introduction, answer);
            let met = Met { number, what };
            if let Some(meeting) = self.on(|pairings, ground| pairings.take(met, ground)) {
                let agreed = agree(&meeting, &self.state.lock().unwrap(), &self.machine);
                let outcome = match agreed {
                    Ok((state, name)) if saved => {
                        *self.state.lock().unwrap() = state;
                        Ok(name)
                    }
                    Ok(_) => Err(ApiError::new(ErrorCode::Internal, "the disk is full")),
                    Err(refusal) => Err(refusal.into()),
                };
                self.on(|pairings, ground| pairings.settle(meeting, outcome, ground));
            }
            answered.try_recv().ok()
        }
    }

    fn turned_away(why: TurnedAway) -> Option<Reply> {
        Some(Reply::TurnedAway(why))
    }

    #[tokio::test]
    async fn the_first_newcomer_is_welcome_again_and_nobody_else_is() {
        let mut desk = Desk::new();
        let number = desk.invite().unwrap().pairing.number;
        assert_eq!(
            desk.introduce(number, 1, true),
            turned_away(TurnedAway::Oneself)
        );
        let first = desk.introduce(number, 2, true);
        let Some(Reply::Welcome(welcome)) = &first else {
            panic!("it is welcome: {first:?}");
        };
        assert_eq!((welcome.shares.len(), welcome.servers.len()), (1, 1));
        let state = desk.state.lock().unwrap().clone();
        assert_eq!(desk.introduce(number, 2, true), first);
        assert_eq!(
            desk.introduce(number, 3, true),
            turned_away(TurnedAway::Used)
        );
        assert_eq!(*desk.state.lock().unwrap(), state);
        let view = desk.view(number);
        assert_eq!(view.stage, PairingStage::Paired);
        assert_eq!(view.peer.unwrap().as_str(), "laptop");
    }

    #[tokio::test]
    async fn a_peer_that_was_removed_is_not_welcome_again_by_the_same_code() {
        let mut desk = Desk::new();
        let number = desk.invite().unwrap().pairing.number;
        let first = desk.introduce(number, 2, true);
        assert!(matches!(first, Some(Reply::Welcome(_))), "{first:?}");
        desk.state.lock().unwrap().peers.clear();
        assert_eq!(
            desk.introduce(number, 2, true),
            turned_away(TurnedAway::Expired)
        );
        assert!(desk.state.lock().unwrap().peers.is_empty());
    }

    #[tokio::test]
    async fn a_code_stands_in_no_debug_text() {
        let invitation = Desk::new().invite().unwrap();
        let words = invitation.code.expose().split('@').next().unwrap();
        assert_eq!(words.split('-').count(), 6);
        let shown = format!("{invitation:?}");
        assert!(!shown.contains(words), "{shown}");
    }

    #[tokio::test]
    async fn what_is_not_saved_is_not_answered_and_may_be_asked_again() {
        let mut desk = Desk::new();
        let number = desk.invite().unwrap().pairing.number;
        assert_eq!(desk.introduce(number, 2, false), None);
        assert_eq!(desk.view(number).stage, PairingStage::Preparing);
        assert_eq!(
            desk.view(number).trouble.as_deref(),
            Some("the disk is full")
        );
        assert!(matches!(
            desk.introduce(number, 2, true),
            Some(Reply::Welcome(_))
        ));
        assert_eq!(desk.view(number).trouble, None);
    }

    #[tokio::test]
    async fn an_invitation_that_is_over_says_so_for_a_while() {
        let mut desk = Desk::new();
        let number = desk.invite().unwrap().pairing.number;
        desk.pairings.get_mut(number).unwrap().expires = clock::now();
        desk.pairings.handle_timeout();
        assert_eq!(desk.view(number).stage, PairingStage::Expired);
        assert_eq!(
            desk.introduce(number, 2, true),
            turned_away(TurnedAway::Expired)
        );
        assert!(desk.pairings.due().unwrap() > clock::now() + LINGER / 2);
        desk.pairings
            .get_mut(number)
            .unwrap()
            .handle_timeout(clock::now() + LINGER);
        assert_eq!(desk.pairings.due(), None);
        assert!(desk.state.lock().unwrap().peers.is_empty());
    }

    #[tokio::test]
    async fn invitations_are_bounded_and_those_that_are_over_make_room() {
        let mut desk = Desk::new();
        let numbers: Vec<_> = (0..MAX_OPEN)
            .map(|_| desk.invite().unwrap().pairing.number)
            .collect();
        let refused = desk.invite().unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        let joining = desk
            .join("acorn-window-maple-radio-river-zebra")
            .unwrap_err();
        assert_eq!(joining.code, ErrorCode::Conflict);
        desk.pairings.end(numbers[0]).unwrap();
        assert!(desk.pairings.end(numbers[0]).is_err());
        for number in &numbers[1..] {
            desk.pairings
                .get_mut(*number)
                .unwrap()
                .fail("over".to_owned());
        }
        for _ in 0..3 * MAX_KNOWN {
            let number = desk.invite().unwrap().pairing.number;
            desk.pairings
                .get_mut(number)
                .unwrap()
                .fail("over".to_owned());
            assert!(desk.pairings.list.len() <= MAX_KNOWN);
        }
    }

    #[tokio::test]
    async fn joining_oneself_is_told_at_once_and_a_second_try_replaces_the_first() {
        let mut desk = Desk::new();
        let code = desk.invite().unwrap().code;
        let refused = desk.join(code.expose()).unwrap_err();
        assert!(refused.message.contains("this machine's own invitation"));
        let first = desk
            .join("acorn-window-maple-radio-river-zebra")
            .unwrap()
            .number;
        let second = desk.join("ACOR WIND MAPL RADI RIVE ZEBR").unwrap().number;
        assert!(desk.pairings.find(first).is_err());
        // The inviter turns this machine away.
        let what = What::Answered(Reply::TurnedAway(TurnedAway::Used));
        let met = Met {
            number: second,
            what,
        };
        assert!(
            desk.on(|pairings, ground| pairings.take(met, ground))
                .is_none()
        );
        let view = desk.view(second);
        assert_eq!(view.stage, PairingStage::Failed);
        assert!(
            view.trouble
                .unwrap()
                .contains("another machine has used this code")
        );
    }

    #[tokio::test]
    async fn what_an_inviter_says_is_taken_as_far_as_it_makes_sense() {
        let mut desk = Desk::new();
        let number = desk
            .join("acorn-window-maple-radio-river-zebra")
            .unwrap()
            .number;
        let server = |is_stun, address: &str| OfferedServer {
            is_stun,
            address: address.to_owned(),
        };
        let welcome = Welcome {
            id: Identity::from_seed(&[7; 32]).id(),
            name: "../DB".to_owned(),
            servers: vec![
                server(false, "rm -rf"),
                server(true, "192.0.2.1"),
                server(false, "ws://127.0.0.1:9"),
            ],
            shares: vec![share(ForwardKey {
                protocol: Protocol::Udp,
                ports: "5-7".parse().unwrap(),
            })],
            host: false,
        };
        let what = What::Answered(Reply::Welcome(welcome));
        let met = Met { number, what };
        let meeting = desk
            .on(|pairings, ground| pairings.take(met, ground))
            .unwrap();
        let state = State::default();
        let (state, name) = agree(&meeting, &state, &desk.machine).unwrap();
        assert_eq!((name.as_str(), state.servers.len()), ("peer", 0));
        desk.on(|pairings, ground| pairings.settle(meeting, Ok(name), ground));
        let view = desk.view(number);
        let offered: Vec<_> = view
            .servers
            .iter()
            .map(|server| server.address.as_str())
            .collect();
        assert_eq!(
            offered,
            ["192.0.2.1:3478"],
            "one is none, and one is used already"
        );
        assert_eq!(view.forwards[0].to_string(), "udp 5-7");
    }
}
