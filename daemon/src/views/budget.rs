//! What an attempt may demand of the routers.

use punch_api::BudgetView;
use punch_engine::{Budget, Caps, NatProfile};

/// Shows a budget with its limits, as far as this machine's NAT lets it go.
pub(super) fn budget(budget: Budget, mine: Option<&NatProfile>) -> BudgetView {
    let caps = Caps::of(budget);
    let allowed = mine.map_or(caps.mappings, |mine| mine.allowed(budget));
    BudgetView {
        name: budget.into(),
        mappings: allowed,
        packets_per_s: caps.rate,
        packets_per_address: caps.packets(),
        duration_s: caps.duration.as_secs(),
    }
}
