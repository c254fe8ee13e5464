//! `punchctl why`: why the path to a peer is as it is.

use punch_api::{NatView, OpenEnum, PlainView, Step, StepOutcome, StepView, WhyView};

use crate::output::{Cell, Colour, Output, Table};
use crate::paths;
use crate::render::{self, path_and_mtu};
use crate::units::bytes;

pub(crate) fn why(out: &Output, view: &WhyView) {
    out.sentences(&view.summary, 0);
    if let Some(refused) = &view.refused {
        let text = format!("refused {} ago: {}", span(refused.ago_s), refused.message);
        out.sentences(&text, 2);
    }
    if let Some(current) = &view.path {
        let loss = current.loss.as_ref().map(paths::loss);
        let loss = loss.map_or(String::new(), |loss| format!(", {loss}"));
        let text = format!("path    {}{loss}", path_and_mtu(current));
        out.sentences(&text, 8);
        if let Some(met) = &current.met_over {
            out.sentences(&format!("met     {met}"), 8);
        }
        if let Some(since) = paths::since(current) {
            out.sentences(&format!("since   {since}"), 8);
        }
    }
    match &view.plain {
        Some(plain) => {
            out.sentences(&traffic(plain), 8);
            out.line("");
            out.sentences(&render::its_configuration(&view.peer, plain), 0);
        }
        None => attempts(out, view),
    }
    if !view.advice.is_empty() {
        out.line("");
    }
    for advice in &view.advice {
        out.sentences(&format!("- {advice}"), 2);
    }
}

/// What has passed between this machine and a plain WireGuard peer.
fn traffic(view: &PlainView) -> String {
    let handshake = match view.last_handshake_s {
        Some(seconds) => format!("last handshake {seconds} s ago"),
        None => "no handshake so far".to_owned(),
    };
    format!(
        "tunnel  {handshake}; {} received, {} sent",
        bytes(view.received_bytes),
        bytes(view.sent_bytes)
    )
}

/// Both NATs, and what the attempt that is under way, or the last one, has tried.
fn attempts(out: &Output, view: &WhyView) {
    out.line("");
    out.sentences(&format!("here    {}", nat(view.mine.as_ref())), 8);
    out.sentences(&format!("there   {}", nat(view.theirs.as_ref())), 8);
    if !view.steps.is_empty() {
        out.line("");
        out.table(&Table {
            header: &[
                "STEP", "CHANCE", "RESULT", "MAPPINGS", "PACKETS", "PEAK", "TOOK",
            ],
            dispensable: &[5, 4, 3],
            last: &[],
            rows: view.steps.iter().map(row).collect(),
        });
    }
    let unlikely = view.steps.iter().find_map(|step| step.expected_s);
    if let Some(seconds) = unlikely {
        out.line(format!(
            "On average one attempt succeeds in {}.",
            span(seconds)
        ));
    }
    if view.failures > 0 {
        let next = view.retry_in_s.map_or(String::new(), |seconds| {
            format!("; the next begins in {}", span(seconds))
        });
        out.line(format!("{} failed{next}.", failed(view.failures)));
    }
    let budget = format!(
        "budget  {}: at most {} mappings alive, {} packets/s, {} packets to one address, {} s for a search",
        view.budget.name,
        view.budget.mappings,
        view.budget.packets_per_s,
        view.budget.packets_per_address,
        view.budget.duration_s
    );
    out.sentences(&budget, 8);
}

fn failed(count: u8) -> String {
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

fn row(step: &StepView) -> Vec<Cell> {
    let peak = if step.peak_rate > 0 {
        format!("{}/s", step.peak_rate)
    } else {
        "-".to_owned()
    };
    vec![
        name(&step.step).into(),
        percent(step.chance).into(),
        Cell::coloured(result(&step.outcome), colour(&step.outcome)),
        step.mappings.to_string().into(),
        step.packets.to_string().into(),
        peak.into(),
        span(step.took_s).into(),
    ]
}

fn name(step: &OpenEnum<Step>) -> &str {
    match step {
        OpenEnum::Known(Step::Checks) => "ordinary checks",
        OpenEnum::Known(Step::HoldAndProbe) => "hold and probe",
        OpenEnum::Known(Step::Meet) => "meet at predicted ports",
        OpenEnum::Known(Step::Birthday) => "birthday search",
        OpenEnum::Unknown(word) => word,
    }
}

fn result(outcome: &OpenEnum<StepOutcome>) -> &str {
    match outcome {
        OpenEnum::Known(StepOutcome::Waiting) => "waiting",
        OpenEnum::Known(StepOutcome::Running) => "running",
        OpenEnum::Known(StepOutcome::Found) => "found the path",
        OpenEnum::Known(StepOutcome::NotNeeded) => "not needed",
        OpenEnum::Known(StepOutcome::Exhausted) => "found none",
        OpenEnum::Known(StepOutcome::OverBudget) => "waits for the budget",
        OpenEnum::Known(StepOutcome::NoSockets) => "no socket could be opened",
        OpenEnum::Known(StepOutcome::NoPrediction) => "the ports could not be predicted",
        OpenEnum::Known(StepOutcome::Unmeasured) => "not made: a NAT is not measured",
        OpenEnum::Known(StepOutcome::TooUnlikely) => "not made: too unlikely",
        OpenEnum::Known(StepOutcome::PortsUsedUp) => "stopped: the NAT's ports are used up",
        OpenEnum::Known(StepOutcome::Unwatched) => "stopped: no STUN server answers",
        OpenEnum::Unknown(word) => word,
    }
}

fn colour(outcome: &OpenEnum<StepOutcome>) -> Option<Colour> {
    match outcome {
        OpenEnum::Known(StepOutcome::Found) => Some(Colour::Green),
        OpenEnum::Known(StepOutcome::Waiting | StepOutcome::Running) => Some(Colour::Yellow),
        OpenEnum::Known(_) | OpenEnum::Unknown(_) => None,
    }
}

fn percent(chance: f64) -> String {
    if chance > 0.0 && chance < 0.000_05 {
        "< 0.01 %".to_owned()
    } else if chance > 0.0 && chance < 0.01 {
        format!("{:.2} %", 100.0 * chance)
    } else {
        format!("{:.0} %", 100.0 * chance)
    }
}

/// A time, the longer the coarser: `2.5 s`, `61 s`, `5 min`.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
