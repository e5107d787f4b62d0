//! Keys of TLS session tickets: all controllers make the same from one secret, other ones for each Gateway and each
//! epoch. A proxy gets those that it needs, and not what they are made from.

use std::fmt;

use aws_lc_rs::hkdf;
use portway_plan::{PrivateKey, TicketKey};

use crate::auth::GatewayName;

/// Bytes of a key.
const LENGTH: usize = 32;

/// What the keys of all Gateways are made from.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketRoot(PrivateKey);

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        LENGTH
    }
}

impl TicketRoot {
    /// From a secret that all controllers have, and which this use tells nothing about (RFC 5869).
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        Self(PrivateKey(expand(secret, &[b"portway ticket root"])))
    }

    /// The keys of a Gateway of the epoch before, this one and the next: clocks differ.
    #[must_use]
    pub fn keys(&self, gateway: &GatewayName, epoch: u64) -> Vec<TicketKey> {
        let key = |epoch: u64| {
            let (gateway, number) = (gateway.to_string(), epoch.to_be_bytes());
            TicketKey { epoch, key: PrivateKey(expand(&self.0.0, &[gateway.as_bytes(), b"\0", &number])) }
        };
        (epoch.saturating_sub(1)..=epoch.saturating_add(1)).map(key).collect()
    }
}

impl fmt::Debug for TicketRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketRoot([redacted])")
    }
}

fn expand(secret: &[u8], info: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![0; LENGTH];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
    match extracted.expand(info, Length).and_then(|okm| okm.fill(&mut key)) {
        Ok(()) => key,
        // Only lengths that HKDF does not have can fail; proxies take no key of another length than ours.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_and_epoch_has_its_own_and_all_controllers_the_same() {
        let (a, b) = (GatewayName::new("a", "b"), GatewayName::new("a", "c"));
        let root = TicketRoot::derive(b"secret");
        let keys = root.keys(&a, 7);
        assert_eq!(keys, TicketRoot::derive(b"secret").keys(&a, 7));
        assert_eq!(keys.iter().map(|key| key.epoch).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(keys[1..], root.keys(&a, 8)[..2]);
        let others = [root.keys(&b, 7), TicketRoot::derive(b"other").keys(&a, 7)].concat();
        let mut all: Vec<_> = keys.iter().chain(&others).map(|key| key.key.0.clone()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
        assert!(all.iter().all(|key| key.len() == LENGTH));
        assert!(!format!("{root:?} {keys:?}").contains(&format!("{:?}", keys[0].key.0)));
    }
}
