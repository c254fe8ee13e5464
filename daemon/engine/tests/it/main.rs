//! What the engine promises, seen from outside: two engines with real WireGuard inside, in virtual time, and one engine
//! against a bare WireGuard peer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

mod bot;
mod chaos;
mod configuration;
mod connect;
mod contact;
mod course;
mod flow;
mod forward;
mod fragment;
mod handover;
mod hostile;
mod inbound;
mod load;
mod meeting;
mod mtu;
mod offer;
mod outbox;
mod packets;
mod plain;
mod quiet;
mod range;
mod rekey;
mod relay;
mod repeat;
mod replace;
mod search;
mod servers;
mod switchboard;
mod tcp;
mod trio;
mod wireguard;
mod wires;
mod world;
