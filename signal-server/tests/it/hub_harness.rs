//! A hub and its clients, in virtual time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_signal::hub::{ConnectionId, Hub, Limits, Output};
use punch_signal_protocol::{Capabilities, Frame, Identity, PeerId, Refusal};

pub(crate) const NAME: &str = "signal.example:443";

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn identity(number: u16) -> Identity {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    Identity::from_seed(&seed)
}

pub(crate) fn id(number: u16) -> PeerId {
    identity(number).id()
}

pub(crate) fn ip(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

pub(crate) struct HubHarness {
    pub(crate) hub: Hub,
    pub(crate) now: Instant,
    nonces: u64,
}

impl HubHarness {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self {
            hub: Hub::new(limits),
            now: Instant::now(),
            nonces: 0,
        }
    }

    pub(crate) fn nonce(&mut self) -> [u8; 32] {
        self.nonces += 1;
        let mut nonce = [0xA5; 32];
        nonce[..8].copy_from_slice(&self.nonces.to_be_bytes());
        nonce
    }

    /// A connection, and its challenge.
    pub(crate) fn connect_from(
        &mut self,
        address: IpAddr,
    ) -> Result<(ConnectionId, [u8; 32]), Refusal> {
        let nonce = self.nonce();
        let connection = self.hub.handle_connect(address, nonce, self.now)?;
        let challenge = Output::Send(connection, Frame::Challenge(nonce));
        assert_eq!(self.outputs(), [challenge]);
        Ok((connection, nonce))
    }

    pub(crate) fn connect(&mut self) -> (ConnectionId, [u8; 32]) {
        self.connect_from(ip(1)).unwrap()
    }

    pub(crate) fn say(&mut self, connection: ConnectionId, frame: &Frame) -> Vec<Output> {
        self.say_bytes(connection, &frame.encode())
    }

    pub(crate) fn say_bytes(&mut self, connection: ConnectionId, bytes: &[u8]) -> Vec<Output> {
        self.hub.handle_message(connection, bytes, self.now);
        self.outputs()
    }

    /// A client that has proven to be `number`; what else its login led to is thrown away.
    pub(crate) fn client(&mut self, number: u16) -> ConnectionId {
        let (connection, nonce) = self.connect();
        let outputs = self.say(connection, &Frame::proof(&identity(number), &nonce, NAME));
        let welcomed = welcome(connection);
        assert!(
            welcomed.iter().all(|output| outputs.contains(output)),
            "{outputs:?}"
        );
        connection
    }

    pub(crate) fn send(&mut self, from: ConnectionId, to: u16, envelope: &[u8]) -> Vec<Output> {
        let frame = Frame::Send {
            to: id(to),
            envelope: envelope.to_vec(),
        };
        self.say(from, &frame)
    }

    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Output> {
        self.now += duration;
        self.hub.handle_timeout(self.now);
        self.outputs()
    }

    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.hub.poll_output()).collect()
    }
}

/// What a client hears when its login is good.
pub(crate) fn welcome(connection: ConnectionId) -> [Output; 2] {
    let capabilities = Frame::ServerCapabilities(Capabilities::RELAYING);
    [Frame::Welcome, capabilities].map(|frame| Output::Send(connection, frame))
}

pub(crate) fn closed(connection: ConnectionId, why: Refusal) -> Output {
    Output::Close(connection, why)
}

pub(crate) fn appeared(connection: ConnectionId, number: u16) -> Output {
    Output::Send(connection, Frame::Appeared(id(number)))
}
