//! The overlay addresses that are used, and what the kernel has of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use punch_api::{ApiError, ErrorCode, PeerKey, PeerName};
use punch_engine::{Nat64, OwnAddress, PeerHandle};
use punch_platform::clock;
use punch_platform::netlink::LocalAddress;
use punch_state::{Difference, Refusal, State};

use super::translation::Translation;
use crate::interface::{Interface, Network};
use crate::overlay::{Judge, Overlay, Places, Verdict};

/// See the module.
pub(super) struct Addresses {
    interface: Interface,
    overlay: Overlay,
    /// This machine's overlay addresses, used or not.
    own: Vec<IpAddr>,
    /// How IPv4 is reached where there is none.
    translation: Translation,
}

/// What a look at the network has changed.
pub(super) struct Judgement {
    /// Whether this machine's own IPv4 address is used from now on, or no longer: all peers are concerned.
    pub(super) own: bool,
    /// The peers' addresses that are used from now on, or no longer.
    pub(super) verdicts: Vec<Verdict>,
    /// The addresses of peers that packets are led to differently now.
    pub(super) touched: BTreeSet<IpAddr>,
}

impl Judgement {
    /// The peers that are concerned.
    pub(super) fn peers(&self, state: &State) -> Vec<PeerName> {
        if self.own {
            return state.peers.keys().cloned().collect();
        }
        let owners = self.verdicts.iter().flat_map(|verdict| &verdict.owners);
        owners
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

impl Addresses {
    /// No peers yet, and no address of this machine is set.
    pub(super) fn new(interface: Interface, own: Vec<IpAddr>, translation: Translation) -> Self {
        Self {
            interface,
            overlay: Overlay::default(),
            own,
            translation,
        }
    }

    /// What the kernel has, for views.
    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The addresses that are used, for views and for the engine.
    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    // --- the network ---

    /// Waits until the network may have changed. Nothing is lost if the wait is given up.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.interface.changed() => {}
            () = self.translation.changed() => {}
        }
    }

    /// The translator that leads to IPv4, for views.
    pub(super) fn nat64(&self) -> Option<Nat64> {
        self.translation.prefix()
    }

    /// What this machine may use of the addresses that were found, and the translator that leads to IPv4.
    pub(super) async fn translate(
        &mut self,
        addresses: &[LocalAddress],
    ) -> (Vec<OwnAddress>, Option<Nat64>) {
        let inside = self.overlay.addresses();
        let inside = inside.into_iter().chain(self.own.iter().copied());
        let own = self.translation.follow(addresses, inside).await;
        (own, self.translation.prefix())
    }

    /// Looks at the network.
    pub(super) async fn look(&mut self) -> Network {
        // One that was found to be reached otherwise is looked at again, or nothing would speak against it any more.
        self.interface.look(&self.overlay.addresses()).await
    }

    /// Sets again what the interface has lost.
    pub(super) async fn mend(&mut self) {
        self.interface.mend(clock::now()).await;
    }

    /// Gives the interface those of this machine's addresses that are used.
    ///
    /// # Errors
    /// The kernel's refusal of an IPv4 address.
    pub(super) async fn set_own(&mut self) -> Result<()> {
        let own = self.overlay.own_addresses(&self.own);
        self.interface.set_own(own).await
    }

    /// All peers have been told: what else bears our mark in the kernel is from before a crash, and goes.
    pub(super) async fn settle(&mut self) {
        self.interface.settle().await;
    }

    // --- judging ---

    /// Judges all addresses after a look at the network.
    pub(super) fn judge_all(&mut self) -> Judgement {
        let own = self.judged(|overlay, judge| overlay.judge_own(judge));
        let all = self.overlay.addresses();
        let verdicts = self.judge(&all);
        let touched = if own {
            all
        } else {
            verdicts.iter().map(|verdict| verdict.ip).collect()
        };
        if let Some(due) = self.overlay.due() {
            self.interface.look_at(due);
        }
        Judgement {
            own,
            verdicts,
            touched,
        }
    }

    /// Judges these addresses; tells of which the answer is another one now.
    pub(super) fn judge(&mut self, addresses: &BTreeSet<IpAddr>) -> Vec<Verdict> {
        self.judged(|overlay, judge| overlay.judge(addresses.iter().copied(), judge))
    }

    fn judged<T>(&mut self, work: impl FnOnce(&mut Overlay, &Judge<'_>) -> T) -> T {
        let interface = &self.interface;
        let judge = Judge {
            own: &self.own,
            reached: &|ip| interface.taken(ip),
            now: clock::now(),
        };
        work(&mut self.overlay, &judge)
    }

    /// Follows a change of the state; tells the addresses that it touches, and those of which the answer is another one now.
    pub(super) fn follow(
        &mut self,
        difference: &Difference,
        states: (&State, &State),
        machine: &punch_state::Machine,
    ) -> (BTreeSet<IpAddr>, Vec<Verdict>) {
        let touched = self.overlay.follow(difference, states, machine);
        // The last look was not at those that are new.
        self.judge_soon(&touched);
        let verdicts = self.judge(&touched);
        (touched, verdicts)
    }

    /// Leads packets for these addresses into the tunnel if they are used, and otherwise no longer.
    pub(super) async fn lead(&mut self, touched: BTreeSet<IpAddr>) {
        let is_used = |ip: &IpAddr| self.overlay.is_used(*ip);
        let (added, removed): (Vec<_>, Vec<_>) = touched.into_iter().partition(is_used);
        self.interface.change_routes(&removed, &added).await;
    }

    /// Packets for these addresses may be so long from now on.
    pub(super) async fn resize(&mut self, addresses: &[IpAddr], mtu: usize) {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        self.interface.resize(addresses, mtu).await;
    }

    // --- what this machine needs ---

    /// Servers are at these addresses now.
    pub(super) fn set_servers(&mut self, servers: Places) {
        let touched = self.overlay.set_servers(servers);
        self.judge_soon(&touched);
    }

    /// Packets to this peer go there now outside of the tunnel, or nowhere.
    pub(super) fn set_path(&mut self, peer: PeerHandle, to: Option<IpAddr>) {
        let touched = self.overlay.set_path(peer, to);
        self.judge_soon(&touched);
    }

    fn judge_soon(&mut self, touched: &BTreeSet<IpAddr>) {
        if !touched.is_empty() {
            self.interface.look_at(clock::now());
        }
    }

    /// Refuses a plain WireGuard peer whose address inside the tunnel this machine reaches otherwise: nobody has computed that
    /// address from a key, and a user who may add peers must not choose what this machine's packets are led away from.
    ///
    /// # Errors
    /// What reaches it, or that the kernel does not tell.
    pub(super) async fn check(&self, key: &PeerKey) -> Result<(), ApiError> {
        let PeerKey::Wireguard { address, .. } = key else {
            return Ok(());
        };
        let ip = *address;
        let taken = match self.overlay.refused(ip) {
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
