//! Counters in Prometheus' text format: numbers only, no identities.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use punch_service::prometheus::{self, Exposition};

use super::client::Server;

/// Answers `GET /metrics`.
pub(super) async fn show(State(server): State<Server>) -> impl IntoResponse {
    let (online, connections, counters) =
        server.with(|hub| (hub.online(), hub.connections(), hub.counters()));
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
    (
        [(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)],
        metrics.finish(),
    )
}
