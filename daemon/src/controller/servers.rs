//! Signalling and STUN servers: clients started and restarted, names looked up, reports taken.

use std::net::SocketAddr;

use punch_api::ServerAddress;
use punch_engine::ServerId;
use punch_platform::clock;
use tokio::net::lookup_host;

use super::{Controller, RESOLVE, RESOLVE_AGAIN, Resolved, Server};
use crate::signalling::server::{self, Report};
use crate::views::events;

impl Controller {
    pub(super) fn start_server(&mut self, address: ServerAddress, fixed: bool) {
        if let Some(known) = self.servers.iter_mut().find(|s| s.address == address) {
            known.fixed |= fixed;
            return;
        }
        let id = ServerId(self.next_server);
        self.next_server += 1;
        let task = match &address {
            ServerAddress::Signal(url) => {
                let client = server::stay_connected(id, url.clone(), self.access.clone());
                Some(self.parts.spawner.spawn("signalling", client))
            }
            ServerAddress::Stun(_) => {
                match address.literal() {
                    Some(literal) => drop(self.stun.insert(address.clone(), vec![literal])),
                    None => self.next_resolve = clock::now(),
                }
                None
            }
        };
        self.servers.push(Server {
            id,
            address,
            fixed,
            connected: false,
            trouble: None,
            task,
        });
    }

    /// Connections that began on another network are dead, and would notice it only after a while.
    pub(super) fn restart_signalling(&mut self) {
        for server in &mut self.servers {
            if let ServerAddress::Signal(url) = &server.address {
                let client = server::stay_connected(server.id, url.clone(), self.access.clone());
                server.task = Some(self.parts.spawner.spawn("signalling", client));
            }
        }
    }

    pub(super) fn stun_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for server in &self.servers {
            for address in self.stun.get(&server.address).into_iter().flatten() {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
        addresses
    }

    /// Looks up the names of the STUN servers, each beside everything else: a name server that is silent keeps nobody waiting.
    pub(super) fn resolve(&mut self) {
        self.next_resolve = clock::now() + RESOLVE;
        self.resolving.retain(|_, task| task.is_running());
        for server in &self.servers {
            let address = &server.address;
            let known = self.resolving.contains_key(address) || address.literal().is_some();
            if known || matches!(address, ServerAddress::Signal(_)) {
                continue;
            }
            let (address, results) = (address.clone(), self.resolved.0.clone());
            let look_up = {
                let address = address.clone();
                async move {
                    let found = lookup_host(address.as_str())
                        .await
                        .map(|addresses| addresses.take(4).collect())
                        .map_err(|error| error.to_string());
                    let _ = results.send((address, found)).await;
                }
            };
            let task = self.parts.spawner.spawn("resolve", look_up);
            self.resolving.insert(address, task);
        }
    }

    pub(super) async fn handle_resolved(&mut self, (address, result): Resolved) {
        self.resolving.remove(&address);
        let Some(server) = self.servers.iter_mut().find(|s| s.address == address) else {
            return;
        };
        match result {
            Ok(addresses) => {
                server.trouble = None;
                self.stun.insert(address, addresses);
            }
            // The addresses of an earlier look-up stay.
            Err(error) => {
                server.trouble = Some(format!("its name is not found: {error}"));
                self.next_resolve = clock::now() + RESOLVE_AGAIN;
            }
        }
        self.apply().await;
    }

    pub(super) fn handle_report(&mut self, report: Report) {
        let Some(server) = self.servers.iter_mut().find(|s| s.id == report.server) else {
            return;
        };
        let changed = server.connected != report.connected;
        server.connected = report.connected;
        server.trouble = report.trouble;
        if changed {
            let address = server.address.to_string();
            let connected = report.connected;
            let event = events::server(address, connected, server.trouble.as_deref());
            self.tell(event);
        }
    }
}
