use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::HostPattern;

/// Names a certificate: the Secret that holds it, as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CertificateKey(pub Arc<str>);

/// A certificate chain and its key, checked: they parse, and the key is the first certificate's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// DER, the end-entity certificate first.
    pub chain: Vec<Vec<u8>>,
    /// The key.
    pub key: PrivateKey,
    /// The DNS names of the end-entity certificate (subject alternative names, else the common name).
    pub names: Vec<HostPattern>,
    /// The end of the end-entity certificate's validity, in seconds of Unix time.
    pub not_after: i64,
}

/// A private key in DER (PKCS #8, PKCS #1 or SEC 1). Neither `Debug` nor `Serialize` show it: a plan that
/// is dumped or logged has no keys. Who must move keys takes the bytes out by name. They are wiped when this is
/// dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PrivateKey(pub Vec<u8>);

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    /// Reads what [`PrivateKey::serialize`] wrote: no key.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self::default())
    }
}
