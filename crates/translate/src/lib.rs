//! Gateway API objects in, a routing plan and statuses out.
//!
//! ```text
//! Resources ─► class, gateway, listenerset ─► listener ─► contest          who may listen where
//!           └► http, grpc ─► filter, backend, grants                       what each route asks for
//!                              └► attach ─► exclusive ─► place             what is served where
//!                                                          └► Plan, Statuses, Problems
//! ```
//!
//! Pure and synchronous: no clock, no I/O, no globals; the time comes in with [`Options`]. Any order of the
//! same events gives the same result. One object, however malformed, changes only what names it: it becomes
//! a condition and a [`Problem`], and all else is translated as if it were not there.

mod attach;
mod backend;
mod certificate;
mod class;
mod condition;
mod contest;
mod draft;
mod duration;
mod exclusive;
mod filter;
mod gateway;
mod grants;
mod grpc;
mod http;
mod listener;
mod listenerset;
mod pattern;
mod place;
mod precedence;
mod problem;
mod route;
mod selector;
mod status;
mod survey;
mod translator;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::object::Time;
use portway_plan::{Plan, Source, Transport};
use portway_store::{Changes, Resources};

pub use problem::{Problem, Problems};
pub use status::{Status, Statuses};
pub use translator::Translator;

/// The controller name that GatewayClasses give to be Portway's.
pub const CONTROLLER_NAME: &str = "portway.dev/gateway-controller";

/// What a translation must know beside the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// GatewayClasses with this `controllerName` are ours.
    pub controller_name: String,
    /// The time, for the dates of conditions and the validity of certificates.
    pub now: Time,
    /// The addresses to report of Gateways that bind all addresses.
    pub addresses: Vec<IpAddr>,
    /// The addresses of this machine; a Gateway that asks for another is told that it is not usable. `None`
    /// if they are not known: then any is taken to be usable.
    pub local_addresses: Option<BTreeSet<IpAddr>>,
    /// Ports of the plan that could not be opened, and why; statuses say so.
    pub unavailable: BTreeMap<(Option<IpAddr>, u16, Transport), String>,
    /// Listeners of the plan that do not serve although their port is open, and why; statuses say so.
    pub failed: BTreeMap<Source, String>,
}

impl Options {
    /// Portway's own controller name, and nothing known of the machine.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            controller_name: CONTROLLER_NAME.to_owned(),
            now,
            addresses: Vec::new(),
            local_addresses: None,
            unavailable: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    fn same_but_for_time(&self, other: &Self) -> bool {
        let Self { controller_name, now: _, addresses, local_addresses, unavailable, failed } = self;
        *controller_name == other.controller_name
            && *addresses == other.addresses
            && *local_addresses == other.local_addresses
            && *unavailable == other.unavailable
            && *failed == other.failed
    }
}

/// What became of all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// What to serve; shares with the plan before all that did not change.
    pub plan: Arc<Plan>,
    /// The statuses of the objects.
    pub statuses: Statuses,
    /// What must be told where nobody looks at statuses.
    pub problems: Problems,
    /// When the first of the certificates that are served expires, in seconds of Unix time: translate again
    /// then, though nothing has changed.
    pub expires: Option<i64>,
}

/// Translates everything from scratch.
#[must_use]
pub fn translate(resources: &Resources, options: &Options) -> Translation {
    Translator::new().update(resources, &Changes::default(), options)
}
