//! What introduction and welcome say. Fields are `tag, u16 length, value` as in a description; unknown ones are passed over.

use crate::PeerId;
use crate::codec::{DecodeError, Reader, put_field};

const VERSION: u8 = 1;
/// A proposed name is at most so long, in bytes.
pub const MAX_NAME: usize = 63;
/// A welcome names at most so many servers.
pub const MAX_SERVERS: usize = 16;
/// A welcome tells of at most so many shared ports.
pub const MAX_SHARES: usize = 16;
/// The address of a server in a welcome is at most so long, in bytes.
const MAX_ADDRESS: usize = 255;
/// All servers of a welcome together, in bytes: with the rest the envelope then fits where the least room is.
const ROOM: usize = 600;

mod tag {
    pub(super) const ID: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const SIGNATURE: u8 = 3;
    pub(super) const SERVERS: u8 = 4;
    pub(super) const SHARES: u8 = 5;
    pub(super) const HOST: u8 = 6;
    pub(super) const TURNED_AWAY: u8 = 7;
}

/// What the newcomer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Its real identity.
    pub id: PeerId,
    /// The name that it proposes for itself; nobody has checked it.
    pub name: String,
}

/// A server that the inviter uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedServer {
    /// Whether it is a STUN server, and no signalling server.
    pub is_stun: bool,
    /// Its address as users write it; nobody has checked it.
    pub address: String,
}

/// Ports that the inviter shares with the newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Whether they are UDP ports, and no TCP ports.
    pub is_udp: bool,
    /// The first port.
    pub first: u16,
    /// The last port, the first one or more.
    pub last: u16,
}

/// What the inviter says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Its real identity.
    pub id: PeerId,
    /// The name that it proposes for itself; nobody has checked it.
    pub name: String,
    /// The servers that it uses, as many as fit.
    pub servers: Vec<OfferedServer>,
    /// What it shares with the newcomer, as far as it fits.
    pub shares: Vec<Share>,
    /// Whether the newcomer may reach every port.
    pub host: bool,
}

/// Why a newcomer who knows the code is turned away. The numbers are on the wire for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// Another machine has used the code.
    Used,
    /// The invitation's time is over.
    Expired,
    /// The newcomer has the inviter's own identity.
    Oneself,
    /// The inviter cannot have the newcomer as a peer; it says why to its user.
    NotAdded,
    /// A reason that only a newer version knows.
    Unknown(u8),
}

/// The inviter's answer to an introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The newcomer is a peer now.
    Welcome(Welcome),
    /// It is not.
    TurnedAway(TurnedAway),
}

/// A message before its signature, and the signature. What is signed is the message's own bytes.
pub(super) struct Signed<T> {
    pub(super) message: T,
    pub(super) signature: [u8; 64],
}

impl Introduction {
    /// The bytes before the signature.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_field(&mut out, tag::ID, self.id.as_bytes());
        put_field(&mut out, tag::NAME, cut(&self.name, MAX_NAME).as_bytes());
        out
    }

    /// Reads a message and its signature, and which of its bytes are signed.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Signed<Self>, &[u8]), DecodeError> {
        let fields = Fields::read(bytes)?;
        let message = Self {
            id: fields.id.ok_or(DecodeError::Missing("identity"))?,
            name: fields.name,
        };
        sign_of(message, fields.signature, bytes)
    }
}

impl Reply {
    /// The bytes before the signature; nobody signs that a newcomer is turned away.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::TurnedAway(why) => put_field(&mut out, tag::TURNED_AWAY, &[why.number()]),
            Self::Welcome(welcome) => welcome.put(&mut out),
        }
        out
    }

    /// Reads a reply; a welcome comes with its signature, and which bytes of it are signed.
    pub(super) fn decode(bytes: &[u8]) -> Result<Opened<'_>, DecodeError> {
        let fields = Fields::read(bytes)?;
        if let Some(why) = fields.turned_away {
            return Ok(Opened::TurnedAway(why));
        }
        let message = Welcome {
            id: fields.id.ok_or(DecodeError::Missing("identity"))?,
            name: fields.name,
            servers: fields.servers,
            shares: fields.shares,
            host: fields.host,
        };
        let (signed, over) = sign_of(message, fields.signature, bytes)?;
        Ok(Opened::Welcome(signed, over))
    }
}

/// A reply as it was read.
pub(super) enum Opened<'a> {
    Welcome(Signed<Welcome>, &'a [u8]),
    TurnedAway(TurnedAway),
}

/// Adds the signature, as the last field.
pub(super) fn put_signature(out: &mut Vec<u8>, signature: &[u8; 64]) {
    put_field(out, tag::SIGNATURE, signature);
}

/// The signature is the last field, over all bytes before it.
fn sign_of<T>(
    message: T,
    signature: Option<[u8; 64]>,
    bytes: &[u8],
) -> Result<(Signed<T>, &[u8]), DecodeError> {
    let signature = signature.ok_or(DecodeError::Missing("signature"))?;
    let over = bytes
        .len()
        .checked_sub(3 + 64)
        .and_then(|end| bytes.get(..end));
    let over = over.ok_or(DecodeError::Truncated)?;
    Ok((Signed { message, signature }, over))
}

impl Welcome {
    fn put(&self, out: &mut Vec<u8>) {
        put_field(out, tag::ID, self.id.as_bytes());
        put_field(out, tag::NAME, cut(&self.name, MAX_NAME).as_bytes());
        let mut servers = Vec::new();
        for server in self.servers.iter().take(MAX_SERVERS) {
            let length = server.address.len();
            let fits = length <= MAX_ADDRESS && servers.len() + 2 + length <= ROOM;
            if let (true, Ok(length)) = (fits, u8::try_from(length)) {
                servers.extend([u8::from(server.is_stun), length]);
                servers.extend(server.address.bytes());
            }
        }
        put_field(out, tag::SERVERS, &servers);
        let mut shares = Vec::new();
        for share in self.shares.iter().take(MAX_SHARES) {
            shares.push(u8::from(share.is_udp));
            shares.extend(share.first.to_be_bytes());
            shares.extend(share.last.to_be_bytes());
        }
        put_field(out, tag::SHARES, &shares);
        put_field(out, tag::HOST, &[u8::from(self.host)]);
    }
}

impl TurnedAway {
    fn number(self) -> u8 {
        match self {
            Self::Used => 1,
            Self::Expired => 2,
            Self::Oneself => 3,
            Self::NotAdded => 4,
            Self::Unknown(number) => number,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            1 => Self::Used,
            2 => Self::Expired,
            3 => Self::Oneself,
            4 => Self::NotAdded,
            other => Self::Unknown(other),
        }
    }
}

/// A text's first bytes, cut between characters.
fn cut(text: &str, length: usize) -> &str {
    text.get(..text.floor_char_boundary(length)).unwrap_or(text)
}

/// All fields that a message of either kind may have.
#[derive(Default)]
struct Fields {
    id: Option<PeerId>,
    name: String,
    servers: Vec<OfferedServer>,
    shares: Vec<Share>,
    host: bool,
    turned_away: Option<TurnedAway>,
    signature: Option<[u8; 64]>,
}

impl Fields {
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut fields = Self::default();
        while !reader.is_empty() {
            // The signature is over all that stands before it.
            if fields.signature.is_some() {
                return Err(DecodeError::BadValue("signature"));
            }
            let tag = reader.u8()?;
            let length = usize::from(reader.u16()?);
            fields.take(tag, reader.bytes(length)?)?;
        }
        Ok(fields)
    }

    fn take(&mut self, tag: u8, value: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(value);
        match tag {
            tag::ID => {
                let id = PeerId::from_bytes(&reader.array()?);
                self.id = Some(id.map_err(|_| DecodeError::BadValue("identity"))?);
                reader.finish()?;
            }
            tag::NAME if value.len() > MAX_NAME => return Err(DecodeError::TooLong("name")),
            tag::NAME => self.name = text(value, "name")?,
            tag::SERVERS => self.servers = servers(reader)?,
            tag::SHARES => self.shares = shares(reader)?,
            tag::HOST => self.host = reader.u8()? == 1,
            tag::TURNED_AWAY => self.turned_away = Some(TurnedAway::of(reader.u8()?)),
            tag::SIGNATURE => {
                self.signature = Some(reader.array()?);
                reader.finish()?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::BadValue(field))?;
    Ok(text.to_owned())
}

/// Servers of a kind that is not known are passed over.
fn servers(mut reader: Reader<'_>) -> Result<Vec<OfferedServer>, DecodeError> {
    let mut servers = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let length = usize::from(reader.u8()?);
        let address = reader.bytes(length)?;
        if kind > 1 {
            continue;
        }
        if servers.len() == MAX_SERVERS {
            return Err(DecodeError::TooLong("servers"));
        }
        servers.push(OfferedServer {
            is_stun: kind == 1,
            address: text(address, "server")?,
        });
    }
    Ok(servers)
}

fn shares(mut reader: Reader<'_>) -> Result<Vec<Share>, DecodeError> {
    let mut shares = Vec::new();
    while !reader.is_empty() {
        let (kind, first, last) = (reader.u8()?, reader.u16()?, reader.u16()?);
        if kind > 1 {
            continue;
        }
        if shares.len() == MAX_SHARES {
            return Err(DecodeError::TooLong("shares"));
        }
        if first == 0 || last < first {
            return Err(DecodeError::BadValue("ports"));
        }
        shares.push(Share {
            is_udp: kind == 1,
            first,
            last,
        });
    }
    Ok(shares)
}
