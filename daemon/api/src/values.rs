//! Values that are valid by construction: a text that is not one is refused with an error for people.

mod endpoint;
mod error;
mod host;
mod name;
mod port;
mod secret;
mod server;
mod target;
mod text;

pub use endpoint::Endpoint;
pub use error::ValueError;
pub use name::PeerName;
pub use port::{ForwardKey, PortRange, Protocol};
pub use secret::Secret;
pub use server::{ServerAddress, ServerKind};
pub use target::Target;
pub(crate) use text::text_form;
