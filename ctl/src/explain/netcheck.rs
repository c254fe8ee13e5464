//! `punchctl netcheck`: what is known of the NAT of this machine.

use punch_api::{
    AddressFamily, Mapping, NetcheckView, OpenEnum, PortMappingView, ProbeKind, ProbeView,
    allocation_words, filtering_words, mapping_words,
};

use crate::output::Output;

/// The most ports of samples that are shown.
const PORTS_SHOWN: usize = 12;

pub(crate) fn netcheck(out: &Output, views: &[NetcheckView]) {
    if views.is_empty() {
        out.line("this machine has no address to check");
    }
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            out.line("");
        }
        out.line(public_address(view));
        for (label, text) in properties(view) {
            out.line(format!("  {label:<10} {text}"));
        }
        for line in evidence(&view.evidence) {
            out.line(format!("  {line}"));
        }
    }
}

fn public_address(view: &NetcheckView) -> String {
    let family = match &view.family {
        OpenEnum::Known(AddressFamily::Ipv4) => "IPv4",
        OpenEnum::Known(AddressFamily::Ipv6) => "IPv6",
        OpenEnum::Unknown(family) => family,
    };
    let used_up = "the NAT's ports are used up: it gives out no new ones until some are free again";
    if view.ports.used_up {
        match view.public {
            Some(public) => format!("{family}: servers see this machine as {public}; {used_up}"),
            None => format!("{family}: {used_up}"),
        }
    } else if view.udp_blocked {
        format!("{family}: no STUN server answers: UDP is blocked, or the servers are down")
    } else if let Some(public) = view.public {
        format!("{family}: servers see this machine as {public}")
    } else {
        format!("{family}: no STUN server for this family is known")
    }
}

/// The known properties of the NAT, each with its label.
fn properties(view: &NetcheckView) -> Vec<(&'static str, String)> {
    let behind_nat = !matches!(&view.mapping, Some(mapping) if *mapping == Mapping::None);
    let port = |kept: bool| {
        let text = if kept { "is kept" } else { "is changed" };
        format!("{text} by the NAT")
    };
    let addresses = || {
        let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
        addresses.join(", ")
    };
    let capacity = |count| {
        format!("{count} mappings for this machine and all that share them; a search leaves some")
    };
    let works = |works| if works { "works" } else { "does not work" }.to_owned();
    let lifetime = |seconds| format!("an unused mapping lives {seconds} s or more");
    let properties = [
        ("mapping", view.mapping.as_ref().map(mapping_words)),
        ("filtering", filtering(view)),
        ("port", view.preserves_port.filter(|_| behind_nat).map(port)),
        ("router", view.port_mapping.as_ref().map(port_mapping)),
        (
            "ports",
            view.allocation
                .as_ref()
                .map(|allocation| format!("the NAT {}", allocation_words(allocation))),
        ),
        ("capacity", view.ports.capacity.map(capacity)),
        ("addresses", (view.addresses.len() > 1).then(addresses)),
        ("hairpin", view.hairpinning.map(works)),
        ("lifetime", view.lifetime_s.map(lifetime)),
        ("depth", depth(view)),
    ];
    let known = properties.into_iter();
    known
        .filter_map(|(label, text)| Some((label, text?)))
        .collect()
}

fn filtering(view: &NetcheckView) -> Option<String> {
    match &view.filtering {
        Some(filtering) => Some(filtering_words(filtering)),
        None => view
            .public
            .map(|_| "not known: no server with two addresses answered (RFC 5780)".to_owned()),
    }
}

fn depth(view: &NetcheckView) -> Option<String> {
    let hops = view.opening_ttl?.saturating_sub(1);
    Some(if view.double_nat == Some(true) {
        format!("the filter is {hops} hops away, not the nearest router")
    } else {
        "the filter is the nearest router".to_owned()
    })
}

fn port_mapping(view: &PortMappingView) -> String {
    let mut text = match (view.external, &view.protocol) {
        (Some(external), Some(protocol)) => format!("maps {external} here ({protocol})"),
        _ => "no mapped port".to_owned(),
    };
    if let Some(trouble) = &view.trouble {
        text.push_str(": ");
        text.push_str(trouble);
    }
    if view.double_nat {
        text.push_str("; double NAT: only machines behind the same carrier reach that address");
    }
    text
}

/// The answers of the servers: the ports of all samples in one line, every other probe in a line of its own.
fn evidence(probes: &[ProbeView]) -> Vec<String> {
    let (samples, others): (Vec<_>, Vec<_>) = probes
        .iter()
        .partition(|probe| probe.probe == ProbeKind::Sample);
    let ports: Vec<_> = samples
        .iter()
        .filter_map(|probe| Some(probe.mapped?.port().to_string()))
        .collect();
    let mut lines = Vec::new();
    if !ports.is_empty() {
        let shown: Vec<_> = ports.iter().take(PORTS_SHOWN).cloned().collect();
        let more = if ports.len() > PORTS_SHOWN {
            " …"
        } else {
            ""
        };
        let shown = shown.join(" ");
        lines.push(format!("{} samples, ports {shown}{more}", ports.len()));
    }
    lines.extend(others.into_iter().map(|probe| {
        let outcome = match (probe.mapped, probe.rtt_ms) {
            (Some(mapped), Some(rtt)) => format!("{mapped} in {rtt:.1} ms"),
            _ => "no answer".to_owned(),
        };
        let asked = probe.probe.to_string().replace('_', " ");
        format!("{} {asked}: {outcome}", probe.server)
    }));
    lines
}
