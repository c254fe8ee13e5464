//! The DHT's messages (BEP 5, "KRPC Protocol"; BEP 42 for `ip`, 43 for `ro`, 44 for `get` and `put`).

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::bencode::{BencodeError, Value, Writer};
use crate::id::NodeId;
use crate::item::Item;

/// The longest message that is read, in bytes: an item and 20 nodes have less.
pub const MAX_MESSAGE: usize = 2048;
/// The longest transaction id that is read, in bytes.
pub const MAX_TRANSACTION: usize = 32;
/// The longest token that is kept, in bytes: those of the usual programs have 4 to 20.
pub const MAX_TOKEN: usize = 64;
/// The nodes of one answer that are looked at; those of the usual programs have 8 to 20.
pub const MAX_NODES: usize = 20;
/// Bytes of a node in an answer.
const NODE: usize = 26;

/// A node, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its address.
    pub address: SocketAddrV4,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Are you there?
    Ping,
    /// Which nodes are nearest to this?
    FindNode(NodeId),
    /// Which item is at this place, and which nodes are nearest to it?
    Get(NodeId),
    /// Keep this item.
    Put {
        /// The item.
        item: Item,
        /// What the same node has answered to [`Query::Get`].
        token: Vec<u8>,
    },
}

impl Query {
    /// The bytes of a datagram. It tells that the sender answers no queries (BEP 43), so that nobody keeps its address.
    pub fn encode(&self, transaction: [u8; 4], own: NodeId) -> Vec<u8> {
        let mut out = Writer::default();
        out.dictionary(|out| {
            out.bytes(b"a");
            out.dictionary(|out| {
                out.entry("id", &own.0);
                match self {
                    Self::Ping => {}
                    Self::FindNode(target) | Self::Get(target) => out.entry("target", &target.0),
                    Self::Put { item, token } => {
                        out.entry("k", &item.key);
                        out.number("seq", item.seq);
                        out.entry("sig", &item.signature);
                        // Not of BEP 44, but there are nodes that refuse a query without it.
                        out.entry("target", &item.place().0);
                        out.entry("token", token);
                        out.entry("v", &item.value);
                    }
                }
            });
            let name = match self {
                Self::Ping => "ping",
                Self::FindNode(_) => "find_node",
                Self::Get(_) => "get",
                Self::Put { .. } => "put",
            };
            out.entry("q", name.as_bytes());
            out.number("ro", 1);
            out.entry("t", &transaction);
            out.entry("y", b"q");
        });
        out.finish()
    }

    /// Reads a query; its transaction, and who asks. Only tests' nodes need that: a client answers nobody.
    ///
    /// # Errors
    /// [`KrpcError`] for anything else; never panics.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Vec<u8>, NodeId), KrpcError> {
        let message = message(bytes)?;
        if text(&message, "y") != Some(b"q") {
            return Err(KrpcError::NotThat);
        }
        let transaction = transaction(&message)?;
        let arguments = message.get("a").ok_or(KrpcError::Missing("a"))?;
        let id = id(arguments)?;
        let target = || {
            let target = arguments.get("target").and_then(Value::array);
            target.map(NodeId).ok_or(KrpcError::Missing("target"))
        };
        let query = match text(&message, "q") {
            Some(b"ping") => Self::Ping,
            Some(b"find_node") => Self::FindNode(target()?),
            Some(b"get") => Self::Get(target()?),
            Some(b"put") => {
                let token = text(arguments, "token").ok_or(KrpcError::Missing("token"))?;
                Self::Put {
                    item: item(arguments).ok_or(KrpcError::Missing("v"))?,
                    token: token.to_vec(),
                }
            }
            _ => return Err(KrpcError::NotThat),
        };
        Ok((query, transaction, id))
    }
}

/// What a node has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The transaction of the query.
    pub transaction: Vec<u8>,
    /// Where the node saw the query come from (BEP 42).
    pub seen: Option<SocketAddrV4>,
    /// What it says.
    pub body: Body,
}

/// The part of an answer that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// It has done what was asked.
    Done {
        /// The node's name.
        id: NodeId,
        /// The nodes that it knows, at most [`MAX_NODES`].
        nodes: Vec<Node>,
        /// What it wants to see before it keeps an item.
        token: Option<Vec<u8>>,
        /// The item, not yet proven.
        item: Option<Item>,
    },
    /// It has not.
    Failed(i64),
}

/// Error numbers of BEP 44.
pub mod failure {
    /// The token is not, or no longer, right: BEP 5's "protocol error".
    pub const PROTOCOL: i64 = 203;
    /// The node has a newer item.
    pub const OLDER: i64 = 302;
}

/// Why a datagram is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KrpcError {
    /// Longer than any that is expected.
    #[error("the message is too long")]
    TooLong,
    /// Not bencoded.
    #[error(transparent)]
    Bencode(#[from] BencodeError),
    /// Another kind of message.
    #[error("the message is of another kind")]
    NotThat,
    /// Something is missing, or has the wrong form.
    #[error("the message has no proper `{0}`")]
    Missing(&'static str),
}

impl Answer {
    /// Reads a datagram. Nodes that cannot be asked (port 0) are left out.
    ///
    /// # Errors
    /// [`KrpcError`] for anything else, queries too; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, KrpcError> {
        let message = message(bytes)?;
        let transaction = transaction(&message)?;
        let seen = message.get("ip").and_then(|ip| place(ip.bytes()?));
        let body = match text(&message, "y") {
            Some(b"r") => {
                let values = message.get("r").ok_or(KrpcError::Missing("r"))?;
                let token = text(values, "token").filter(|token| token.len() <= MAX_TOKEN);
                Body::Done {
                    id: id(values)?,
                    nodes: nodes(text(values, "nodes").unwrap_or_default()),
                    token: token.map(<[u8]>::to_vec),
                    item: item(values),
                }
            }
            Some(b"e") => {
                let error = message.get("e").and_then(Value::list);
                let number = error.and_then(|list| list.first()?.integer());
                Body::Failed(number.ok_or(KrpcError::Missing("e"))?)
            }
            _ => return Err(KrpcError::NotThat),
        };
        Ok(Self {
            transaction,
            seen,
            body,
        })
    }

    /// The bytes of a datagram. Only tests' nodes need that.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.dictionary(|out| {
            if let Body::Failed(number) = self.body {
                out.bytes(b"e");
                out.list(|out| {
                    out.integer(number);
                    out.bytes(b"no");
                });
            }
            if let Some(seen) = self.seen {
                out.entry("ip", &compact(seen));
            }
            if let Body::Done {
                id,
                nodes,
                token,
                item,
            } = &self.body
            {
                out.bytes(b"r");
                out.dictionary(|out| {
                    out.entry("id", &id.0);
                    if let Some(item) = item {
                        out.entry("k", &item.key);
                    }
                    let bytes: Vec<_> = nodes.iter().flat_map(node).collect();
                    out.entry("nodes", &bytes);
                    if let Some(item) = item {
                        out.number("seq", item.seq);
                        out.entry("sig", &item.signature);
                    }
                    if let Some(token) = token {
                        out.entry("token", token);
                    }
                    if let Some(item) = item {
                        out.entry("v", &item.value);
                    }
                });
            }
            out.entry("t", &self.transaction);
            let kind = match self.body {
                Body::Done { .. } => b"r",
                Body::Failed(_) => b"e",
            };
            out.entry("y", kind);
        });
        out.finish()
    }
}

fn message(bytes: &[u8]) -> Result<Value<'_>, KrpcError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(KrpcError::TooLong);
    }
    Ok(Value::decode(bytes)?)
}

fn text<'a>(value: &Value<'a>, key: &str) -> Option<&'a [u8]> {
    value.get(key)?.bytes()
}

fn transaction(message: &Value<'_>) -> Result<Vec<u8>, KrpcError> {
    let transaction = text(message, "t").filter(|t| t.len() <= MAX_TRANSACTION);
    Ok(transaction.ok_or(KrpcError::Missing("t"))?.to_vec())
}

fn id(values: &Value<'_>) -> Result<NodeId, KrpcError> {
    let id = values.get("id").and_then(Value::array);
    id.map(NodeId).ok_or(KrpcError::Missing("id"))
}

/// An item, if all its parts are there and the value is a text.
fn item(values: &Value<'_>) -> Option<Item> {
    Some(Item {
        key: values.get("k")?.array()?,
        seq: values.get("seq")?.integer()?,
        value: text(values, "v")?.to_vec(),
        signature: values.get("sig")?.array()?,
    })
}

fn nodes(bytes: &[u8]) -> Vec<Node> {
    let each = bytes.chunks_exact(NODE).take(MAX_NODES);
    let read = each.filter_map(|bytes| {
        let (id, address) = bytes.split_at_checked(20)?;
        Some(Node {
            id: NodeId(id.try_into().ok()?),
            address: place(address)?,
        })
    });
    read.collect()
}

/// An address in six bytes, unless its port is none.
fn place(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, high, low] = <[u8; 6]>::try_from(bytes).ok()?;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

fn compact(address: SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

fn node(node: &Node) -> Vec<u8> {
    [&node.id.0[..], &compact(node.address)].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::*;

    const OWN: NodeId = NodeId(*b"abcdefghij0123456789");

    fn signed() -> Item {
        Item::sign(&SigningKey::from_bytes(&[3; 32]), 5, vec![b'x'; 996])
    }

    /// BEP 5, "DHT Queries", with the mark of BEP 43.
    #[test]
    fn queries_are_written_as_bep_5_shows() {
        assert_eq!(
            Query::Ping.encode(*b"aaaa", OWN),
            b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t4:aaaa1:y1:qe"
        );
        let target = NodeId(*b"mnopqrstuvwxyz123456");
        assert_eq!(
            Query::FindNode(target).encode(*b"aaaa", OWN),
            b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node2:roi1e1:t4:aaaa1:y1:qe"
        );
    }

    #[test]
    fn every_query_is_read_as_it_was_written() {
        let token = vec![1, 2, 3, 4];
        let item = signed();
        for query in [
            Query::Ping,
            Query::FindNode(OWN),
            Query::Get(OWN),
            Query::Put { item, token },
        ] {
            let bytes = query.encode(*b"zzzz", OWN);
            assert_eq!(Query::decode(&bytes), Ok((query, b"zzzz".to_vec(), OWN)));
            assert_eq!(Answer::decode(&bytes), Err(KrpcError::NotThat));
            assert!(bytes.len() < 1280, "fits a packet: {}", bytes.len());
        }
    }

    fn answer(nodes: usize) -> Answer {
        Answer {
            transaction: b"tttt".to_vec(),
            seen: Some("192.0.2.7:4711".parse().unwrap()),
            body: Body::Done {
                id: OWN,
                nodes: vec![
                    Node {
                        id: OWN,
                        address: "198.51.100.1:6881".parse().unwrap(),
                    };
                    nodes
                ],
                token: Some(vec![9; 8]),
                item: Some(signed()),
            },
        }
    }

    #[test]
    fn every_answer_is_read_as_it_was_written() {
        let failed = Answer {
            transaction: b"tttt".to_vec(),
            seen: None,
            body: Body::Failed(failure::OLDER),
        };
        for answer in [answer(20), answer(0), failed] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn more_nodes_than_are_usual_are_not_looked_at() {
        let read = Answer::decode(&answer(25).encode()).unwrap();
        let Body::Done { nodes, .. } = read.body else {
            panic!("an answer")
        };
        assert_eq!(nodes.len(), MAX_NODES);
        let long = answer(60).encode();
        assert_eq!(Answer::decode(&long), Err(KrpcError::TooLong));
    }

    /// A token of any length, an item whose key is short, a port of 0: what has the wrong form is not there.
    #[test]
    fn what_has_the_wrong_form_is_left_out() {
        let long = format!("65:{}", "t".repeat(65));
        let text = format!(
            "d1:rd2:id20:abcdefghij01234567891:k3:abc5:nodes26:abcdefghij0123456789\x01\x01\x01\x01\0\x003:seqi1e3:sig1:x5:token{long}1:v1:ve1:t1:a1:y1:re"
        );
        let read = Answer::decode(text.as_bytes()).unwrap();
        let empty = Body::Done {
            id: OWN,
            nodes: Vec::new(),
            token: None,
            item: None,
        };
        assert_eq!(read.body, empty);
        for text in [
            "d1:rd2:id3:abce1:t1:a1:y1:re",
            "d1:eli1ee1:y1:ee",
            "d1:ele1:t1:a1:y1:ee",
            "d1:t1:a1:y1:xe",
            "le",
        ] {
            assert!(Answer::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        /// Bytes of a true answer, some of them changed: read or refused.
        #[test]
        fn no_answer_is_too_broken(changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8), cut in any::<u16>()) {
            let mut bytes = answer(4).encode();
            for (at, to) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = to;
            }
            let _ = Answer::decode(&bytes);
            let _ = Query::decode(&bytes);
            bytes.truncate(usize::from(cut) % bytes.len());
            let _ = Answer::decode(&bytes);
        }
    }
}
