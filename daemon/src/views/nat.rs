//! A NAT in the API's terms, and in words.

use punch_api::AllocationView;
use punch_engine::{Allocation, Filtering, Mapping};

pub(super) fn mapping_name(mapping: Mapping) -> String {
    match mapping {
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint_independent",
        Mapping::AddressDependent => "address_dependent",
        Mapping::AddressAndPortDependent => "address_and_port_dependent",
        Mapping::Dependent => "dependent",
    }
    .to_owned()
}

pub(super) fn filtering_name(filtering: Filtering) -> String {
    match filtering {
        Filtering::EndpointIndependent => "endpoint_independent",
        Filtering::AddressDependent => "address_dependent",
        Filtering::AddressAndPortDependent => "address_and_port_dependent",
    }
    .to_owned()
}

pub(super) fn allocation_view(allocation: Allocation) -> AllocationView {
    match allocation {
        Allocation::Preserving => AllocationView::Preserving,
        Allocation::Sequential { step, others } => AllocationView::Sequential { step, others },
        Allocation::Block { low, high } => AllocationView::Block { low, high },
        Allocation::Random => AllocationView::Random,
    }
}

/// A NAT in words.
pub(super) fn describe(
    mapping: Option<Mapping>,
    filtering: Option<Filtering>,
    allocation: Option<Allocation>,
) -> String {
    let filter = match filtering {
        Some(Filtering::EndpointIndependent) => "lets everybody in",
        Some(Filtering::AddressDependent) => "lets in who was sent to, from any port",
        Some(Filtering::AddressAndPortDependent) => "lets in only exactly who was sent to",
        None => "filters in a way that no server could test",
    };
    let ports = match allocation {
        Some(Allocation::Preserving) => "keeps the local port".to_owned(),
        Some(Allocation::Sequential { step, others: 0 }) => {
            format!("counts its ports by {step:+}")
        }
        Some(Allocation::Sequential { step, others }) => {
            format!("counts its ports by {step:+} while others take about {others} a second")
        }
        Some(Allocation::Block { low, high }) => {
            format!("takes ports at random between {low} and {high}")
        }
        Some(Allocation::Random) => "takes ports at random".to_owned(),
        None => "takes ports in a way that too few samples have shown".to_owned(),
    };
    match mapping {
        None => "not measured: no STUN server that can tell has answered".to_owned(),
        Some(Mapping::None) if filtering == Some(Filtering::EndpointIndependent) => {
            "no NAT and no firewall".to_owned()
        }
        Some(Mapping::None) => format!("no NAT, but a firewall that {filter}"),
        Some(Mapping::EndpointIndependent) => {
            format!("easy NAT: one public port for all destinations; it {filter}")
        }
        Some(Mapping::AddressDependent) => {
            format!("hard NAT: another public port for each address; it {ports} and {filter}")
        }
        Some(Mapping::AddressAndPortDependent | Mapping::Dependent) => {
            format!("hard NAT: another public port for each destination; it {ports} and {filter}")
        }
    }
}
