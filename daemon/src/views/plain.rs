//! How it stands with a plain WireGuard peer: nothing is looked for, so the two configurations are all there is to explain.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{PeerState, PeerView, PlainView, WhyView};

use super::facts::Facts;
use super::{budget, obstacle};

/// Tells how it stands with a plain WireGuard peer that packets go to at its endpoint.
pub(super) fn why(facts: &Facts<'_>, view: PeerView, state: PeerState) -> WhyView {
    let name = &view.name;
    let endpoint = view.path.as_ref().map(|path| path.remote);
    let at = endpoint.map_or(String::new(), |endpoint| format!(" at {endpoint}"));
    let (mut told, mut advice) = (None, Vec::new());
    let summary = match (state, view.last_handshake_s) {
        (PeerState::Refused, _) => {
            let refused = obstacle::told_down(name);
            told = Some(refused.obstacle.into());
            refused.sentence
        }
        (PeerState::Down, _) => format!("Nobody has asked for a connection to {name}."),
        (_, Some(seconds)) => {
            format!("{name} is a plain WireGuard peer{at}; the last handshake was {seconds} s ago.")
        }
        (_, None) => {
            advice.push(format!(
                "Check that {name} is on, that its firewall lets UDP in at that port, and what its configuration says of this machine."
            ));
            format!("{name} is a plain WireGuard peer{at} that has not answered so far.")
        }
    };
    let ours = [
        facts
            .config
            .ipv4
            .map(|range| facts.id.overlay_ipv4(range).into()),
        Some(facts.id.overlay_ipv6().into()),
    ];
    WhyView {
        peer: view.name.clone(),
        state: view.state,
        path: view.path,
        summary,
        refused: None,
        obstacle: told,
        plain: Some(PlainView {
            endpoint,
            last_handshake_s: view.last_handshake_s,
            received_bytes: view.received_bytes,
            sent_bytes: view.sent_bytes,
            public_key: BASE64_STANDARD.encode(facts.id.x25519()),
            allowed_ips: ours.into_iter().flatten().map(alone).collect(),
        }),
        mine: None,
        theirs: None,
        steps: Vec::new(),
        failures: 0,
        retry_in_s: None,
        budget: budget::budget(facts.config.budget, None),
        advice,
    }
}

/// A network of this one address.
fn alone(ip: IpAddr) -> String {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{length}")
}
