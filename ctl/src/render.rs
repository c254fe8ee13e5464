//! Answers of punchd for people: what identities, peers, servers, forwards, pings and events look like.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use punch_api::{
    Event, ForwardTrouble, ForwardView, IdView, KeyView, OpenEnum, PathKind, PathView, PeerId,
    PeerKey, PeerName, PeerState, PeerView, PingView, PlainView, ServerKind, ServerState,
    ServerView, Status, StrangerView,
};

use crate::channels;
use crate::output::{Cell, Colour, Output, Table};
use crate::paths::{self, kind};
use crate::units::{bytes, duration};

/// The columns of how long a peer's path has served, and of its loss.
const FOR: usize = 4;
const LOSS: usize = 5;
/// What went wrong at a forward's target this lately is so now.
const JUST_NOW: Duration = Duration::from_secs(10);

pub(crate) fn id(out: &Output, view: &IdView) {
    out.line(view.id);
    out.line(format!("overlay IPv6   {}", view.ipv6));
    match view.ipv4 {
        Some(ipv4) => out.line(format!("overlay IPv4   {ipv4}")),
        None => out.line("overlay IPv4   off"),
    }
    out.line(format!("WireGuard key  {}", view.wireguard));
}

pub(crate) fn key(out: &Output, view: &KeyView) {
    out.line(format!("identity       {}", view.id));
    out.line(format!("WireGuard key  {}", view.wireguard));
    out.line(format!("secret         in {}", view.file));
}

pub(crate) fn status(out: &Output, view: &Status) {
    out.line(format!(
        "punchd {}, up for {}, interface {}",
        view.version,
        duration(view.uptime_s),
        view.interface
    ));
    id(out, &view.id);
    let network = &view.network;
    let udp = ports(network.port_v4, network.port_v6);
    out.line(format!("UDP ports      {udp}"));
    let tcp = ports(network.tcp_port_v4, network.tcp_port_v6);
    if !tcp.is_empty() {
        out.line(format!("TCP ports      {tcp}"));
    }
    if let Some(prefix) = &network.nat64 {
        out.line(format!(
            "IPv4           through this network's translator (NAT64), {prefix}"
        ));
    }
    for candidate in &view.network.candidates {
        out.line(format!(
            "reachable at   {} ({})",
            candidate.address,
            kind(&candidate.kind)
        ));
    }
    if let Some(view) = &view.lan {
        channels::lan(out, view);
    }
    if let Some(dht) = &view.dht {
        out.line(format!("DHT            {}", channels::dht(dht)));
    }
    out.line("");
    servers(out, &view.servers);
    out.line("");
    peers(out, &view.peers);
    out.line("");
    forwards(out, &view.forwards);
    for warning in &view.warnings {
        out.line("");
        out.line(format!("warning: {warning}"));
    }
    if !view.strangers.is_empty() {
        out.line("");
    }
    for stranger in &view.strangers {
        out.sentences(&unknown(stranger), 2);
    }
    let dropped: Vec<_> = view
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {count}", reason.replace('_', " ")))
        .collect();
    if !dropped.is_empty() {
        out.line("");
        out.sentences(&format!("packets refused: {}", dropped.join(", ")), 2);
    }
}

/// Ports of both families.
fn ports(v4: Option<u16>, v6: Option<u16>) -> String {
    let ports = [("IPv4", v4), ("IPv6", v6)];
    let ports = ports
        .iter()
        .filter_map(|(family, port)| Some(format!("{} ({family})", (*port)?)));
    ports.collect::<Vec<_>>().join(", ")
}

/// A configuration for a plain WireGuard peer, as wg-quick(8) reads it; what only that machine knows is left to fill in.
pub(crate) fn wireguard_config(key: &PeerKey, status: &Status) -> String {
    let PeerKey::Wireguard {
        key,
        address,
        preshared,
        ..
    } = key
    else {
        return String::new();
    };
    let whole = |ip: IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let own = match (address, status.id.ipv4) {
        (IpAddr::V4(_), Some(ipv4)) => ipv4.into(),
        _ => status.id.ipv6.into(),
    };
    let public = |kind| {
        let mut candidates = status.network.candidates.iter();
        candidates.find(move |candidate| candidate.kind == kind)
    };
    let endpoint = public(PathKind::PortMapped)
        .or_else(|| public(PathKind::ServerReflexive))
        .map_or_else(
            || "# Endpoint = where this machine is reached: HOST:PORT".to_owned(),
            |candidate| format!("Endpoint = {}", candidate.address),
        );
    let mut lines = vec![
        "[Interface]".to_owned(),
        format!("# PrivateKey = the secret of {key}"),
        format!("Address = {}", whole(*address)),
        String::new(),
        "[Peer]".to_owned(),
        format!("PublicKey = {}", status.id.wireguard),
    ];
    if preshared.is_some() {
        lines.push("# PresharedKey = as in the file".to_owned());
    }
    lines.extend([
        format!("AllowedIPs = {}", whole(own)),
        endpoint,
        "PersistentKeepalive = 25".to_owned(),
    ]);
    lines.join("\n")
}

/// A machine that has called and is no peer; whether it is the user's own, only the user can know.
fn unknown(view: &StrangerView) -> String {
    let times = if view.asked == 1 {
        "once".to_owned()
    } else {
        format!("{} times", view.asked)
    };
    format!(
        "unknown machine {} has called {times}, last {} ago; if it is yours, add it with: punchctl peer add NAME {}",
        short(&view.id),
        duration(view.last_s),
        view.id
    )
}

/// The beginning of an identity, by which people tell machines apart.
fn short(id: &PeerId) -> String {
    let beginning: String = id.to_string().chars().take(12).collect();
    format!("{beginning}…")
}

pub(crate) fn servers(out: &Output, views: &[ServerView]) {
    if views.is_empty() {
        out.nothing("no servers: others find this machine in its own network only; add one with: punchctl server add signal wss://HOST, or use what is public: punchctl server add public");
        return;
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            let is_stun = view.kind != ServerKind::Signal;
            let state = match (&view.state, &view.trouble) {
                (OpenEnum::Known(ServerState::Connected), _) if is_stun => "answers".to_owned(),
                (OpenEnum::Known(ServerState::Connected), _) => match &view.proxy {
                    Some(proxy) => format!("connected, through the proxy {proxy}"),
                    None => "connected".to_owned(),
                },
                (OpenEnum::Known(ServerState::Connecting), Some(trouble)) if is_stun => {
                    format!("does not answer: {trouble}")
                }
                (OpenEnum::Known(ServerState::Connecting), Some(trouble)) => {
                    format!("not connected: {trouble}")
                }
                (OpenEnum::Known(ServerState::Connecting), None) => "connecting".to_owned(),
                (OpenEnum::Unknown(state), _) => state.clone(),
            };
            let colour = match &view.state {
                OpenEnum::Known(ServerState::Connected) => Some(Colour::Green),
                OpenEnum::Known(ServerState::Connecting) if view.trouble.is_some() => {
                    Some(Colour::Red)
                }
                OpenEnum::Known(ServerState::Connecting) => Some(Colour::Yellow),
                OpenEnum::Unknown(_) => None,
            };
            vec![
                view.kind.to_string().into(),
                view.address.clone().into(),
                Cell::coloured(state, colour),
            ]
        })
        .collect();
    out.table(&Table {
        header: &["SERVER", "ADDRESS", "STATE"],
        dispensable: &[],
        last: &[],
        rows,
    });
}

pub(crate) fn peers(out: &Output, views: &[PeerView]) {
    if views.is_empty() {
        out.nothing("no peers; make a code for another machine with: punchctl invite, or type the one that it has made: punchctl join CODE");
        return;
    }
    if !out.is_terminal() {
        let rows = views.iter().map(|view| {
            let mut row = peer(view, paths::sentences(view, false));
            // Programs that count the columns find them where they have been: what the two say is in the sentences, too.
            row.drain(FOR..=LOSS);
            row
        });
        out.table(&Table {
            header: &[],
            dispensable: &[],
            last: &[],
            rows: rows.collect(),
        });
        return;
    }
    let less = out.table(&Table {
        header: &[
            "PEER", "STATE", "ADDRESS", "PATH", "FOR", "LOSS", "RECEIVED", "SENT", "NOTE",
        ],
        dispensable: &[7, 6],
        last: &[LOSS, FOR],
        rows: views.iter().map(|view| peer(view, Vec::new())).collect(),
    });
    let sentences = views.iter().flat_map(|view| paths::sentences(view, less));
    let sentences: Vec<_> = sentences.collect();
    if !sentences.is_empty() {
        out.line("");
        sentences.iter().for_each(|text| out.sentences(text, 2));
    }
}

/// The row of a peer; `more` is to be noted besides.
fn peer(view: &PeerView, more: Vec<String>) -> Vec<Cell> {
    let address = match (view.ipv4, view.ipv6) {
        (Some(ipv4), _) => ipv4.to_string(),
        (None, Some(ipv6)) => ipv6.to_string(),
        (None, None) => "-".to_owned(),
    };
    let mut extra = Vec::new();
    if view.rights.host {
        extra.push("may reach this host".to_owned());
    }
    if view.direct_only {
        extra.push("direct only".to_owned());
    }
    let met = view.path.as_ref().and_then(|path| path.met_over.as_ref());
    extra.extend(met.map(|met| format!("met {met}")));
    extra.extend(meeting(view));
    extra.extend(view.note.clone());
    extra.extend(more);
    let path = view.path.as_ref();
    let loss = path.and_then(|view| view.loss.as_ref());
    vec![
        view.name.to_string().into(),
        Cell::coloured(state(&view.state), state_colour(&view.state)),
        address.into(),
        path.map_or("-".into(), |view| {
            Cell::from(path_and_mtu(view)).or_briefly(brief_path(view))
        }),
        path.and_then(paths::age).unwrap_or_default().into(),
        loss.map_or(String::new(), paths::percent).into(),
        bytes(view.received_bytes).into(),
        bytes(view.sent_bytes).into(),
        extra.join("; ").into(),
    ]
}

/// What a peer has to do with meeting places, here and there.
fn meeting(view: &PeerView) -> Vec<String> {
    let here = match &view.rights.relayed {
        Some(relayed) => Some(format!(
            "relayed here: {} from it, {} to it{}",
            bytes(relayed.from_bytes),
            bytes(relayed.to_bytes),
            match relayed.refused_packets {
                0 => String::new(),
                refused => format!(", {refused} packets refused"),
            }
        )),
        None => view.rights.relay.then(|| "may meet others here".to_owned()),
    };
    let there = view.rights.meeting.as_ref().map(|state| match state {
        OpenEnum::Known(ServerState::Connected) => "relays for this machine".to_owned(),
        _ => "invites to meet others, and is not reached for that".to_owned(),
    });
    here.into_iter().chain(there).collect()
}

pub(crate) fn forwards(out: &Output, views: &[ForwardView]) {
    if views.is_empty() {
        out.nothing("this machine shares nothing; share a port with: punchctl forward tcp PORT");
        return;
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            vec![
                format!("{} {}", view.protocol, view.ports).into(),
                view.target.to_string().into(),
                allowed(view).into(),
                view.open.to_string().into(),
                view.total.to_string().into(),
                unless_zero(view.failed).into(),
                unless_zero(view.refused).into(),
                view.trouble.as_ref().map_or("".into(), |trouble| {
                    let passed = duration(age(trouble).as_secs());
                    let text = format!("{}, {passed} ago", trouble.message);
                    Cell::coloured(text, Some(Colour::Red)).or_briefly(&trouble.message)
                }),
            ]
        })
        .collect();
    out.table(&Table {
        header: &[
            "FORWARD", "TARGET", "FOR", "OPEN", "TOTAL", "FAILED", "REFUSED", "TROUBLE",
        ],
        dispensable: &[4, 3, 6, 5],
        last: &[],
        rows,
    });
}

/// A count of what should not happen.
fn unless_zero(count: u64) -> String {
    match count {
        0 => String::new(),
        count => count.to_string(),
    }
}

/// The time since it was noticed; none if the clock has been set back.
fn age(trouble: &ForwardTrouble) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(trouble.at_ms);
    SystemTime::now().duration_since(at).unwrap_or_default()
}

/// Says that a connection to a forward's target does not succeed.
pub(crate) fn no_answer(out: &Output, view: &ForwardView, trouble: &ForwardTrouble) {
    let target = &view.target;
    let place = format!(" at {target}");
    let why = trouble.message.strip_suffix(&place);
    let why = why.unwrap_or(&trouble.message);
    let text = match age(trouble) {
        passed if passed < JUST_NOW => format!("note: nothing answers at {target} now ({why})"),
        passed => format!(
            "note: nothing answered at {target} when it was last tried, {} ago ({why})",
            duration(passed.as_secs())
        ),
    };
    out.sentences(&text, 2);
}

/// Says what a new forward does, and in which direction: the habit of `ssh -L` has the other one.
pub(crate) fn forward(out: &Output, view: &ForwardView, me: &IdView) {
    let peers = match view.peers.len() {
        0 => "",
        1 => "peer ",
        _ => "peers ",
    };
    let (ports, lead) = if view.ports.first() == view.ports.last() {
        ("port", "it leads")
    } else {
        ("ports", "they lead")
    };
    let address = me.ipv4.map_or(me.ipv6.into(), IpAddr::from);
    let text = format!(
        "shared: peers reach {} {ports} {} of THIS machine at {address}; {lead} to {}, for {peers}{}",
        view.protocol,
        view.ports,
        view.target,
        allowed(view)
    );
    out.sentences(&text, 2);
}

/// Says how to use a peer's port, to somebody whose forward leads there.
pub(crate) fn no_forward_needed(out: &Output, view: &ForwardView, peer: &PeerView) {
    let address = peer.ipv4.map(IpAddr::from).or(peer.ipv6.map(IpAddr::from));
    let to = address.map_or(String::new(), |ip| {
        format!(": connect to {}", SocketAddr::new(ip, view.target.port()))
    });
    let text = format!(
        "note: to use {}'s port no forward is needed here{to}",
        peer.name
    );
    out.sentences(&text, 2);
}

/// What the configuration of a plain WireGuard peer must say of this machine.
pub(crate) fn its_configuration(peer: &PeerName, view: &PlainView) -> String {
    format!(
        "On {peer}, the section [Peer] for this machine must have PublicKey = {}, AllowedIPs = {}",
        view.public_key,
        view.allowed_ips.join(", ")
    )
}

pub(crate) fn connected(out: &Output, peer: &PeerView) {
    let addresses = [
        peer.ipv4.map(|ip| ip.to_string()),
        peer.ipv6.map(|ip| ip.to_string()),
    ];
    let addresses: Vec<_> = addresses.into_iter().flatten().collect();
    out.line(format!(
        "connected to {} at {}{}",
        peer.name,
        addresses.join(" and "),
        peer.path
            .as_ref()
            .map_or(String::new(), |view| match &view.via {
                Some(server) => {
                    let why = format!("punchctl why {}", peer.name);
                    match &view.detour {
                        Some(detour) => format!(
                            ", relayed by {server} because {}; what would help: {why}",
                            detour.because
                        ),
                        None => format!(", relayed by {server}; why not directly: {why}"),
                    }
                }
                None if peer.direct_only => format!(", via {}, never relayed", path(view)),
                None => format!(", via {}", path(view)),
            })
    ));
}

pub(crate) fn ping(out: &Output, peer: &PeerName, view: &PingView) {
    out.line(format!(
        "{peer} ({}) answers in {:.2} ms{}",
        view.address,
        view.rtt_ms,
        view.path
            .as_ref()
            .map_or(String::new(), |view| match &view.via {
                Some(server) => format!(", relayed by {server}"),
                None if view.kind == PathKind::Tcp => format!(", via {} over TCP", view.remote),
                None => format!(", via {}", view.remote),
            })
    ));
}

/// Says that packets take another path now than those of the ping before.
pub(crate) fn path_change(
    out: &Output,
    peer: &PeerName,
    before: Option<&PathView>,
    now: Option<&PathView>,
) {
    let (Some(before), Some(now)) = (before, now) else {
        return;
    };
    let way = |view: &PathView| match &view.via {
        Some(server) => format!("over the relay {server}"),
        None if view.kind == PathKind::Tcp => format!("directly over TCP to {}", view.remote),
        None => format!("directly to {}", view.remote),
    };
    let because = now.because.as_ref();
    let because = because.map_or(String::new(), |because| format!(": {because}"));
    let (before, now) = (way(before), way(now));
    if before != now {
        out.line(format!(
            "packets to {peer} go {now} now, no longer {before}{because}"
        ));
    }
}

pub(crate) fn event(out: &Output, data: &str) {
    if out.json {
        out.line(data);
        return;
    }
    match serde_json::from_str::<Event>(data) {
        Ok(event) => {
            let seconds = event.at_ms / 1000 % 86_400;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            out.line(format!(
                "{hours:02}:{minutes:02}:{:02} UTC  {}",
                seconds % 60,
                event.message
            ));
        }
        Err(_) => out.line(data),
    }
}

/// The peers that may use a forward.
fn allowed(view: &ForwardView) -> String {
    if view.peers.is_empty() {
        return "all peers".to_owned();
    }
    let names: Vec<_> = view.peers.iter().map(PeerName::as_str).collect();
    names.join(", ")
}

pub(crate) fn path(view: &PathView) -> String {
    if let Some(server) = &view.via {
        let rtt = view.rtt_ms.map(|rtt| format!(" ({rtt:.1} ms)"));
        return format!("relayed by {server}{}", rtt.unwrap_or_default());
    }
    let through = view.nat64.as_ref().map(|_| ", through NAT64");
    let rtt = view.rtt_ms.map(|rtt| format!(", {rtt:.1} ms"));
    format!(
        "{} ({}{}{})",
        view.remote,
        kind(&view.kind),
        through.unwrap_or_default(),
        rtt.unwrap_or_default()
    )
}

/// The same in few words.
fn brief_path(view: &PathView) -> String {
    match &view.via {
        Some(_) => "relayed".to_owned(),
        None if view.kind == PathKind::Tcp => format!("{} (TCP)", view.remote),
        None => view.remote.to_string(),
    }
}

/// The same with the longest packet that fits.
pub(crate) fn path_and_mtu(view: &PathView) -> String {
    let mtu = view.mtu.map(|mtu| format!(", MTU {mtu}"));
    format!("{}{}", path(view), mtu.unwrap_or_default())
}

pub(crate) fn state(state: &OpenEnum<PeerState>) -> &str {
    match state {
        OpenEnum::Known(PeerState::Down) => "down",
        OpenEnum::Known(PeerState::Refused) => "refused",
        OpenEnum::Known(PeerState::Waiting) => "waiting",
        OpenEnum::Known(PeerState::Connecting) => "connecting",
        OpenEnum::Known(PeerState::Connected) => "connected",
        OpenEnum::Unknown(word) => word,
    }
}

fn state_colour(state: &OpenEnum<PeerState>) -> Option<Colour> {
    match state {
        OpenEnum::Known(PeerState::Connected) => Some(Colour::Green),
        OpenEnum::Known(PeerState::Waiting | PeerState::Connecting) => Some(Colour::Yellow),
        OpenEnum::Known(PeerState::Refused) => Some(Colour::Red),
        OpenEnum::Known(PeerState::Down) | OpenEnum::Unknown(_) => None,
    }
}
