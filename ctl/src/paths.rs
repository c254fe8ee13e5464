//! What is said of a peer's path beside its address: since when and why packets take it, its loss, and why it is no direct one.

use std::time::{Duration, SystemTime};

use punch_api::{LossView, OpenEnum, PathKind, PathView, PeerView};

use crate::units::{bytes, duration};

/// How long packets have taken the path; `None` if that is not told.
pub(crate) fn age(view: &PathView) -> Option<String> {
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(view.since_ms?);
    // None if the clock has been set back.
    let passed = SystemTime::now().duration_since(since).unwrap_or_default();
    Some(duration(passed.as_secs()))
}

/// The loss: `0 %`, `0.5 %`, `12 %`.
pub(crate) fn percent(view: &LossView) -> String {
    let percent = 100.0 * view.fraction;
    if percent > 0.0 && percent < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// The loss, and what it is a part of.
pub(crate) fn loss(view: &LossView) -> String {
    format!(
        "loss {} of {} checks within {}",
        percent(view),
        view.samples,
        duration(view.window_s)
    )
}

/// Since when packets take the path, and why.
pub(crate) fn since(view: &PathView) -> Option<String> {
    let age = age(view)?;
    Some(match &view.because {
        Some(because) => format!("{age} ago: {because}"),
        None => format!("{age} ago"),
    })
}

/// What the list of peers says of a path and its traffic where there is room.
fn facts(peer: &PeerView, path: &PathView) -> String {
    let rtt = path.rtt_ms.map(|rtt| format!("{rtt:.1} ms"));
    let mtu = path.mtu.map(|mtu| format!("MTU {mtu}"));
    let kind = kind(&path.kind).to_owned();
    let received = format!("{} received", bytes(peer.received_bytes));
    let sent = format!("{} sent", bytes(peer.sent_bytes));
    let known = [Some(kind), rtt, mtu, Some(received), Some(sent)];
    known.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Sentences about the path of a peer: since when it serves and why, and why it is no direct one; also what there was no room for in
/// the `list` of peers.
pub(crate) fn sentences(peer: &PeerView, list: bool) -> Vec<String> {
    let Some(path) = &peer.path else {
        return Vec::new();
    };
    let name = &peer.name;
    let loss = path.loss.as_ref().map(loss);
    let loss = loss.map_or(String::new(), |loss| format!("; {loss}"));
    let facts = match list {
        true => format!("; {}", facts(peer, path)),
        false => String::new(),
    };
    let since = since(path).map(|since| format!("{name} took this path {since}{facts}{loss}"));
    let detour = path.detour.as_ref().map(|detour| {
        let way = match &path.via {
            Some(server) => format!("is relayed by {server}"),
            None => "is reached over TCP".to_owned(),
        };
        let because = &detour.because;
        match detour.advice.is_empty() {
            true => format!("{name} {way} because {because}"),
            false => {
                let advice = detour.advice.join(" ");
                format!("{name} {way} because {because}. What would help: {advice}")
            }
        }
    });
    since.into_iter().chain(detour).collect()
}

/// How the address was found, in words.
pub(crate) fn kind(kind: &OpenEnum<PathKind>) -> &str {
    match kind {
        OpenEnum::Known(PathKind::Host) => "host",
        OpenEnum::Known(PathKind::ServerReflexive) => "server-reflexive",
        OpenEnum::Known(PathKind::PeerReflexive) => "peer-reflexive",
        OpenEnum::Known(PathKind::PortMapped) => "port mapped",
        OpenEnum::Known(PathKind::Fixed) => "fixed",
        OpenEnum::Known(PathKind::Relayed) => "relayed",
        OpenEnum::Known(PathKind::Tcp) => "direct over TCP",
        OpenEnum::Unknown(word) => word,
    }
}
