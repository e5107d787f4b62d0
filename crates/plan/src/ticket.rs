use std::time::{Duration, SystemTime};

use crate::PrivateKey;

/// A key of TLS session tickets (RFC 8446 section 4.6.1), which all replicas of a Gateway have. It is no part of a
/// plan: it is not kept on disk, and it changes while a plan does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketKey {
    /// When tickets are made with it: the number of [`TicketKey::EPOCH`]s since 1970.
    pub epoch: u64,
    /// 32 bytes. Redacted, as the keys of certificates are.
    pub key: PrivateKey,
}

impl TicketKey {
    /// How long tickets are made with one key.
    pub const EPOCH: Duration = Duration::from_secs(6 * 3600);

    /// The epoch of a time; the first for times before 1970.
    #[must_use]
    pub fn epoch(time: SystemTime) -> u64 {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_secs() / Self::EPOCH.as_secs()
    }
}
