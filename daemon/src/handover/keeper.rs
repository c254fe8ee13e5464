//! Leaves with the service manager what the next process needs, as it comes about: whoever is killed has no time for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use punch_engine::FlowBequest;
use punch_platform::handover;
use tokio::sync::oneshot;

use super::{Kept, Left, format, names};

/// How old what is kept may be: paths and their keys.
const REFRESH: Duration = Duration::from_secs(1);
/// The same of the conversations of this host, in refreshes: there may be tens of thousands.
const FLOWS_EVERY: u32 = 5;

/// Sockets of paths that are kept; FileDescriptorStoreMax= of the unit has room for them and for the rest.
const MAX_PATHS: usize = 500;

/// The last that is left, and who waits until it is kept.
pub(crate) type Last = (Left, oneshot::Sender<()>);

/// See the module.
pub(crate) struct Keeper {
    identity: [u8; 32],
    names: BTreeSet<String>,
    memory: File,
    generation: u64,
    /// What stands in the two pages, in bytes.
    lengths: [usize; 2],
    /// The conversations of the last round that asked for them.
    flows: Vec<FlowBequest>,
}

impl Keeper {
    /// Goes on with what the store has.
    ///
    /// # Errors
    /// Where the kernel has no memory for the state, or the manager cannot be reached.
    pub(crate) fn new(identity: [u8; 32], kept: Kept) -> io::Result<Self> {
        let Kept { names, memory } = kept;
        let (memory, generation) = match memory {
            Some(there) => there,
            None => {
                let memory = handover::memory()?;
                handover::keep(names::STATE, memory.as_fd())?;
                (memory, 0)
            }
        };
        Ok(Self {
            identity,
            names,
            memory,
            generation,
            lengths: [0; 2],
            flows: Vec::new(),
        })
    }

    /// Keeps what `ask` gets from the packet path, again and again, until the last comes. It is told whether
    /// conversations are asked for, and what is kept already.
    pub(crate) async fn run<Asked: Future<Output = Option<Left>> + Send>(
        mut self,
        ask: impl Fn(bool, BTreeSet<String>) -> Asked + Send,
        mut last: oneshot::Receiver<Last>,
    ) {
        let mut round = 0_u32;
        loop {
            let flows = round.is_multiple_of(FLOWS_EVERY);
            round += 1;
            if let Some(left) = ask(flows, self.names.clone()).await {
                self.keep(left, flows);
            }
            tokio::select! {
                () = tokio::time::sleep(REFRESH) => {}
                last = &mut last => {
                    if let Ok((left, done)) = last {
                        self.keep(left, true);
                        let _ = done.send(());
                    }
                    return;
                }
            }
        }
    }

    /// Descriptors first: a state that names a socket which is not there is of no use.
    fn keep(&mut self, mut left: Left, with_flows: bool) {
        match with_flows {
            true => self.flows.clone_from(&left.heritage.flows),
            false => left.heritage.flows.clone_from(&self.flows),
        }
        let interface = left.interface.as_ref().map(AsFd::as_fd);
        let mut wanted: Vec<(String, Option<BorrowedFd<'_>>)> =
            vec![(names::INTERFACE.to_owned(), interface)];
        // The main ones come first.
        wanted.extend(left.sockets.iter().take(2 + MAX_PATHS).map(|socket| {
            let name = names::of(socket.id, socket.family, socket.port);
            (name, socket.descriptor.as_ref().map(AsFd::as_fd))
        }));
        for (name, descriptor) in &wanted {
            if let Some(descriptor) = descriptor
                && !self.names.contains(name)
            {
                match handover::keep(name, *descriptor) {
                    Ok(()) => drop(self.names.insert(name.clone())),
                    Err(error) => tracing::warn!(name, %error, "a descriptor was not kept"),
                }
            }
        }
        let is_over = |name: &String| {
            name != names::STATE && !wanted.iter().any(|(wanted, _)| wanted == name)
        };
        let over: Vec<_> = self
            .names
            .iter()
            .filter(|name| is_over(name))
            .cloned()
            .collect();
        self.write(&left);
        for name in over {
            let _ = handover::keep_no_longer(&name);
            self.names.remove(&name);
        }
    }

    /// Writes the page that is not the newest.
    fn write(&mut self, left: &Left) {
        let state = left.state(self.identity);
        let page = format::page(&state, self.generation + 1);
        let index = usize::from(!self.generation.is_multiple_of(2));
        let place = index * format::PAGE;
        // Keys of an earlier, longer state that nobody needs any more are nowhere then.
        let before = std::mem::replace(&mut self.lengths[index], page.len());
        let rest = vec![0; before.saturating_sub(page.len())];
        let written = self
            .memory
            .write_all_at(&page, place as u64)
            .and_then(|()| self.memory.write_all_at(&rest, (place + page.len()) as u64));
        if let Err(error) = written {
            return tracing::warn!(%error, "the state for the next punchd was not written");
        }
        self.generation += 1;
    }
}
