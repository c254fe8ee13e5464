//! Running tasks and their owners: a task ends with the [`Task`] that its owner holds, unless it was detached because it ends
//! by itself.

use std::time::Instant;

use tokio::runtime::Handle;

/// Starts tasks on the runtime for control and targets.
#[derive(Clone)]
pub(crate) struct Spawner(Handle);

impl Spawner {
    /// Starts tasks on this runtime.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self(runtime)
    }

    /// Starts a task that ends when the returned handle is dropped.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Task {
        tracing::trace!(name, "task");
        Task(Some(self.0.spawn(task)))
    }
}

/// A running task.
pub(crate) struct Task(Option<tokio::task::JoinHandle<()>>);

impl Task {
    /// Whether the task has not ended yet.
    pub(crate) fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|handle| !handle.is_finished())
    }

    /// Lets the task end by itself.
    pub(crate) fn detach(mut self) {
        self.0 = None;
    }

    /// Waits for the task's end.
    pub(crate) async fn join(mut self) {
        if let Some(handle) = self.0.take() {
            let _ = handle.await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
        }
    }
}

/// Does work that takes a while on a thread of its own; `None` if it panics.
pub(crate) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Sleeps until then, or for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
