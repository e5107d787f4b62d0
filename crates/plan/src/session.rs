use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Session persistence (GEP-1619): the requests of a session go to one endpoint for as long as it is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The cookie's or header's name.
    pub name: Arc<str>,
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// A session that was begun longer ago is over.
    pub absolute_timeout: Option<Duration>,
    /// What tokens are sealed with: the same for all replicas, and nothing that clients know (the UID of the
    /// object that asks for sessions, or its name where there is none).
    pub salt: Arc<str>,
}

/// What carries a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionCarrier {
    /// A cookie that Portway sets.
    Cookie {
        /// Its Path attribute.
        path: Arc<str>,
        /// Whether it has a Max-Age (the absolute timeout) or ends with the client's session.
        permanent: bool,
    },
    /// A header that Portway sets on responses and the client sends back.
    Header,
}
