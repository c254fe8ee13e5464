//! What NATs are like, and why a path is as it is, for people.

use punch_api::{
    AllocationView, MappingProtocol, NatView, NetcheckView, PortMappingView, StepView, WhyView,
};

use crate::output::Output;
use crate::render::path;

pub(crate) fn netcheck(out: &Output, views: &[NetcheckView]) {
    if views.is_empty() {
        out.line("this machine has no address to check");
    }
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            out.line("");
        }
        let family = if view.family == "ipv6" {
            "IPv6"
        } else {
            "IPv4"
        };
        if view.udp_blocked {
            out.line(format!(
                "{family}: no STUN server answers: UDP is blocked, or the servers are down"
            ));
        } else if let Some(public) = view.public {
            out.line(format!("{family}: servers see this machine as {public}"));
        } else {
            out.line(format!("{family}: no STUN server for this family is known"));
        }
        if let Some(mapping) = &view.mapping {
            out.line(format!("  mapping    {}", explain_mapping(mapping)));
        }
        if let Some(filtering) = &view.filtering {
            out.line(format!("  filtering  {}", explain_filtering(filtering)));
        } else if view.public.is_some() {
            out.line("  filtering  not known: no server with two addresses answered (RFC 5780)");
        }
        if let (Some(kept), true) = (view.preserves_port, view.mapping.as_deref() != Some("none")) {
            let text = if kept { "is kept" } else { "is changed" };
            out.line(format!("  port       {text} by the NAT"));
        }
        if let Some(mapping) = &view.port_mapping {
            out.line(format!("  router     {}", explain_port_mapping(mapping)));
        }
        if let Some(allocation) = view.allocation {
            out.line(format!("  ports      {}", explain_allocation(allocation)));
        }
        if view.addresses.len() > 1 {
            let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
            out.line(format!("  addresses  {}", addresses.join(", ")));
        }
        if let Some(works) = view.hairpinning {
            let text = if works { "works" } else { "does not work" };
            out.line(format!("  hairpin    {text}"));
        }
        if let Some(seconds) = view.lifetime_s {
            out.line(format!(
                "  lifetime   an unused mapping lives {seconds} s or more"
            ));
        }
        if let Some(ttl) = view.opening_ttl {
            let hops = ttl - 1;
            let text = if view.double_nat == Some(true) {
                format!("what filters stands {hops} hops away, not at the nearest router")
            } else {
                "what filters is the nearest router".to_owned()
            };
            out.line(format!("  depth      {text}"));
        }
        let samples = view.evidence.iter().filter(|probe| probe.probe == "sample");
        let ports: Vec<_> = samples
            .filter_map(|probe| Some(probe.mapped?.port().to_string()))
            .collect();
        if !ports.is_empty() {
            let shown = ports.iter().take(12).cloned().collect::<Vec<_>>().join(" ");
            let more = if ports.len() > 12 { " …" } else { "" };
            out.line(format!("  {} samples, ports {shown}{more}", ports.len()));
        }
        for probe in view.evidence.iter().filter(|p| p.probe != "sample") {
            let outcome = match (probe.mapped, probe.rtt_ms) {
                (Some(mapped), Some(rtt)) => format!("{mapped} in {rtt:.1} ms"),
                _ => "no answer".to_owned(),
            };
            out.line(format!(
                "  {} {}: {outcome}",
                probe.server,
                probe.probe.replace('_', " ")
            ));
        }
    }
}

fn explain_port_mapping(view: &PortMappingView) -> String {
    let protocol = view.protocol.map(|protocol| match protocol {
        MappingProtocol::Pcp => "PCP",
        MappingProtocol::NatPmp => "NAT-PMP",
        MappingProtocol::Upnp => "UPnP",
    });
    let mut text = match (view.external, protocol) {
        (Some(external), Some(protocol)) => format!("leads {external} here ({protocol})"),
        _ => "maps no port".to_owned(),
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

fn explain_mapping(mapping: &str) -> &str {
    match mapping {
        "none" => "no NAT",
        "endpoint_independent" => {
            "endpoint-independent (easy: one public port for all destinations)"
        }
        "address_dependent" => "address-dependent (hard: another public port for each destination)",
        "address_and_port_dependent" => {
            "address- and port-dependent (hard, \"symmetric\": another public port for each destination)"
        }
        "dependent" => "depends on the destination (hard)",
        other => other,
    }
}

fn explain_filtering(filtering: &str) -> &str {
    match filtering {
        "endpoint_independent" => "endpoint-independent (everybody may send in)",
        "address_dependent" => "address-dependent (addresses that were sent to may send in)",
        "address_and_port_dependent" => {
            "address- and port-dependent (only who was sent to may send in)"
        }
        other => other,
    }
}

fn explain_allocation(allocation: AllocationView) -> String {
    match allocation {
        AllocationView::Preserving => "preserved: the local one, wherever it is free".to_owned(),
        AllocationView::Sequential { step, others: 0 } => {
            format!("sequential: each next mapping gets the last port {step:+}")
        }
        AllocationView::Sequential { step, others } => format!(
            "sequential: each next mapping gets the last port {step:+}; others take about {others} a second"
        ),
        AllocationView::Block { low, high } => format!("random between {low} and {high}"),
        AllocationView::Random => "random over all".to_owned(),
    }
}

pub(crate) fn why(out: &Output, view: &WhyView) {
    out.line(&view.summary);
    if let Some(current) = &view.path {
        out.line(format!("path    {}", path(current)));
    }
    out.line("");
    out.line(format!("here    {}", nat(view.mine.as_ref())));
    out.line(format!("there   {}", nat(view.theirs.as_ref())));
    if !view.steps.is_empty() {
        out.line("");
        let rows: Vec<_> = view.steps.iter().map(row).collect();
        let header = [
            "STEP", "CHANCE", "RESULT", "MAPPINGS", "PACKETS", "PEAK", "TOOK",
        ];
        out.table(&header, &rows);
    }
    let unlikely = view.steps.iter().find_map(|step| step.expected_s);
    if let Some(seconds) = unlikely {
        out.line(format!(
            "On the average it takes {} of attempts until one succeeds.",
            span(seconds)
        ));
    }
    if view.failures > 0 {
        let next = view.retry_in_s.map_or(String::new(), |seconds| {
            format!("; the next one begins in {}", span(seconds))
        });
        out.line(format!(
            "{} failed in a row{next}.",
            attempts(view.failures)
        ));
    }
    out.line(format!(
        "budget  {}: at most {} mappings alive, {} packets/s, {} packets to one address, {} s for a search",
        view.budget.name,
        view.budget.mappings,
        view.budget.packets_per_s,
        view.budget.packets_per_address,
        view.budget.duration_s
    ));
    if !view.advice.is_empty() {
        out.line("");
    }
    for advice in &view.advice {
        out.line(format!("- {advice}"));
    }
}

fn attempts(count: u8) -> String {
    if count == 1 {
        "1 attempt has".to_owned()
    } else {
        format!("{count} attempts have")
    }
}

fn nat(view: Option<&NatView>) -> String {
    let Some(view) = view else {
        return "not known yet".to_owned();
    };
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        return view.summary.clone();
    }
    format!("{} ({})", view.summary, addresses.join(", "))
}

fn row(step: &StepView) -> Vec<String> {
    let name = match step.step.as_str() {
        "checks" => "ordinary checks",
        "hold_and_probe" => "hold and probe",
        "meet" => "meet at predicted ports",
        "birthday" => "birthday search",
        other => other,
    };
    let result = match step.outcome.as_str() {
        "found" => "found the path",
        "not_needed" => "not needed",
        "exhausted" => "found none",
        "over_budget" => "waits for the budget",
        "no_sockets" => "no socket could be opened",
        "no_prediction" => "the ports could not be predicted",
        other => other,
    };
    let peak = if step.peak_rate > 0 {
        format!("{}/s", step.peak_rate)
    } else {
        "-".to_owned()
    };
    vec![
        name.to_owned(),
        percent(step.chance),
        result.to_owned(),
        step.mappings.to_string(),
        step.packets.to_string(),
        peak,
        span(step.took_s),
    ]
}

fn percent(chance: f64) -> String {
    if chance > 0.0 && chance < 0.01 {
        format!("{:.2} %", 100.0 * chance)
    } else {
        format!("{:.0} %", 100.0 * chance)
    }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
