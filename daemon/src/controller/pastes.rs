//! Lines that a person carries between this machine and a peer: each such peer has a channel of its own for as long as its lines are good.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use punch_api::{ApiError, ErrorCode, PasteStep, PasteView, PeerName, PeerState};
use punch_engine::{Channel, PeerHandle, ServerId};
use punch_platform::clock;
use punch_signal_protocol::Frame;
use punch_signal_protocol::paste::{PasteKind, PasteLine, offer_tag};
use punch_signal_protocol::seal::Kind;
use punch_state::peer;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::core::Core;
use crate::driver::command::{Command, ToServer};
use crate::views::met::FIRST_PASTE;

/// A line is good for so long: the peer waits no longer for what comes of its answer, and stamps are too old then.
const LIFETIME: Duration = Duration::from_secs(600);
/// The driver has this long to seal an envelope.
const SEALING: Duration = Duration::from_millis(700);
/// Offers to one peer whose answers are taken.
const KEPT: usize = 2;
/// Frames that may wait.
const QUEUE: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Pastes {
    count: u32,
    /// At most one for each peer.
    open: BTreeMap<PeerHandle, Open>,
}

/// The channel to one peer.
struct Open {
    server: ServerId,
    frames: mpsc::Receiver<Frame>,
    /// The offers whose answers are taken.
    offers: VecDeque<[u8; 8]>,
    /// The offer that was answered last, and the line that has answered it.
    answered: Option<([u8; 8], String)>,
    until: Instant,
}

impl Open {
    /// The next envelope of one of these kinds for the peer, if the engine has one for it.
    async fn take(&mut self, kinds: &[Kind]) -> Option<Vec<u8>> {
        let next = async {
            loop {
                if let Frame::Send { envelope, .. } = self.frames.recv().await?
                    && Kind::of(&envelope).is_some_and(|kind| kinds.contains(&kind))
                {
                    return Some(envelope);
                }
            }
        };
        timeout(SEALING, next).await.ok()?
    }
}

impl Pastes {
    /// When the first of the channels is closed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().map(|open| open.until).min()
    }

    /// Closes the channels whose lines have expired, and those of peers that are gone.
    pub(super) async fn expire(&mut self, core: &Core) {
        let now = clock::now();
        let is_over =
            |peer: PeerHandle, open: &Open| open.until <= now || core.name_of(peer).is_none();
        let over = self.open.extract_if(.., |peer, open| is_over(*peer, open));
        let over: Vec<_> = over.map(|(_, open)| open.server).collect();
        for server in over {
            core.order(Command::ServerDown(server)).await;
        }
    }

    /// Opens a channel to a peer, in place of the one before.
    async fn open(&mut self, core: &Core, peer: PeerHandle) -> &mut Open {
        let before = self.open.remove(&peer);
        if let Some(before) = &before {
            core.order(Command::ServerDown(before.server)).await;
        }
        let server = ServerId(FIRST_PASTE - self.count);
        self.count += 1;
        let (to, frames) = mpsc::channel(QUEUE);
        // There are no relay links here, so nothing is ever sent there.
        let (relayed, _) = mpsc::channel(1);
        let ways = ToServer {
            frames: to,
            relayed,
        };
        core.order(Command::ServerUp(server, Channel::Paste(peer), ways))
            .await;
        let (offers, answered) =
            before.map_or((VecDeque::new(), None), |it| (it.offers, it.answered));
        self.open.entry(peer).or_insert(Open {
            server,
            frames,
            offers,
            answered,
            until: clock::now() + LIFETIME,
        })
    }
}

/// Makes a line for a peer, which is wanted from now on.
pub(super) async fn offer(
    pastes: &mut Pastes,
    core: &mut Core,
    name: PeerName,
) -> Result<PasteView, ApiError> {
    pastes.expire(core).await;
    let to = peer::find(&core.state, &name)?.id().ok_or_else(|| {
        ApiError::invalid(format!(
            "{name} is a plain WireGuard peer and reads no lines of Punch"
        ))
    })?;
    refuse_connected(core, &name).await?;
    let changed = peer::set_up(&core.state, &name, true, None)?;
    core.commit(changed).await?;
    let handle = core.handles.get(&name).ok_or_else(gone)?;
    let from = core.machine.id;
    let open = pastes.open(core, handle).await;
    let envelope = open.take(&[Kind::Offer]).await.ok_or_else(|| {
        ApiError::new(
            ErrorCode::Unavailable,
            format!("{name} is just being connected: nothing need be carried. To wait for it: punchctl up {name}"),
        )
    })?;
    let offer = offer_tag(&envelope);
    open.offers.push_back(offer);
    let excess = open.offers.len().saturating_sub(KEPT);
    open.offers.drain(..excess);
    let line = PasteLine {
        kind: PasteKind::Offer,
        from,
        to,
        made_ms: clock::wall_ms(),
        offer,
        envelope,
    };
    Ok(view(name, PasteStep::Offered, Some(line.to_string())))
}

/// Reads a line that a person has carried here.
pub(super) async fn answer(
    pastes: &mut Pastes,
    core: &mut Core,
    text: &str,
) -> Result<PasteView, ApiError> {
    pastes.expire(core).await;
    let line = PasteLine::read(text).map_err(|error| ApiError::invalid(error.to_string()))?;
    let name = sender(core, &line)?;
    refuse_expired(&line)?;
    let handle = core.handles.get(&name).ok_or_else(gone)?;
    match line.kind {
        PasteKind::Offer => answer_offer(pastes, core, (name, handle), line).await,
        PasteKind::Answer => take_answer(pastes, core, (name, handle), line).await,
    }
}

/// The peer that has made a line for this machine.
fn sender(core: &Core, line: &PasteLine) -> Result<PeerName, ApiError> {
    let own = core.machine.id;
    if line.from == own {
        let other = core
            .state
            .peers
            .iter()
            .find(|(_, peer)| peer.id() == Some(line.to));
        let other = other.map_or_else(|| line.to.to_string(), |(name, _)| name.to_string());
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "this machine has made that line itself; it is to be pasted at {other}, after: punchctl answer"
            ),
        ));
    }
    if line.to != own {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "that line is for the machine {}, and this one is {own}",
                line.to
            ),
        ));
    }
    let mut peers = core.state.peers.iter();
    let found = peers.find(|(_, peer)| peer.id() == Some(line.from));
    found.map(|(name, _)| name.clone()).ok_or_else(|| {
        ApiError::new(
            ErrorCode::NotFound,
            format!(
                "the line comes from a machine that is no peer: {from}; if it is yours, add it with: punchctl peer add NAME {from}",
                from = line.from
            ),
        )
    })
}

fn refuse_expired(line: &PasteLine) -> Result<(), ApiError> {
    let limit = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let now = clock::wall_ms();
    let unavailable = |text| Err(ApiError::new(ErrorCode::Unavailable, text));
    if line.made_ms > now.saturating_add(limit) {
        let minutes = (line.made_ms - now) / 60_000;
        return unavailable(format!(
            "the line was made {minutes} minutes from now by the other machine's clock: set the clocks of both machines, and make a new line"
        ));
    }
    let age = now.saturating_sub(line.made_ms);
    if age > limit {
        return unavailable(format!(
            "the line has expired: it was made {} minutes ago and is good for ten; make a new one with: punchctl offer PEER (if it is newer than that, the clocks of the two machines differ)",
            age / 60_000
        ));
    }
    Ok(())
}

async fn refuse_connected(core: &Core, name: &PeerName) -> Result<(), ApiError> {
    if core.peer_view(name).await?.state == PeerState::Connected {
        return Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("{name} is connected already: nothing need be carried"),
        ));
    }
    Ok(())
}

async fn answer_offer(
    pastes: &mut Pastes,
    core: &Core,
    (name, handle): (PeerName, PeerHandle),
    line: PasteLine,
) -> Result<PasteView, ApiError> {
    let known = pastes
        .open
        .get(&handle)
        .and_then(|open| open.answered.as_ref());
    if let Some((_, answer)) = known.filter(|(offer, _)| *offer == line.offer) {
        // The first one may have been lost on its way back.
        return Ok(view(name, PasteStep::Answered, Some(answer.clone())));
    }
    refuse_connected(core, &name).await?;
    let open = pastes.open(core, handle).await;
    let frame = Frame::Deliver {
        from: line.from,
        envelope: line.envelope,
    };
    core.order(Command::Frame(open.server, frame)).await;
    let envelope = match open.take(&[Kind::Answer, Kind::Refusal]).await {
        Some(envelope) if Kind::of(&envelope) == Some(Kind::Answer) => envelope,
        Some(_) => {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                format!(
                    "{name} is refused here since `punchctl down {name}`; take that back with: punchctl up {name}"
                ),
            ));
        }
        None => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "that offer does not count any more: it was read here before, or {name} has made a newer one or connected since; make a new one there with: punchctl offer PEER"
                ),
            ));
        }
    };
    let answer = PasteLine {
        kind: PasteKind::Answer,
        from: line.to,
        to: line.from,
        made_ms: clock::wall_ms(),
        offer: line.offer,
        envelope,
    };
    let answer = answer.to_string();
    open.answered = Some((line.offer, answer.clone()));
    Ok(view(name, PasteStep::Answered, Some(answer)))
}

async fn take_answer(
    pastes: &mut Pastes,
    core: &Core,
    (name, handle): (PeerName, PeerHandle),
    line: PasteLine,
) -> Result<PasteView, ApiError> {
    let open = pastes.open.get_mut(&handle);
    let open = open.filter(|open| open.offers.contains(&line.offer));
    let Some(open) = open else {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "that is the answer to another offer: this machine awaits none, or an answer to a newer one; make a new one with: punchctl offer {name}"
            ),
        ));
    };
    // An answer is taken once.
    open.offers.retain(|offer| *offer != line.offer);
    let frame = Frame::Deliver {
        from: line.from,
        envelope: line.envelope,
    };
    core.order(Command::Frame(open.server, frame)).await;
    Ok(view(name, PasteStep::Connecting, None))
}

fn view(peer: PeerName, step: PasteStep, line: Option<String>) -> PasteView {
    let expires_in_s = line.as_ref().map(|_| LIFETIME.as_secs());
    PasteView {
        peer,
        step: step.into(),
        line,
        expires_in_s,
    }
}

fn gone() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the peer is gone again")
}
