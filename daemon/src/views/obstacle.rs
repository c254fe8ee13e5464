//! What keeps a call from reaching a peer or from being answered, with a sentence about it and what to do.

use punch_api::{Obstacle, PeerName, PeerState, ServerKind};
use punch_engine::{Contact, LinkStatus};

use super::facts::{Facts, ServerFacts};
use super::refused;

/// An obstacle, for people.
pub(super) struct Told {
    pub(super) obstacle: Obstacle,
    pub(super) sentence: String,
    pub(super) advice: Option<String>,
}

/// What is in the way of a connection with a Punch peer, as far as it is known.
pub(super) fn obstacle(
    facts: &Facts<'_>,
    name: &PeerName,
    state: PeerState,
    link: &LinkStatus,
) -> Option<Told> {
    if state == PeerState::Refused {
        return Some(told_down(name));
    }
    if let Some((refusal, _)) = link.refused
        && !matches!(link.contact, Contact::NoServer | Contact::Unwanted)
    {
        return Some(Told {
            obstacle: Obstacle::RefusedByPeer,
            sentence: format!("{}.", refused::sentence(name, refusal)),
            advice: Some(refused::advice(name, refusal)),
        });
    }
    let me = facts.id;
    let (obstacle, sentence, advice) = match link.contact {
        Contact::Unwanted | Contact::Called | Contact::Answered => return None,
        Contact::NoServer => return no_server(facts, name),
        Contact::Offline => (
            Obstacle::Offline,
            format!(
                "{name} is not online at any signalling server that this machine reaches: its punchd is off or has no network, or it uses other servers."
            ),
            format!(
                "Start punchd on {name}, and give both machines a signalling server in common: punchctl server list."
            ),
        ),
        Contact::Goodbye => (
            Obstacle::Goodbye,
            format!(
                "{name} has said goodbye: it was told `down`, it has removed this machine, or its punchd was stopped."
            ),
            format!("On {name}: punchctl peers shows whether it refuses or knows this machine."),
        ),
        Contact::Silent { has_met: false } => (
            Obstacle::Silent,
            format!(
                "{name} is online but does not answer; most likely it has not added this machine."
            ),
            format!("On {name}: punchctl peer add NAME {me}"),
        ),
        Contact::Silent { has_met: true } => (
            Obstacle::Silent,
            format!(
                "{name} is online but does not answer, as it did before: most likely it was told `down`, or has removed this machine."
            ),
            format!("On {name}: punchctl up NAME, or: punchctl peer add NAME {me}"),
        ),
    };
    Some(Told {
        obstacle,
        sentence,
        advice: Some(advice),
    })
}

/// What the user has said: the third condition of a peer, beside only added and `up`.
pub(super) fn told_down(name: &PeerName) -> Told {
    Told {
        obstacle: Obstacle::Refused,
        sentence: format!("You took {name} down; it is refused until: punchctl up {name}"),
        advice: None,
    }
}

/// The signalling servers that are not reached, each with its trouble.
fn troubles<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = String> + 'a {
    let is_signal = |server: &&ServerFacts<'_>| server.address.kind() == ServerKind::Signal;
    let servers = facts.servers.iter().filter(is_signal);
    let dead = servers.filter(|server| !server.connected);
    dead.filter_map(|server| Some(format!("{}: {}", server.address, server.trouble.as_ref()?)))
}

/// What is to be said first where nothing carries packets and a call has gone out over some servers: those that are not reached
/// might relay, and the peer may be there alone.
pub(super) fn advice_on_dead_servers(facts: &Facts<'_>, name: &PeerName) -> Vec<String> {
    let dead = troubles(facts);
    let advice = dead.map(|dead| {
        format!(
            "A signalling server is not reached from here, so it neither relays nor passes calls to {name} on: {dead}"
        )
    });
    advice.collect()
}

/// No signalling server is reached; nothing is said while the first attempt to reach one is under way.
fn no_server(facts: &Facts<'_>, name: &PeerName) -> Option<Told> {
    let carries = |server: &&ServerFacts<'_>| server.address.kind() != ServerKind::Stun;
    let servers: Vec<_> = facts.servers.iter().filter(carries).collect();
    if servers.is_empty() {
        return Some(Told {
            obstacle: Obstacle::NoServer,
            sentence: match not_heard(facts, name) {
                Some(not_heard) => {
                    format!("This machine has no signalling server, and {not_heard}.")
                }
                None => {
                    format!("This machine has no signalling server, so {name} cannot be called.")
                }
            },
            advice: Some(
                "Add one that both machines reach: punchctl server add signal ws://HOST:8080; or let both find each other without one: punchctl server add public"
                    .to_owned(),
            ),
        });
    }
    let troubles: Option<Vec<_>> = servers
        .iter()
        .map(|server| Some(format!("{}: {}", server.address, server.trouble.as_ref()?)))
        .collect();
    Some(Told {
        obstacle: Obstacle::ServersUnreachable,
        sentence: format!(
            "This machine is connected to no signalling server{}, so {name} cannot be called: {}",
            not_heard(facts, name).map_or(String::new(), |text| format!(", and {text}")),
            troubles?.join("; ")
        ),
        advice: Some(
            "Look whether they run and can be reached from here: punchctl server list".to_owned(),
        ),
    })
}

/// That a peer is not heard in the networks of this machine, if it could be.
fn not_heard(facts: &Facts<'_>, name: &PeerName) -> Option<String> {
    let (_, lan) = facts.others.lan.as_ref()?;
    let links = lan.links.join(", ");
    (!links.is_empty()).then(|| format!("{name} is not heard in its networks ({links})"))
}
