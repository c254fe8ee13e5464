//! Counters in Prometheus' text format: numbers only, no identities.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use punch_service::prometheus::{self, Exposition};

use crate::hub::relay::{DropReason, RelayCounters};
use crate::serve::relay::Relay;
use crate::serve::server::Server;

/// Answers `GET /metrics`.
pub(super) async fn show(State(server): State<Server>) -> impl IntoResponse {
    let (online, connections, links, joins, counters) = server.with(|hub| {
        let (links, joins) = (hub.relay_links(), hub.relay_joins());
        (
            hub.online(),
            hub.connections(),
            links,
            joins,
            hub.counters(),
        )
    });
    let mut metrics = Exposition::default();
    metrics
        .gauge(
            "punch_signal_build_info",
            "The version that runs; always 1.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for (name, help, value) in [
        ("punch_signal_online", "Clients online.", online),
        (
            "punch_signal_connections",
            "Connections, also those that have not proven an identity yet.",
            connections,
        ),
        ("punch_signal_relay_links", "Links of the relay.", links),
        (
            "punch_signal_relay_joins",
            "Joins that wait for the other end of a link.",
            joins,
        ),
    ] {
        metrics.gauge(name, help).value(value as f64);
    }
    for (name, help, value) in [
        (
            "punch_signal_logins_total",
            "Clients that proved an identity.",
            counters.logins,
        ),
        (
            "punch_signal_delivered_total",
            "Envelopes passed on.",
            counters.delivered,
        ),
        (
            "punch_signal_unreachable_total",
            "Envelopes without receiver.",
            counters.unreachable,
        ),
        (
            "punch_signal_refused_total",
            "Connections refused or closed.",
            counters.refused,
        ),
    ] {
        metrics.counter(name, help).value(value as f64);
    }
    show_relay(&mut metrics, server.relay(), counters.unknown_links);
    (
        [(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)],
        metrics.finish(),
    )
}

/// All zero where nothing is relayed, so that no series comes and goes.
fn show_relay(metrics: &mut Exposition, relay: Option<&Relay>, unknown_leaves: u64) {
    let counters = relay.map(Relay::counters);
    let bytes = counters.map_or(0, RelayCounters::bytes);
    let packets = counters.map_or(0, RelayCounters::packets);
    metrics
        .gauge(
            "punch_signal_relay_waiting_bytes",
            "Bytes of relay frames that wait for their receivers.",
        )
        .value(counters.map_or(0, RelayCounters::waiting) as f64);
    metrics
        .counter(
            "punch_signal_relay_bytes_total",
            "Bytes of relay frames passed on.",
        )
        .value(bytes as f64);
    metrics
        .counter(
            "punch_signal_relay_packets_total",
            "Relayed packets passed on.",
        )
        .value(packets as f64);
    let mut samples = metrics.counter(
        "punch_signal_relay_dropped_packets_total",
        "Relayed packets dropped, and why.",
    );
    for reason in DropReason::ALL {
        let dropped = counters.map_or(0, |counters| counters.dropped(reason));
        samples.sample(&[("reason", reason.name())], dropped as f64);
    }
    metrics
        .counter(
            "punch_signal_relay_unknown_leaves_total",
            "Links that clients wanted to leave and that were not there.",
        )
        .value(unknown_leaves as f64);
}
