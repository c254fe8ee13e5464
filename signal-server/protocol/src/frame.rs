//! What a client and punch-signal say to each other: one frame per binary WebSocket message.

use crate::codec::{DecodeError, Reader};
use crate::{Capabilities, Identity, PeerId, RelayLink, RelayToken};

const VERSION: u8 = 1;
/// The longest envelope that the server passes on, in bytes.
pub const MAX_ENVELOPE: usize = 4096;
/// The longest frame, in bytes.
pub const MAX_FRAME: usize = MAX_ENVELOPE + 64;
/// The longest server name in a proof, in bytes (a DNS name and a port).
pub const MAX_SERVER_NAME: usize = 261;

/// One message between a client and punch-signal. The message numbers are for ever: 1 to 63 go to the
/// server, 64 to 127 to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the server: who I am, proven by a signature over [`login_message`].
    Proof {
        /// The identity of the client.
        id: PeerId,
        /// The Ed25519 signature.
        signature: [u8; 64],
        /// The `HOST:PORT` that the client dialled, so that no other server can use the signature.
        server: String,
    },
    /// To the server: pass this envelope on.
    Send {
        /// The peer that it is for.
        to: PeerId,
        /// The sealed bytes, at most [`MAX_ENVELOPE`] bytes.
        envelope: Vec<u8>,
    },
    /// To the server: tell me when this peer appears (at once if it is online).
    Watch(PeerId),
    /// To the server: tell me no longer when this peer appears.
    Unwatch(PeerId),
    /// To the server, after it has told its own: what the client can do beyond version 1 of the protocol.
    ClientCapabilities(Capabilities),
    /// To the server: make a relay link with whoever joins with the same token.
    RelayJoin(RelayToken),
    /// To the server: this link is no longer needed.
    RelayLeave(RelayLink),
    /// To the client, first of all: sign this.
    Challenge([u8; 32]),
    /// To the client: the proof was accepted.
    Welcome,
    /// To the client: an envelope has come.
    Deliver {
        /// The sender, as the server believes; the seal is the proof.
        from: PeerId,
        /// The sealed bytes.
        envelope: Vec<u8>,
    },
    /// To the client: an envelope could not be passed on.
    Unreachable {
        /// The peer that it was for.
        to: PeerId,
        /// The reason.
        why: Unreachable,
    },
    /// To the client: a watched peer is online.
    Appeared(PeerId),
    /// To the client, as the last frame: the connection ends.
    Refused(Refusal),
    /// To the client, after the welcome: what the server can do beyond version 1 of the protocol. Whoever sends this takes
    /// [`Frame::ClientCapabilities`]; a server that does not would end the connection.
    ServerCapabilities(Capabilities),
    /// To the client: the other end has joined, too; packets for it go over this link.
    RelayReady {
        /// What both have joined with.
        token: RelayToken,
        /// This end's number for the link.
        link: RelayLink,
    },
    /// To the client: the link has ended.
    RelayGone(RelayLink),
}

/// Why an envelope was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unreachable {
    /// The receiver is not connected to this server.
    Offline = 1,
    /// The receiver's queue is full.
    Full = 2,
    /// The sender sends too fast.
    TooFast = 3,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The signature does not fit.
    #[error("the server did not accept this machine's signature")]
    BadProof = 1,
    /// The client dialled another name than the server's.
    #[error("the server goes by another name than the one dialled")]
    WrongServer = 2,
    /// The same identity has connected again.
    #[error("the same identity has connected from elsewhere")]
    Replaced = 3,
    /// The server holds as many clients as it may.
    #[error("the server is full")]
    Full = 4,
    /// The client has sent something that is not this protocol, or out of order.
    #[error("the server did not understand a message")]
    BadFrame = 5,
    /// The client has not proven its identity in time, or was not heard for too long.
    #[error("the server heard nothing for too long")]
    TimedOut = 6,
    /// The client takes its envelopes too slowly.
    #[error("this machine took its messages too slowly")]
    TooSlow = 7,
    /// The client sends too much.
    #[error("this machine sent too many messages")]
    TooFast = 8,
}

/// What a client signs to prove its identity to the server that it dialled as `server`.
pub fn login_message(challenge: &[u8; 32], server: &str) -> Vec<u8> {
    let mut message = b"punch-signal login v1\0".to_vec();
    message.extend_from_slice(challenge);
    message.extend_from_slice(server.as_bytes());
    message
}

impl Frame {
    /// The answer to a challenge.
    pub fn proof(identity: &Identity, challenge: &[u8; 32], server: &str) -> Self {
        Self::Proof {
            id: identity.id(),
            signature: identity.sign(&login_message(challenge, server)),
            server: server.to_owned(),
        }
    }

    /// The bytes of one WebSocket message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Proof {
                id,
                signature,
                server,
            } => {
                out.extend([1, VERSION]);
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(signature);
                out.extend_from_slice(server.as_bytes());
            }
            Self::Send { to, envelope } => {
                out.push(2);
                out.extend_from_slice(to.as_bytes());
                out.extend_from_slice(envelope);
            }
            Self::Watch(id) => {
                out.push(3);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Unwatch(id) => {
                out.push(4);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Challenge(nonce) => {
                out.extend([64, VERSION]);
                out.extend_from_slice(nonce);
            }
            Self::Welcome => out.push(65),
            Self::Deliver { from, envelope } => {
                out.push(66);
                out.extend_from_slice(from.as_bytes());
                out.extend_from_slice(envelope);
            }
            Self::Unreachable { to, why } => {
                out.push(67);
                out.extend_from_slice(to.as_bytes());
                out.push(*why as u8);
            }
            Self::Appeared(id) => {
                out.push(68);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Refused(why) => out.extend([69, *why as u8]),
            Self::ClientCapabilities(set) => {
                out.push(5);
                out.extend(set.encode());
            }
            Self::ServerCapabilities(set) => {
                out.push(70);
                out.extend(set.encode());
            }
            Self::RelayJoin(token) => {
                out.push(6);
                out.extend_from_slice(&token.0);
            }
            Self::RelayLeave(link) => {
                out.push(7);
                out.extend_from_slice(&link.0.to_be_bytes());
            }
            Self::RelayReady { token, link } => {
                out.push(71);
                out.extend_from_slice(&token.0);
                out.extend_from_slice(&link.0.to_be_bytes());
            }
            Self::RelayGone(link) => {
                out.push(72);
                out.extend_from_slice(&link.0.to_be_bytes());
            }
        }
        out
    }

    /// Reads one WebSocket message.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Self::encode`] does not write; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_FRAME.max(100 + MAX_SERVER_NAME) {
            return Err(DecodeError::TooLong("frame"));
        }
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            1 => {
                version(&mut reader)?;
                let id = peer(&mut reader)?;
                let signature = reader.array()?;
                let server = reader.rest();
                if server.len() > MAX_SERVER_NAME {
                    return Err(DecodeError::TooLong("server name"));
                }
                let server = std::str::from_utf8(server)
                    .map_err(|_| DecodeError::BadValue("server name"))?
                    .to_owned();
                Self::Proof {
                    id,
                    signature,
                    server,
                }
            }
            2 => Self::Send {
                to: peer(&mut reader)?,
                envelope: envelope(&mut reader)?,
            },
            3 => Self::Watch(peer(&mut reader)?),
            4 => Self::Unwatch(peer(&mut reader)?),
            5 => Self::ClientCapabilities(Capabilities::decode(reader.rest())?),
            6 => Self::RelayJoin(RelayToken(reader.array()?)),
            7 => Self::RelayLeave(RelayLink(reader.u32()?)),
            64 => {
                version(&mut reader)?;
                Self::Challenge(reader.array()?)
            }
            65 => Self::Welcome,
            66 => Self::Deliver {
                from: peer(&mut reader)?,
                envelope: envelope(&mut reader)?,
            },
            67 => Self::Unreachable {
                to: peer(&mut reader)?,
                why: match reader.u8()? {
                    1 => Unreachable::Offline,
                    2 => Unreachable::Full,
                    3 => Unreachable::TooFast,
                    _ => return Err(DecodeError::BadValue("reason")),
                },
            },
            68 => Self::Appeared(peer(&mut reader)?),
            69 => Self::Refused(match reader.u8()? {
                1 => Refusal::BadProof,
                2 => Refusal::WrongServer,
                3 => Refusal::Replaced,
                4 => Refusal::Full,
                5 => Refusal::BadFrame,
                6 => Refusal::TimedOut,
                7 => Refusal::TooSlow,
                8 => Refusal::TooFast,
                _ => return Err(DecodeError::BadValue("reason")),
            }),
            70 => Self::ServerCapabilities(Capabilities::decode(reader.rest())?),
            71 => Self::RelayReady {
                token: RelayToken(reader.array()?),
                link: RelayLink(reader.u32()?),
            },
            72 => Self::RelayGone(RelayLink(reader.u32()?)),
            other => return Err(DecodeError::UnknownMessage(other)),
        };
        reader.finish()?;
        Ok(frame)
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(DecodeError::Version(other)),
    }
}

fn peer(reader: &mut Reader<'_>) -> Result<PeerId, DecodeError> {
    PeerId::from_bytes(&reader.array()?).map_err(|_| DecodeError::BadValue("identity"))
}

fn envelope(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.rest();
    if bytes.len() > MAX_ENVELOPE {
        return Err(DecodeError::TooLong("envelope"));
    }
    Ok(bytes.to_vec())
}
