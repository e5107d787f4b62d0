//! What a proxy says of a revision.

use std::net::IpAddr;
use std::sync::Arc;

use portway_plan::{ObjectRef, Source, Transport};

use crate::{limits, message};

/// What became of a plan that is served. By default: everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Ports that could not be bound.
    pub unavailable: Vec<UnavailablePort>,
    /// Listeners that do not serve as they should although their port is bound.
    pub failed: Vec<FailedListener>,
}

/// A port that could not be bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnavailablePort {
    /// The address; `None` for all.
    pub address: Option<IpAddr>,
    /// The port as the plan has it.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// Why, for people.
    pub reason: String,
}

/// A listener that does not serve as it should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedListener {
    /// The listener.
    pub listener: Source,
    /// Why, for people.
    pub reason: String,
    /// Whether it serves all the same, with its other certificates.
    pub serves: bool,
}

impl Outcome {
    pub(crate) fn message(&self, revision: u64) -> message::Outcome {
        let unavailable =
            self.unavailable.iter().take(limits::OUTCOME).map(|port| message::UnavailablePort {
                address: port.address.map(|address| address.to_string()).unwrap_or_default(),
                port: port.port.into(),
                udp: port.transport == Transport::Udp,
                reason: shortened(&port.reason),
            });
        let failed = self.failed.iter().take(limits::OUTCOME).map(|failed| message::FailedListener {
            kind: failed.listener.object.kind.to_string(),
            namespace: failed.listener.object.namespace.to_string(),
            name: failed.listener.object.name.to_string(),
            path: failed.listener.path.to_string(),
            section: failed.listener.section.as_ref().map(ToString::to_string),
            reason: shortened(&failed.reason),
            serves: failed.serves,
        });
        message::Outcome {
            revision,
            rejected: String::new(),
            unavailable: unavailable.collect(),
            failed: failed.collect(),
            kept: false,
        }
    }

    /// What makes no sense in it is left out.
    pub(crate) fn read(message: message::Outcome) -> Self {
        let unavailable = message.unavailable.into_iter().take(limits::OUTCOME).filter_map(|port| {
            Some(UnavailablePort {
                address: if port.address.is_empty() { None } else { Some(port.address.parse().ok()?) },
                port: port.port.try_into().ok()?,
                transport: if port.udp { Transport::Udp } else { Transport::Tcp },
                reason: shortened(&port.reason),
            })
        });
        let failed = message.failed.into_iter().take(limits::OUTCOME).map(|failed| FailedListener {
            listener: Source {
                object: Arc::new(ObjectRef {
                    kind: failed.kind.into(),
                    namespace: failed.namespace.into(),
                    name: failed.name.into(),
                }),
                path: failed.path.into(),
                section: failed.section.map(Into::into),
            },
            reason: shortened(&failed.reason),
            serves: failed.serves,
        });
        Self { unavailable: unavailable.collect(), failed: failed.collect() }
    }
}

/// The text, cut at [`limits::REASON`].
pub(crate) fn shortened(text: &str) -> String {
    if text.len() <= limits::REASON {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(limits::REASON)])
}
