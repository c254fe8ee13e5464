//! What the answer to a change has beside what was changed.

use serde::{Deserialize, Serialize};

/// The answer to a call that changes the configuration: what was changed as it is now, if it is still there, and how the change went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed<T> {
    /// What was changed.
    #[serde(flatten)]
    pub view: T,
    /// Whether everything was so already, and nothing had to be changed.
    pub unchanged: bool,
    /// What is wrong although the change is in force, for people: that it is not saved.
    pub warning: Option<String>,
}

impl<T> Changed<T> {
    /// The same with this view.
    pub fn with<U>(self, view: U) -> Changed<U> {
        Changed {
            view,
            unchanged: self.unchanged,
            warning: self.warning,
        }
    }
}
