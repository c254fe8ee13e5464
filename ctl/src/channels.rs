//! The status of what carries envelopes beside servers: the LAN and the DHT.

use punch_api::{DhtView, LanView};

use crate::output::Output;
use crate::units::duration;

/// The networks in which peers are called.
pub(crate) fn lan(out: &Output, view: &LanView) {
    if !view.links.is_empty() {
        let links = view.links.join(", ");
        let heard = view.heard.iter().map(|heard| heard.peer.to_string());
        let heard: Vec<_> = heard.collect();
        let heard = match heard.is_empty() {
            true => "no peer is heard there".to_owned(),
            false => format!("heard there: {}", heard.join(", ")),
        };
        out.line(format!(
            "LAN            peers are called on {links}; {heard}"
        ));
    }
    if let Some(trouble) = &view.trouble {
        out.line(format!("LAN            {trouble}"));
    }
}

/// How the DHT is.
pub(crate) fn dht(view: &DhtView) -> String {
    if let Some(trouble) = &view.trouble {
        return trouble.clone();
    }
    let answered = match view.answered_s {
        Some(seconds) => format!("one answered {} ago", duration(seconds)),
        None => "none has answered yet".to_owned(),
    };
    let address = view.address.map(|ip| format!(", seen at {ip}"));
    let vantage = match view.vantage {
        0 => String::new(),
        count => format!("; {count} of them are asked in place of STUN servers"),
    };
    format!(
        "{} nodes known, {answered}{}{vantage}",
        view.nodes,
        address.unwrap_or_default()
    )
}
