use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names a bundle of certificate authorities, as text: the object that holds it, such as
/// `ConfigMap store/ca` or `ClusterTrustBundle example.com:signer:v1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustKey(pub Arc<str>);

/// Certificate authorities, checked: each certificate parses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// DER. Never empty.
    pub certificates: Vec<Vec<u8>>,
}

/// A subject alternative name that a certificate may have (SubjectAltName of BackendTLSPolicy).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectName {
    /// A DNS name, lower case; `*.` in front stands for one label.
    Hostname(Arc<str>),
    /// A URI, compared byte for byte.
    Uri(Arc<str>),
}
