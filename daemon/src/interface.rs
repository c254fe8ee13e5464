//! The one owner of netlink: addresses and routes of the TUN interface, and the network that this machine is in.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use punch_platform::clock;
use punch_platform::netlink::{self, Gateway, LocalAddress, Netlink};
use tokio::sync::mpsc;

use crate::tasks::sleep_until;

/// The TUN's transmit queue, in packets: a millisecond or two at full speed.
const TUN_QUEUE: u32 = 1000;
/// Notices of the kernel come several at a time: the network is looked at when none has come for this long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest time that notices can put the look at the network off.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// The TUN interface as the kernel has it.
pub(crate) struct Interface {
    netlink: Netlink,
    index: u32,
    name: String,
    /// This machine's addresses inside the tunnel.
    own: Vec<IpAddr>,
    /// The addresses of peers that should lead into the tunnel, and those that do.
    wanted: BTreeSet<IpAddr>,
    routes: BTreeSet<IpAddr>,
    /// Whether the interface was up when it was last looked at, and which addresses it had.
    up: bool,
    had: Vec<IpAddr>,
    /// Notices of the kernel that something in the network has changed.
    notices: mpsc::Receiver<()>,
    /// When the network is looked at, and when the first notice of a change came.
    due: Option<(Instant, Instant)>,
}

/// The network as it was found.
pub(crate) enum Network {
    /// The interface is gone, which a TUN's descriptor does not tell.
    Gone,
    /// The addresses of this machine, except those inside the tunnel, and the router of the default route.
    There {
        addresses: io::Result<Vec<LocalAddress>>,
        gateway: io::Result<Option<Gateway>>,
    },
}

impl Interface {
    /// Gives the TUN interface `name` its MTU and the addresses `own`.
    pub(crate) async fn configure(
        netlink: Netlink,
        notices: mpsc::Receiver<()>,
        name: &str,
        mtu: u16,
        own: Vec<IpAddr>,
    ) -> Result<Self> {
        let failed = || format!("cannot configure the interface {name}");
        let index = netlink.index(name).await.with_context(failed)?;
        netlink
            .bring_up(index, u32::from(mtu), TUN_QUEUE)
            .await
            .with_context(failed)?;
        for address in &own {
            match (netlink.add_address(index, *address).await, address) {
                (Ok(()), _) => {}
                (Err(error), IpAddr::V4(_)) => return Err(error).with_context(failed),
                (Err(_), IpAddr::V6(_)) => {
                    // The kernel refuses where IPv6 is switched off for new interfaces. Addresses inside the tunnel concern
                    // nobody else, so it is switched on for this interface.
                    let retried = match netlink::enable_ipv6(name) {
                        Ok(()) => netlink.add_address(index, *address).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = retried {
                        tracing::warn!(%error, "no IPv6 inside the tunnel: the kernel refuses the address");
                    }
                }
            }
        }
        Ok(Self {
            netlink,
            index,
            name: name.to_owned(),
            own,
            wanted: BTreeSet::new(),
            routes: BTreeSet::new(),
            up: true,
            had: Vec::new(),
            notices,
            due: None,
        })
    }

    /// Waits until the network has changed and is quiet again. Nothing is lost if the wait is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = self.due.map(|(at, _)| at);
            tokio::select! {
                Some(()) = self.notices.recv() => {
                    let now = clock::now();
                    let (_, first) = self.due.unwrap_or((now, now));
                    self.due = Some(((now + QUIET).min(first + QUIET_MAX), first));
                }
                () = sleep_until(due) => {
                    self.due = None;
                    return;
                }
            }
        }
    }

    /// Looks at the network, and sets again what the interface has lost.
    pub(crate) async fn look(&mut self) -> Network {
        if self.netlink.index(&self.name).await.ok() != Some(self.index) {
            return Network::Gone;
        }
        let addresses = self.netlink.addresses(self.index).await;
        let gateway = self.netlink.default_gateway(self.index).await;
        self.mend().await;
        Network::There { addresses, gateway }
    }

    /// Leads packets for the addresses `added` into the tunnel, and those for `removed` no longer.
    pub(crate) async fn change_routes(&mut self, removed: &[IpAddr], added: &[IpAddr]) {
        for to in removed.iter().filter(|to| !added.contains(to)) {
            self.wanted.remove(to);
            if self.routes.remove(to)
                && let Err(error) = self.netlink.remove_route(self.index, *to).await
            {
                tracing::warn!(%to, %error, "a route was not removed");
            }
        }
        for to in added {
            self.wanted.insert(*to);
            if !self.routes.contains(to) {
                self.set_route(*to).await;
            }
        }
    }

    async fn set_route(&mut self, to: IpAddr) {
        let from = self.own.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        let Some(from) = from else { return };
        match self.netlink.add_route(self.index, to, *from).await {
            Ok(()) => drop(self.routes.insert(to)),
            Err(error) => tracing::warn!(%to, %error, "a route was not set"),
        }
    }

    /// Sets addresses and routes again: an interface that was down has lost its routes and its IPv6 address. Routes that the
    /// kernel has refused before are tried again, too.
    async fn mend(&mut self) {
        let Ok((up, there)) = self.netlink.interface(self.index).await else {
            return;
        };
        let bounced = up && !self.up;
        self.up = up;
        let missing = |ip: &&IpAddr| !there.contains(ip);
        let lost = self
            .own
            .iter()
            .filter(missing)
            .any(|ip| self.had.contains(ip));
        if up && (bounced || lost) {
            for ip in self.own.iter().filter(missing) {
                if let Err(error) = self.netlink.add_address(self.index, *ip).await {
                    tracing::warn!(%ip, %error, "an overlay address was not set again");
                }
            }
            tracing::info!("the interface lost its configuration; it is set again");
            self.routes.clear();
        } else {
            self.had = there;
        }
        let unset: Vec<_> = self.wanted.difference(&self.routes).copied().collect();
        for to in unset.into_iter().filter(|_| up) {
            self.set_route(to).await;
        }
    }
}
