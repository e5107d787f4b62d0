//! Gateway API objects in, a routing plan and statuses out.
//!
//! ```text
//! Resources ─► class, gateway, listenerset ─► listener ─► contest          who may listen where
//!           └► http, grpc, l4 ─► filter, backend, grants                       what each route asks for
//!                              └► attach ─► exclusive ─► place             what is served where
//!                                                          └► plans ─► Plan, Statuses, Problems
//! ```
//!
//! Pure and synchronous: no clock, no I/O, no globals; the time comes in with [`Options`]. Any order of the
//! same events gives the same result. One object, however malformed, changes only what names it: it becomes
//! a condition and a [`Problem`], and all else is translated as if it were not there.

mod attach;
mod backend;
mod backend_tls;
mod certificate;
mod class;
mod condition;
mod contest;
mod draft;
mod duration;
mod exclusive;
mod external_auth;
mod filter;
mod gateway;
mod grants;
mod grpc;
mod http;
mod l4;
mod layout;
mod listener;
mod listenerset;
mod parameters;
mod pattern;
mod place;
mod plans;
mod precedence;
mod problem;
mod routability;
mod route;
mod selector;
mod session;
mod status;
mod survey;
mod texts;
mod translator;
mod trust;
mod x_backend;

use std::collections::BTreeSet;
use std::sync::Arc;

use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::{Plan, Shards};
use portway_store::{Changes, Resources};

pub use class::FEATURES;
pub use condition::is_own_condition;
pub use layout::{Crds, Fleet, Layout, Machine, Trouble, TroubleReason};
pub use listenerset::gateway_key as listener_set_gateway;
pub use parameters::parameters;
pub use problem::{Problem, Problems};
pub use status::{Status, Statuses};
pub use translator::Translator;

/// The controller name that GatewayClasses give to be Portway's.
pub const CONTROLLER_NAME: &str = "portway.dev/gateway-controller";

/// Kinds of which translation reads nothing yet.
pub const UNSERVED: [KindId; 3] = [KindId::XBackendTrafficPolicy, KindId::XMesh, KindId::XTelemetryPolicy];

/// What a translation must know beside the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// GatewayClasses with this `controllerName` are ours.
    pub controller_name: String,
    /// The time, for the dates of conditions and the validity of certificates.
    pub now: Time,
    /// Who serves the Gateways.
    pub layout: Layout,
    /// The Gateway API's CRDs in the cluster; `None` where there is no cluster: then they are those that
    /// Portway was built with.
    pub crds: Option<Crds>,
}

impl Options {
    /// Portway's own controller name, and nothing known of the machine.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self { controller_name: CONTROLLER_NAME.to_owned(), now, layout: Layout::default(), crds: None }
    }

    /// Whether the cluster has the CRDs of the standard channel, which drop the experimental fields.
    fn is_standard(&self) -> bool {
        self.crds.as_ref().is_some_and(|crds| crds.channel == "standard")
    }

    fn same_but_for_time(&self, other: &Self) -> bool {
        let Self { controller_name, now: _, layout, crds } = self;
        *controller_name == other.controller_name && *layout == other.layout && *crds == other.crds
    }
}

/// What became of all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// What to serve, with [`Layout::Shared`]; shares with the plan before all that did not change.
    pub plan: Arc<Plan>,
    /// What the proxies of each Gateway are to serve, with [`Layout::PerGateway`]: one plan for each Gateway
    /// that is accepted. A plan that did not change is the same `Arc` as before.
    pub plans: Shards<ObjectKey, Arc<Plan>>,
    /// The statuses of the objects.
    pub statuses: Statuses,
    /// What must be told where nobody looks at statuses.
    pub problems: Problems,
    /// The Secrets, ConfigMaps and ClusterTrustBundles that objects refer to, and may refer to, there or not:
    /// no others matter.
    pub wanted: Arc<BTreeSet<ObjectKey>>,
    /// When the first of the certificates that are served expires, in seconds of Unix time: translate again
    /// then, though nothing has changed.
    pub expires: Option<i64>,
}

/// Translates everything from scratch.
#[must_use]
pub fn translate(resources: &Resources, options: &Options) -> Translation {
    Translator::new().update(resources, &Changes::default(), options)
}
