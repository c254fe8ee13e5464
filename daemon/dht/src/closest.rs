//! The nodes that were found nearest to a place: what is looked for or stored there again need not walk.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::id::NodeId;
use crate::krpc::Node;
use crate::lookup::Storer;

/// Places that are remembered; of more, the one that was walked to longest ago is forgotten.
const MAX_PLACES: usize = 4096;
/// What a node has asked to see is good for so long at least: BEP 5 has ten minutes, of which some are left out.
const TOKEN: Duration = Duration::from_secs(4 * 60);
/// A place is walked to again after this, and then after four times as long each time: the first walks, of a client that knows few nodes,
/// may end beside the place.
const FIRST_WALK: Duration = Duration::from_secs(30);
/// Nodes come and go, so that there is a longest time.
const LAST_WALK: Duration = Duration::from_secs(45 * 60);
/// With fewer nodes left, too.
const FEWEST: usize = 4;

#[derive(Debug)]
struct Known {
    storers: Vec<(Storer, Instant)>,
    walked: Instant,
    /// How often it was walked to before.
    walks: u32,
}

impl Known {
    fn is_due(&self, now: Instant) -> bool {
        let wait = FIRST_WALK * 4_u32.saturating_pow(self.walks.min(4));
        let age = now.duration_since(self.walked);
        self.storers.len() < FEWEST || age > wait.min(LAST_WALK)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Closest {
    places: BTreeMap<NodeId, Known>,
}

impl Closest {
    /// These are the nearest.
    pub(crate) fn set(&mut self, place: NodeId, storers: Vec<Storer>, now: Instant) {
        if self.places.len() >= MAX_PLACES && !self.places.contains_key(&place) {
            let oldest = self.places.iter().min_by_key(|(_, known)| known.walked);
            let oldest = oldest.map(|(place, _)| *place);
            oldest.map(|oldest| self.places.remove(&oldest));
        }
        let before = self.places.get(&place);
        let known = Known {
            walks: before.map_or(0, |known| known.walks + 1),
            storers: storers.into_iter().map(|storer| (storer, now)).collect(),
            walked: now,
        };
        self.places.insert(place, known);
    }

    /// A node near to a place has answered again.
    pub(crate) fn renew(&mut self, place: NodeId, node: Node, token: Vec<u8>, now: Instant) {
        let Some(known) = self.places.get_mut(&place) else {
            return;
        };
        let mut storers = known.storers.iter_mut();
        let storer = storers.find(|(storer, _)| storer.node.address == node.address);
        if let Some(storer) = storer {
            *storer = (Storer { node, token }, now);
        }
    }

    /// A node near to a place does not answer, or not what was asked.
    pub(crate) fn fail(&mut self, place: NodeId, address: SocketAddrV4) {
        if let Some(known) = self.places.get_mut(&place) {
            let is_other = |(storer, _): &(Storer, Instant)| storer.node.address != address;
            known.storers.retain(is_other);
        }
    }

    pub(crate) fn forget(&mut self, place: NodeId) {
        self.places.remove(&place);
    }

    /// The nearest nodes, if a walk is not due.
    pub(crate) fn nodes(&self, place: NodeId, now: Instant) -> Option<Vec<Node>> {
        let known = self.places.get(&place)?;
        let nodes = known.storers.iter().map(|(storer, _)| storer.node);
        (!known.is_due(now)).then(|| nodes.collect())
    }

    /// The nodes that store something without being asked first.
    pub(crate) fn storers(&self, place: NodeId, now: Instant) -> Option<Vec<Storer>> {
        self.nodes(place, now)?;
        let storers = &self.places.get(&place)?.storers;
        let ready = storers
            .iter()
            .filter(|(_, since)| now.duration_since(*since) < TOKEN);
        let ready: Vec<_> = ready.map(|(storer, _)| storer.clone()).collect();
        (ready.len() >= FEWEST).then_some(ready)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }
}
