//! What is looked for or stored at one place: a walk to the nearest nodes, or a question to some of them, then the item's way to them.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use crate::id::NodeId;
use crate::item::Item;
use crate::krpc::Query;
use crate::lookup::{Lookup, Storer};
use crate::pace::Urgency;
use crate::queries::Purpose;

#[derive(Debug)]
pub(crate) struct Storing {
    pub(crate) item: Item,
    pub(crate) to: VecDeque<Storer>,
    pub(crate) under_way: usize,
    pub(crate) stored: usize,
    /// Whether it was begun without a walk.
    pub(crate) by_heart: bool,
}

#[derive(Debug)]
pub(crate) struct Operation {
    /// The key whose item is looked for; without one, nodes are.
    pub(crate) key: Option<[u8; 32]>,
    pub(crate) urgency: Urgency,
    pub(crate) lookup: Option<Lookup>,
    pub(crate) walks: bool,
    /// What is stored once the nearest nodes are known.
    pub(crate) item: Option<Item>,
    pub(crate) storing: Option<Storing>,
    pub(crate) stored: Option<usize>,
    pub(crate) outdated: bool,
    pub(crate) answers: usize,
    /// The sequence number of the newest item found.
    pub(crate) newest: Option<i64>,
}

impl Operation {
    /// What is to be sent next.
    pub(crate) fn next(&mut self, place: NodeId) -> Option<(SocketAddrV4, Query, Purpose)> {
        if let Some(lookup) = &mut self.lookup {
            let node = lookup.next()?;
            lookup.ask(node.address);
            let query = match self.key {
                Some(_) => Query::Get(place),
                None => Query::FindNode(place),
            };
            return Some((node.address, query, Purpose::Look));
        }
        let storing = self.storing.as_mut()?;
        let Storer { node, token } = storing.to.pop_front()?;
        storing.under_way += 1;
        let item = storing.item.clone();
        Some((node.address, Query::Put { item, token }, Purpose::Store))
    }

    /// Whether it has something to send.
    pub(crate) fn wants(&self) -> bool {
        match (&self.lookup, &self.storing) {
            (Some(lookup), _) => lookup.next().is_some(),
            (None, Some(storing)) => !storing.to.is_empty(),
            (None, None) => false,
        }
    }

    /// Whether its part that is under way has ended.
    pub(crate) fn is_over(&self) -> bool {
        match (&self.lookup, &self.storing) {
            (Some(lookup), _) => lookup.is_done(),
            (None, Some(storing)) => storing.to.is_empty() && storing.under_way == 0,
            (None, None) => true,
        }
    }
}
