//! What an adversary does, drawn from a seed.

use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// The addresses that the adversary names as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Its own, truly.
    Itself,
    /// So many machines that have nothing to do with it, and itself.
    Strangers(u8),
    /// One stranger, at as many ports as a description holds.
    OneStranger,
    /// Ports of three strangers, to be connected to by TCP.
    Ports,
    /// The victim's LAN.
    Lan,
    /// Loopback, multicast, broadcast, unspecified, overlay addresses, and the victim's own.
    Special,
    /// No address at all.
    Nobody,
}

/// What the adversary says of its NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatLie {
    /// It says nothing.
    Silent,
    /// It has none.
    Open,
    /// The hardest one, with the largest budget.
    Random,
    /// A block of so many ports, from 1024 on.
    Block(u16),
    /// A sequence with the widest step, in a crowd.
    Sequential(i16),
    /// It preserves ports, and yet depends on everything.
    Contradiction,
}

/// The stamp of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampLie {
    /// The time.
    Now,
    /// A day ahead.
    Future,
    /// A day ago.
    Old,
    /// The largest number.
    Largest,
}

/// What an offer or an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lie {
    /// The candidates.
    pub names: Names,
    /// The NAT.
    pub nat: NatLie,
    /// The stamp.
    pub stamp: StampLie,
}

/// When the adversary answers the victim's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    Never,
    /// At once.
    AtOnce,
    /// Only when the exchange is so old.
    After(Duration),
    /// The same, and only what a search sends to ports that it has not named.
    Probed(Duration),
}

/// What the malicious signalling server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A peer has logged in.
    Appeared,
    /// A peer is offline.
    Offline,
    /// A peer's queue is full.
    Full,
    /// It is offline, and has logged in.
    Flapping,
    /// Relay links stand that were asked for, and others, which bring nonsense, and some end.
    Links,
}

/// What the malicious signalling server does with envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mail {
    /// Passes them on.
    Honest,
    /// Loses them.
    Lost,
    /// Delivers them twice, the second time late.
    Twice,
    /// Delivers them under another's name.
    Misnamed,
}

/// What the malicious STUN server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stun {
    /// The truth.
    Honest,
    /// It does not answer.
    Silent,
    /// A stranger's address.
    Stranger,
    /// Another address each time.
    Random,
    /// An address in the victim's LAN.
    Private,
    /// The truth, twice, and late.
    Late,
    /// A message that is none.
    Junk,
}

/// What is sent to the victim's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// An initiation by somebody whom the victim does not know, with a right MAC.
    Initiation,
    /// Whatever has been sent to the victim before.
    Copy,
    /// Bytes with the length of a handshake.
    Handshake,
    /// A cookie that was never asked for.
    Cookie,
    /// Data for a session that may exist.
    Data,
    /// A STUN request or answer of nobody.
    Stun,
    /// A true check of the adversary's exchange, from a stranger's address.
    Check,
    /// Bytes that mean nothing.
    Junk,
}

/// What is sent through the adversary's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// Connections to a forward, each from another port.
    Connections,
    /// The same, each reset at once.
    Resets,
    /// Datagrams to a forward, each from another port.
    Datagrams,
    /// Echo requests.
    Echoes,
    /// First fragments.
    Fragments,
    /// Connections to what is not shared.
    Closed,
    /// In another's name.
    Forged,
    /// Errors about what the victim has sent to nobody, and redirects.
    Errors,
}

/// One thing that the adversary does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Offers to the victim.
    Offer(Lie),
    /// From now on answers the victim's offers so; `None`: its engine does.
    Answer(Option<Lie>),
    /// From now on answers checks so.
    Checks(Patience),
    /// Names candidates in notes.
    Candidates(Names),
    /// Notes about predicted ports.
    Prediction,
    /// Says goodbye in notes.
    Bye,
    /// Plays back envelopes that were sent to the victim.
    Replay,
    /// Sends envelopes that are none.
    Garbage,
    /// The server tells the victim of its honest peer, or of the adversary.
    Tell(News, bool),
    /// The server's way with envelopes.
    Mail(Mail),
    /// The server's connection breaks and comes back.
    Flap,
    /// The STUN server's way.
    Stun(Stun),
    /// Datagrams to the victim's socket.
    Datagram(Blow),
    /// Packets through the tunnel.
    Packet(Inside),
    /// The adversary's own engine wants the victim, or does not.
    Want(bool),
}

/// A deed, when it begins, how often it is done, and with which pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Since the start.
    pub at: Duration,
    /// What is done.
    pub deed: Deed,
    /// How often.
    pub count: u32,
    /// Between two times.
    pub pause: Duration,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:6} ms: {} x {:?}, every {} ms",
            self.at.as_millis(),
            self.count,
            self.deed,
            self.pause.as_millis()
        )
    }
}

/// When the first move may begin: the honest tunnel stands by then.
pub const BEGIN: Duration = Duration::from_secs(8);

/// Draws what an adversary does until `end`.
pub fn draw(seed: u64, end: Duration) -> Vec<Move> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed ^ 0x6576_696c));
    let mut moves: Vec<_> = (0..4 + dice.below(9)).map(|_| dice.a_move(end)).collect();
    // Most programs begin with a tunnel that stands.
    if dice.below(4) > 0 {
        moves.push(Move {
            at: Duration::from_secs(3),
            deed: Deed::Want(true),
            count: 1,
            pause: Duration::ZERO,
        });
    }
    moves.sort_by_key(|one| one.at);
    moves
}

/// Choices.
pub(super) struct Dice(pub(super) ChaCha8Rng);

impl Dice {
    /// A number below `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end
    }

    /// One of these.
    pub(super) fn one<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[self.0.next_u32() as usize % N]
    }

    fn a_move(&mut self, end: Duration) -> Move {
        let deed = self.deed();
        // What costs the simulation a quarter of a millisecond each time is done less often.
        let most = match deed {
            Deed::Offer(_) | Deed::Flap => 32,
            Deed::Datagram(Blow::Initiation | Blow::Copy) => 256,
            Deed::Replay | Deed::Garbage | Deed::Tell(..) | Deed::Candidates(_) => 512,
            Deed::Prediction | Deed::Bye | Deed::Datagram(_) => 1024,
            Deed::Packet(_) => 4096,
            Deed::Answer(_) | Deed::Checks(_) | Deed::Mail(_) | Deed::Stun(_) | Deed::Want(_) => 1,
        };
        let window = u32::try_from((end - BEGIN).as_millis()).unwrap_or(u32::MAX);
        let at = BEGIN + Duration::from_millis(self.below(window).into());
        let bits = u32::BITS - u32::leading_zeros(most);
        let shift = self.below(bits);
        let count = (1 + self.below(1 << shift)).min(most);
        let pause = Duration::from_millis(self.one([0, 0, 1, 10, 100, 1000]));
        Move {
            at,
            deed,
            count,
            pause,
        }
    }

    fn deed(&mut self) -> Deed {
        match self.below(23) {
            0..=2 => Deed::Offer(self.lie()),
            3 => Deed::Answer(Some(self.lie())),
            4 => Deed::Answer(None),
            5 | 6 => {
                let late = Duration::from_millis(self.below(15_000).into());
                Deed::Checks(self.one([
                    Patience::Never,
                    Patience::AtOnce,
                    Patience::After(late),
                    Patience::Probed(late),
                ]))
            }
            7 => Deed::Candidates(self.names()),
            8 => self.one([Deed::Prediction, Deed::Bye]),
            9 => Deed::Replay,
            10 => Deed::Garbage,
            11 | 12 => {
                let news = self.one([
                    News::Appeared,
                    News::Offline,
                    News::Full,
                    News::Flapping,
                    News::Links,
                ]);
                Deed::Tell(news, self.below(2) == 0)
            }
            13 => Deed::Mail(self.one([Mail::Honest, Mail::Lost, Mail::Twice, Mail::Misnamed])),
            14 => Deed::Flap,
            15 => Deed::Stun(self.one([
                Stun::Honest,
                Stun::Silent,
                Stun::Stranger,
                Stun::Random,
                Stun::Private,
                Stun::Late,
                Stun::Junk,
            ])),
            16 | 17 => Deed::Datagram(self.one([
                Blow::Initiation,
                Blow::Copy,
                Blow::Handshake,
                Blow::Cookie,
                Blow::Data,
                Blow::Stun,
                Blow::Check,
                Blow::Junk,
            ])),
            18..=21 => Deed::Packet(self.one([
                Inside::Connections,
                Inside::Resets,
                Inside::Datagrams,
                Inside::Echoes,
                Inside::Fragments,
                Inside::Closed,
                Inside::Forged,
                Inside::Errors,
            ])),
            _ => Deed::Want(self.below(3) > 0),
        }
    }

    fn names(&mut self) -> Names {
        let strangers = 1 + self.below(31) as u8;
        self.one([
            Names::Itself,
            Names::Strangers(7),
            Names::Strangers(strangers),
            Names::OneStranger,
            Names::Ports,
            Names::Lan,
            Names::Special,
            Names::Nobody,
        ])
    }

    fn lie(&mut self) -> Lie {
        let ports = self.one([1, 64, 1024, 64_511]);
        let step = self.one([1, -1, 8, i16::MIN, i16::MAX]);
        Lie {
            names: self.names(),
            nat: self.one([
                NatLie::Silent,
                NatLie::Open,
                NatLie::Random,
                NatLie::Random,
                NatLie::Block(ports),
                NatLie::Sequential(step),
                NatLie::Contradiction,
            ]),
            stamp: self.one([
                StampLie::Now,
                StampLie::Now,
                StampLie::Now,
                StampLie::Now,
                StampLie::Future,
                StampLie::Old,
                StampLie::Largest,
            ]),
        }
    }
}
