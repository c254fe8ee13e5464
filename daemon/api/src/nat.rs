//! The properties of a NAT: as values for programs, and in words for people. Nothing else puts a NAT into words.

use punch_signal_protocol::{Allocation, Filtering, Mapping};
use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;

/// How a NAT allots ports to new mappings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AllocationView {
    /// A model that this program knows.
    Known(Allocation),
    /// A model that is newer than this program.
    Unknown {
        /// The name of the model.
        model: String,
    },
}

impl From<Allocation> for AllocationView {
    fn from(allocation: Allocation) -> Self {
        Self::Known(allocation)
    }
}

/// Whether a NAT is easy or hard to traverse, and what it does with the public port.
fn difficulty(mapping: Mapping) -> Option<(&'static str, &'static str)> {
    match mapping {
        Mapping::None => None,
        Mapping::EndpointIndependent => Some(("easy", "one public port for all destinations")),
        Mapping::AddressDependent => Some(("hard", "another public port for each address")),
        Mapping::AddressAndPortDependent | Mapping::Dependent => {
            Some(("hard", "another public port for each destination"))
        }
    }
}

/// A mapping behaviour (RFC 4787 §4.1), by its term and in words.
pub fn mapping_words(mapping: &OpenEnum<Mapping>) -> String {
    let mapping = match mapping {
        OpenEnum::Known(mapping) => *mapping,
        OpenEnum::Unknown(word) => return unknown(word),
    };
    let term = match mapping {
        Mapping::None => "no NAT",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address- and port-dependent",
        Mapping::Dependent => "depends on the destination",
    };
    match (mapping, difficulty(mapping)) {
        (_, None) => term.to_owned(),
        (Mapping::AddressAndPortDependent, Some((difficulty, ports))) => {
            format!("{term} ({difficulty}, \"symmetric\": {ports})")
        }
        (_, Some((difficulty, ports))) => format!("{term} ({difficulty}: {ports})"),
    }
}

/// A filtering behaviour (RFC 4787 §5), by its term and in words.
pub fn filtering_words(filtering: &OpenEnum<Filtering>) -> String {
    let term = match filtering {
        OpenEnum::Known(Filtering::EndpointIndependent) => "endpoint-independent",
        OpenEnum::Known(Filtering::AddressDependent) => "address-dependent",
        OpenEnum::Known(Filtering::AddressAndPortDependent) => "address- and port-dependent",
        OpenEnum::Unknown(word) => return unknown(word),
    };
    format!("{term} ({})", admission(Some(filtering)))
}

/// What a filter does, as the end of a sentence about it.
fn admission(filtering: Option<&OpenEnum<Filtering>>) -> String {
    let words = match filtering {
        Some(OpenEnum::Known(Filtering::EndpointIndependent)) => "lets everybody in",
        Some(OpenEnum::Known(Filtering::AddressDependent)) => {
            "lets in only addresses that were contacted before"
        }
        Some(OpenEnum::Known(Filtering::AddressAndPortDependent)) => {
            "lets in only addresses and ports that were contacted before"
        }
        Some(OpenEnum::Unknown(word)) => return format!("filters by {}", unknown(word)),
        None => "filters in a way that no server could test",
    };
    words.to_owned()
}

/// How a NAT allots ports, as the end of a sentence about it.
pub fn allocation_words(allocation: &AllocationView) -> String {
    match allocation {
        AllocationView::Known(Allocation::Preserving) => {
            "keeps the local port wherever it is free".to_owned()
        }
        AllocationView::Known(Allocation::Sequential { step, others: 0 }) => {
            format!("gives each new mapping the last port {step:+}")
        }
        AllocationView::Known(Allocation::Sequential { step, others }) => format!(
            "gives each new mapping the last port {step:+} while others take about {others} a second"
        ),
        AllocationView::Known(Allocation::Block { low, high }) => {
            format!("takes ports at random between {low} and {high}")
        }
        AllocationView::Known(Allocation::Random) => "takes ports at random".to_owned(),
        AllocationView::Unknown { model } => format!("allots ports by {}", unknown(model)),
    }
}

/// A whole NAT in one sentence.
pub fn nat_words(
    mapping: Option<&OpenEnum<Mapping>>,
    filtering: Option<&OpenEnum<Filtering>>,
    allocation: Option<&AllocationView>,
) -> String {
    let mapping = match mapping {
        None => return "not measured: no STUN server that can tell has answered".to_owned(),
        Some(OpenEnum::Unknown(word)) => return unknown(word),
        Some(OpenEnum::Known(mapping)) => *mapping,
    };
    let filter = admission(filtering);
    let Some((difficulty, ports)) = difficulty(mapping) else {
        return match filtering {
            Some(OpenEnum::Known(Filtering::EndpointIndependent)) => {
                "no NAT and no firewall".to_owned()
            }
            Some(_) => format!("no NAT, but a firewall that {filter}"),
            None => "no NAT; a STUN server with two addresses can tell whether a firewall filters"
                .to_owned(),
        };
    };
    if mapping == Mapping::EndpointIndependent {
        return format!("{difficulty} NAT: {ports}; it {filter}");
    }
    let allots = allocation.map_or_else(
        || "allots ports in a way that too few samples have shown".to_owned(),
        allocation_words,
    );
    format!("{difficulty} NAT: {ports}; it {allots} and {filter}")
}

/// The word of an alternative that is newer than this program.
fn unknown(word: &str) -> String {
    format!(
        "`{}`, which is newer than this version",
        word.replace('_', " ")
    )
}
