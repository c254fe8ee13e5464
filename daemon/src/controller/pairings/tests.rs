//! Which newcomer is answered what, without a network.

use std::sync::Mutex;

use punch_api::Ipv4Range;
use punch_signal_protocol::pairing::{Introduction, OfferedServer, Share, Welcome};
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
        shares: vec![Share {
            is_udp: true,
            first: 5,
            last: 7,
        }],
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
