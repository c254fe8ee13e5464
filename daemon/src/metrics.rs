//! `/metrics`: what `punchctl status` knows, for Prometheus. daemon/docs/metrics.md describes each.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use punch_api::{ApiError, ForwardView, LanView, PeerState, ServerState, Status};
use punch_platform::clock;
use punch_service::prometheus::{self, Exposition, Samples};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

use crate::controller::request::{self, Request};
use crate::refusal::refuse;

/// A connection has this long for its request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is given again for this long: each costs the packet path some time.
const FRESH: Duration = Duration::from_secs(1);

/// Serves `/metrics` and nothing else over TCP, one connection after the other: who is slow holds up other readers of metrics
/// and nobody else.
pub(crate) async fn serve(listener: TcpListener, controller: mpsc::Sender<Request>) {
    let last: Mutex<Option<(Instant, String)>> = Mutex::new(None);
    let answer = |request: hyper::Request<Incoming>| {
        let (controller, last) = (&controller, &last);
        async move {
            if !is_asked_by_address(&request) {
                return Ok::<_, Infallible>(misdirected());
            }
            if request.method() != Method::GET || request.uri().path() != "/metrics" {
                return Ok(refuse(ApiError::not_found("only GET /metrics is here")));
            }
            let mut last = last.lock().await;
            let text = match &*last {
                Some((at, text)) if clock::now().saturating_duration_since(*at) < FRESH => {
                    String::clone(text)
                }
                _ => match request::call(controller, Request::Status).await {
                    Ok(status) => {
                        let text = expose(&status);
                        *last = Some((clock::now(), text.clone()));
                        text
                    }
                    Err(error) => return Ok(refuse(error)),
                },
            };
            Ok(respond(text))
        }
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a reader of metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let _ = tokio::time::timeout(PATIENCE, connection).await;
    }
}

/// Whether the request names this machine by an address or as `localhost`. A page of the web can have a browser ask here under a name
/// of its own (DNS rebinding), and would then read the answer.
fn is_asked_by_address<B>(request: &hyper::Request<B>) -> bool {
    let named = request.headers().get_all(HOST).iter();
    let named = named.map(|host| host.to_str().unwrap_or_default());
    let uri = request.uri().authority().map(Authority::as_str);
    named.chain(uri).all(|host| {
        let name = host.parse::<Authority>();
        name.is_ok_and(|name| {
            let name = name.host();
            let address = name.trim_start_matches('[').trim_end_matches(']');
            name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
        })
    })
}

fn misdirected() -> Response {
    let text = "metrics are told to whoever asks by this machine's address, or by localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// The answer to `GET /metrics` on the control socket.
pub(crate) async fn answer(controller: &mpsc::Sender<Request>) -> Response {
    match request::call(controller, Request::Status).await {
        Ok(status) => respond(expose(&status)),
        Err(error) => refuse(error),
    }
}

fn respond(text: String) -> Response {
    ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response()
}

fn expose(status: &Status) -> String {
    let mut metrics = Exposition::default();
    metrics
        .gauge("punch_build_info", "The version that runs; always 1.")
        .sample(&[("version", &status.version)], 1.0);
    metrics
        .gauge("punch_uptime_seconds", "Seconds since punchd started.")
        .value(status.uptime_s as f64);
    expose_peers(&mut metrics, status);

    let mut connected = metrics.gauge(
        "punch_server_connected",
        "Whether a signalling server is connected, or a STUN server answers.",
    );
    for server in &status.servers {
        let labels = [
            ("kind", &*server.kind.to_string()),
            ("address", &server.address),
        ];
        connected.sample(&labels, flag(server.state == ServerState::Connected));
    }

    if let Some(lan) = &status.lan {
        expose_lan(&mut metrics, lan);
    }
    expose_dht(&mut metrics, status);
    expose_forwards(&mut metrics, status);

    let mut dropped = metrics.counter(
        "punch_dropped_packets_total",
        "Packets that were not let through, by reason.",
    );
    for (reason, count) in &status.dropped {
        dropped.sample(&[("reason", reason)], *count as f64);
    }
    metrics.finish()
}

fn expose_lan(metrics: &mut Exposition, lan: &LanView) {
    let links = "Networks of this machine in which peers are called.";
    metrics
        .gauge("punch_lan_links", links)
        .value(lan.links.len() as f64);
    metrics
        .gauge("punch_lan_peers_heard", "Peers that are heard there.")
        .value(lan.heard.len() as f64);
    let mut datagrams = metrics.counter(
        "punch_lan_datagrams_total",
        "Datagrams of these networks, by what has become of them.",
    );
    for (outcome, count) in [
        ("sent", lan.sent),
        ("taken", lan.taken),
        ("stranger", lan.strangers),
        ("refused", lan.refused),
    ] {
        datagrams.sample(&[("outcome", outcome)], count as f64);
    }
}

/// The DHT, while it is switched on.
fn expose_dht(metrics: &mut Exposition, status: &Status) {
    let Some(dht) = &status.dht else { return };
    metrics
        .gauge("punch_dht_nodes", "Nodes of the DHT that answer.")
        .value(dht.nodes as f64);
    let mut packets = metrics.counter(
        "punch_dht_packets_total",
        "Queries to nodes of the DHT, and their answers.",
    );
    packets.sample(&[("direction", "sent")], dht.sent as f64);
    packets.sample(&[("direction", "received")], dht.received as f64);
    metrics
        .counter(
            "punch_dht_lookups_total",
            "Times that something was looked for or stored in the DHT.",
        )
        .value(dht.lookups as f64);
    let mut items = metrics.counter(
        "punch_dht_items_total",
        "Items that the DHT has stored for this machine, and items of peers that were found.",
    );
    items.sample(&[("what", "stored")], dht.stored as f64);
    items.sample(&[("what", "found")], dht.found as f64);
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn expose_peers(metrics: &mut Exposition, status: &Status) {
    let mut wanted = metrics.gauge(
        "punch_peer_wanted",
        "Whether a connection is wanted (punchctl up).",
    );
    for peer in &status.peers {
        wanted.sample(&[("peer", peer.name.as_str())], flag(peer.up));
    }
    let mut connected = metrics.gauge("punch_peer_connected", "Whether packets can flow.");
    for peer in &status.peers {
        let value = flag(peer.state == PeerState::Connected);
        connected.sample(&[("peer", peer.name.as_str())], value);
    }
    expose_paths(metrics, status);
    let mut age = metrics.gauge(
        "punch_peer_handshake_age_seconds",
        "Seconds since the last WireGuard handshake.",
    );
    for peer in &status.peers {
        if let Some(seconds) = peer.last_handshake_s {
            age.sample(&[("peer", peer.name.as_str())], seconds as f64);
        }
    }
    let mut received = metrics.counter(
        "punch_peer_received_bytes_total",
        "Bytes received inside the tunnel.",
    );
    for peer in &status.peers {
        received.sample(&[("peer", peer.name.as_str())], peer.received_bytes as f64);
    }
    let mut sent = metrics.counter(
        "punch_peer_sent_bytes_total",
        "Bytes sent inside the tunnel.",
    );
    for peer in &status.peers {
        sent.sample(&[("peer", peer.name.as_str())], peer.sent_bytes as f64);
    }
    expose_meetings(metrics, status);
}

/// What peers have to do with meeting places, here and there.
fn expose_meetings(metrics: &mut Exposition, status: &Status) {
    let guests = || {
        let peers = status.peers.iter();
        peers.filter_map(|peer| Some((peer.name.as_str(), peer.rights.relayed?)))
    };
    let mut bytes = metrics.counter(
        "punch_peer_relayed_bytes_total",
        "Bytes that this machine has relayed from a peer, and to it.",
    );
    for (peer, relayed) in guests() {
        for (direction, count) in [("from", relayed.from_bytes), ("to", relayed.to_bytes)] {
            bytes.sample(&[("peer", peer), ("direction", direction)], count as f64);
        }
    }
    let mut refused = metrics.counter(
        "punch_peer_relayed_refused_packets_total",
        "Packets of a peer that this machine has not relayed: too many, or to nobody.",
    );
    for (peer, relayed) in guests() {
        refused.sample(&[("peer", peer)], relayed.refused_packets as f64);
    }
    let mut meeting = metrics.gauge(
        "punch_peer_meeting_connected",
        "Whether the meeting place that a peer serves for this machine is reached.",
    );
    for peer in &status.peers {
        if let Some(state) = &peer.rights.meeting {
            let reached = *state == ServerState::Connected;
            meeting.sample(&[("peer", peer.name.as_str())], flag(reached));
        }
    }
}

fn expose_paths(metrics: &mut Exposition, status: &Status) {
    let mut path = metrics.gauge(
        "punch_peer_path_info",
        "How the path in use was found (RFC 8445); always 1.",
    );
    for peer in &status.peers {
        if let Some(view) = &peer.path {
            let kind = view.kind.to_string();
            let labels = [("peer", peer.name.as_str()), ("kind", kind.as_str())];
            path.sample(&labels, 1.0);
        }
    }
    let mut rtt = metrics.gauge(
        "punch_peer_rtt_seconds",
        "Smoothed round trip of the connectivity checks.",
    );
    for peer in &status.peers {
        if let Some(ms) = peer.path.as_ref().and_then(|path| path.rtt_ms) {
            rtt.sample(&[("peer", peer.name.as_str())], ms / 1000.0);
        }
    }
    let mut loss = metrics.gauge(
        "punch_peer_loss_ratio",
        "Part of the latest connectivity checks that was not answered.",
    );
    for peer in &status.peers {
        if let Some(view) = peer.path.as_ref().and_then(|path| path.loss.as_ref()) {
            loss.sample(&[("peer", peer.name.as_str())], view.fraction);
        }
    }
    let mut start = metrics.gauge(
        "punch_peer_path_start_time_seconds",
        "When packets began to take the path in use, in seconds since 1970.",
    );
    for peer in &status.peers {
        if let Some(ms) = peer.path.as_ref().and_then(|path| path.since_ms) {
            start.sample(&[("peer", peer.name.as_str())], ms as f64 / 1000.0);
        }
    }
}

fn expose_forwards(metrics: &mut Exposition, status: &Status) {
    let names = status.forwards.iter().map(|forward| {
        let name = (forward.protocol.to_string(), forward.ports.to_string());
        (name, forward)
    });
    let forwards: Vec<_> = names.collect();
    let expose = |mut samples: Samples<'_>, count: fn(&ForwardView) -> u64| {
        for ((protocol, ports), forward) in &forwards {
            let labels = [("protocol", protocol.as_str()), ("ports", ports)];
            samples.sample(&labels, count(forward) as f64);
        }
    };
    let open = metrics.gauge(
        "punch_forward_open_connections",
        "Connections (UDP: flows) of a forward that are open.",
    );
    expose(open, |forward| forward.open);
    let total = metrics.counter(
        "punch_forward_connections_total",
        "Connections (UDP: flows) of a forward since punchd started.",
    );
    expose(total, |forward| forward.total);
    let failed = metrics.counter(
        "punch_forward_failed_connections_total",
        "Connections (UDP: flows) of a forward that its target refused, or that had no way to it.",
    );
    expose(failed, |forward| forward.failed);
    let refused = metrics.counter(
        "punch_forward_refused_connections_total",
        "Connections (UDP: flows) of a forward that were refused because there were too many.",
    );
    expose(refused, |forward| forward.refused);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn asked(uri: &str, hosts: &[&str]) -> bool {
        let request = hyper::Request::builder().uri(uri);
        let request = hosts
            .iter()
            .fold(request, |request, host| request.header(HOST, *host));
        is_asked_by_address(&request.body(()).unwrap())
    }

    #[test]
    fn metrics_are_told_to_whoever_names_an_address_or_localhost() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9586",
            "[::1]:9586",
            "[fd70:756e:6368::1]",
            "192.0.2.7:95",
            "localhost",
            "LocalHost:9586",
        ] {
            assert!(asked("/metrics", &[host]), "{host}");
            assert!(asked(&format!("http://{host}/metrics"), &[]), "{host}");
        }
        assert!(asked("/metrics", &[]), "HTTP/1.0 names nobody");
        for host in [
            "",
            "rebound.example",
            "rebound.example:9586",
            "127.0.0.1.rebound.example",
            "localhost.rebound.example",
            "notlocalhost",
            "127.0.0.1 rebound.example",
            "[::1",
        ] {
            assert!(!asked("/metrics", &[host]), "{host}");
            assert!(!asked("/metrics", &["127.0.0.1", host]), "{host}");
        }
        assert!(!asked("http://rebound.example/metrics", &["127.0.0.1"]));
    }
}
