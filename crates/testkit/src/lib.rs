//! What end-to-end tests are made of: a gateway from YAML on free ports, origins that record the bytes they
//! get, clients that send the bytes they are told to, and certificates.
//!
//! ```text
//! Client / Http2 ──raw bytes──► Gateway (store ► translate ► proxy, from YAML) ──► Origin (records, answers)
//! ```
//!
//! Everything in here fails loudly: an error says what was awaited, and every wait ends after [`PATIENCE`].

pub mod certificates;
pub mod client;
pub mod engine;
pub mod gateway;
pub mod load;
pub mod origin;
pub mod raw;
pub mod wire;

use std::time::Duration;

pub use client::{Client, Http2};
pub use gateway::Gateway;
pub use load::{Load, Target};
pub use origin::{Answer, H2Origin, Origin};
pub use raw::{RawOrigin, UdpOrigin};
pub use wire::Message;

/// The longest that anything in a test is waited for: long for a loaded machine, short for a person.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen within [`PATIENCE`].
///
/// # Errors
/// When it does not.
pub async fn soon<T>(what: &str, awaited: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, awaited)
        .await
        .map_err(|_| anyhow::anyhow!("{what}: not within {PATIENCE:?}"))
}
