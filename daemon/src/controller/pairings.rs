//! Invitations of this machine, and those that it follows: who may ask for what, how long a code lives, and who is answered what. None of
//! them outlasts punchd, and no code is written anywhere.

mod one;
mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_api::{
    ApiError, ErrorCode, InvitationView, Invite, Join, PairingRole, PairingStage, PairingView,
    PeerId, PeerName, Secret, ServerAddress, ServerKind,
};
use punch_platform::clock;
use punch_signal_protocol::Identity;
use punch_signal_protocol::pairing::{Code, CodeError, MAX_SHARES, Reply, TurnedAway, Words};
use punch_state::pairing::{self, Terms};
use punch_state::{Machine, Refusal, State, server};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use zeroize::Zeroizing;

use self::one::Pairing;
use self::told::Found;
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
        // An earlier attempt with this code gives way to the new one.
        self.list
            .retain(|known| known.role == PairingRole::Inviter || !known.words.is(&code.words));
        let number = self.open(
            Start {
                role: PairingRole::Newcomer,
                words: code.words,
                terms,
                add_servers,
                part: Part::Newcomer(told::own_name()),
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
                .map(|reply| told::again(reply, introduction.id, ground.state))
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
                known.fail(told::turned_away(why).to_owned());
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

    /// The two machines of a meeting are peers now, or it is known why not.
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
        let used = server::all(ground.state, ground.machine);
        let reply = Reply::Welcome(told::welcome(own, used, &meeting.terms));
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

fn choose_words() -> Result<Words, ApiError> {
    let random = punch_platform::random().map(Zeroizing::new);
    let random = random.map_err(|error| ApiError::new(ErrorCode::Internal, error))?;
    Ok(Words::choose(&random))
}

fn signal_urls(ground: &Ground<'_>) -> Vec<String> {
    let all = server::all(ground.state, ground.machine);
    let signal = all.filter(|address| address.kind() == ServerKind::Signal);
    signal.map(|address| address.as_str().to_owned()).collect()
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
mod tests;
