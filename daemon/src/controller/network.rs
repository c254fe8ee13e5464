//! What the network around this machine means for it: its addresses, its router, and which overlay addresses are used.

use std::collections::BTreeSet;
use std::net::IpAddr;

use punch_api::{ApiError, ErrorCode, PeerKey, PeerName};
use punch_platform::clock;
use punch_state::{Difference, Refusal};

use super::{Controller, change};
use crate::driver::command::Command;
use crate::interface::Network;
use crate::overlay::{Judge, Verdict};
use crate::views::events;

impl Controller {
    /// The network may have changed: it is looked at, and whoever has to know is told.
    pub(super) async fn network_changed(&mut self) {
        match self.interface.look().await {
            Network::Gone => return self.order(Command::InterfaceGone).await,
            Network::Unknown(error) => {
                tracing::warn!(%error, "the network of this machine is not known");
                return;
            }
            Network::There { addresses, gateway } => {
                self.port_mapping.set_gateway(gateway);
                let addresses = addresses.iter().map(|address| address.ip).collect();
                self.order(Command::Addresses(addresses)).await;
            }
        }
        self.judge_all().await;
        self.interface.mend(clock::now()).await;
    }

    /// Gives the interface this machine's addresses, before there are any peers.
    ///
    /// # Errors
    /// The kernel's refusal of an IPv4 address.
    pub(super) async fn set_own_addresses(&mut self) -> anyhow::Result<()> {
        let own = self.overlay.own_addresses(&self.machine);
        self.interface.set_own(own).await
    }

    async fn judge_all(&mut self) {
        let own = self.judge_own();
        let all: BTreeSet<_> = self.overlay.addresses().into_iter().collect();
        let verdicts = self.judge(&all);
        let mut touched: BTreeSet<_> = verdicts.iter().map(|verdict| verdict.ip).collect();
        let mut names: BTreeSet<_> = owners(&verdicts).collect();
        if own {
            if let Err(error) = self.set_own_addresses().await {
                tracing::warn!(error = format!("{error:#}"), "no IPv4 inside the tunnel");
            }
            let ip = self.machine.addresses().first().copied();
            let why = self.overlay.why_no_own();
            if let Some((kind, message)) = ip.map(|ip| events::overlay(None, ip, why)) {
                tracing::warn!("{message}");
                self.broadcast(kind, message);
            }
            touched.extend(all.into_iter().filter(IpAddr::is_ipv4));
            names.extend(self.state.peers.keys().cloned());
        }
        if !names.is_empty() {
            let difference = Difference {
                changed: names.into_iter().collect(),
                ..Difference::default()
            };
            self.enforce(&difference, touched).await;
        }
        self.tell(&verdicts);
        if let Some(due) = self.overlay.due() {
            self.interface.look_at(due);
        }
    }

    /// Judges these addresses; tells of which the answer is another one now.
    pub(super) fn judge(&mut self, addresses: &BTreeSet<IpAddr>) -> Vec<Verdict> {
        let interface = &self.interface;
        let reached = |ip| interface.taken(ip);
        let judge = Judge {
            own: self.machine.addresses(),
            reached: &reached,
            now: clock::now(),
        };
        self.overlay.judge(addresses.iter().copied(), &judge)
    }

    pub(super) fn judge_own(&mut self) -> bool {
        let interface = &self.interface;
        let reached = |ip| interface.taken(ip);
        let judge = Judge {
            own: self.machine.addresses(),
            reached: &reached,
            now: clock::now(),
        };
        self.overlay.judge_own(&judge)
    }

    /// Tells the engine what differs, and leads these addresses into the tunnel or no longer.
    pub(super) async fn enforce(&mut self, difference: &Difference, touched: BTreeSet<IpAddr>) {
        let engine = change::engine(
            difference,
            &self.state,
            change::Ground {
                machine: &self.machine,
                overlay: &self.overlay,
                history: &self.history,
            },
            &mut self.handles,
        );
        self.order(Command::Configure(engine)).await;
        let is_used = |ip: &IpAddr| self.overlay.is_used(*ip);
        let (added, removed): (Vec<_>, Vec<_>) = touched.into_iter().partition(is_used);
        self.interface.change_routes(&removed, &added).await;
    }

    /// Says which overlay addresses are not used from now on, or are again.
    pub(super) fn tell(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            for owner in &verdict.owners {
                let owner = Some(owner.clone());
                let (kind, message) = events::overlay(owner, verdict.ip, verdict.why.as_ref());
                if verdict.why.is_some() {
                    tracing::warn!("{message}");
                } else {
                    tracing::info!("{message}");
                }
                self.broadcast(kind, message);
            }
        }
    }

    /// Where servers are may have changed, or where packets to a peer go: the overlay addresses among these are judged anew, soon.
    pub(super) fn judge_soon(&mut self, touched: &BTreeSet<IpAddr>) {
        if !touched.is_empty() {
            self.interface.look_at(clock::now());
        }
    }

    /// Refuses a plain WireGuard peer whose address inside the tunnel this machine reaches otherwise: nobody has computed that
    /// address from a key, and whoever may add peers must not choose what this machine's packets are led away from.
    ///
    /// # Errors
    /// What reaches it, or that the kernel does not tell.
    pub(super) async fn check_address(&self, key: &PeerKey) -> Result<(), ApiError> {
        let PeerKey::Wireguard { address, .. } = key else {
            return Ok(());
        };
        let ip = *address;
        let taken = match self.overlay.needed(ip) {
            Some(taken) => Some(taken),
            None => self.interface.ask(ip).await.map_err(|error| {
                let problem = format!("the kernel does not tell how {ip} is reached: {error}");
                ApiError::new(ErrorCode::Internal, problem)
            })?,
        };
        match taken {
            Some(taken) => {
                let how = taken.to_string();
                Err(Refusal::Reached { ip, how }.into())
            }
            None => Ok(()),
        }
    }
}

/// The peers that the verdicts are about.
pub(super) fn owners(verdicts: &[Verdict]) -> impl Iterator<Item = PeerName> {
    let owners = verdicts.iter().flat_map(|verdict| &verdict.owners);
    owners.cloned()
}
