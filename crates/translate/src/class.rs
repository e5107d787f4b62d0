//! GatewayClasses.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::crds;
use portway_api::gateway::{GatewayClass, GatewayClassStatus, SupportedFeature};
use portway_store::{Resources, Stored};

use crate::condition::{self, Finding, History, Past, SUPPORTED_VERSION, no, yes};
use crate::{Options, parameters};

/// What is supported, by the names of the official conformance suite, sorted.
const FEATURES: [&str; 44] = [
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayRouteHostnameIntersectionPrecedence",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteBackendURLRewrite",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetryCodes",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// A GatewayClass of Portway's.
#[derive(Clone, Debug)]
pub(crate) struct ClassNode {
    pub(crate) object: Arc<Stored<GatewayClass>>,
    /// Why it is not accepted.
    pub(crate) refused: Option<Finding>,
}

/// The classes that name Portway as their controller, and why they are refused.
pub(crate) fn ours(resources: &Resources, options: &Options) -> BTreeMap<Arc<str>, ClassNode> {
    resources
        .all::<GatewayClass>()
        .filter(|class| class.spec.controller_name == options.controller_name)
        .map(|class| {
            let refused = parameters::of_class(resources, class).err();
            (Arc::clone(&class.key.name), ClassNode { object: Arc::clone(class), refused })
        })
        .collect()
}

/// The status of one of Portway's classes.
pub(crate) fn status(
    class: &ClassNode,
    options: &Options,
    past: Past<'_, GatewayClassStatus>,
) -> GatewayClassStatus {
    let accepted = match &class.refused {
        Some(finding) => no(condition::ACCEPTED, finding.reason, finding.to_string()),
        None => yes(condition::ACCEPTED, "Accepted", "the class is served by Portway"),
    };
    let version =
        yes(SUPPORTED_VERSION, "SupportedVersion", format!("Gateway API {} is supported", crds::VERSION));
    let history = History::of(past, |status| Some(&status.conditions));
    let conditions =
        condition::dated(&[accepted, version], class.object.metadata.generation, options.now, history);
    let feature = |name: &&str| SupportedFeature { name: (*name).to_owned() };
    GatewayClassStatus { conditions, supported_features: FEATURES.iter().map(feature).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted() {
        assert!(FEATURES.is_sorted());
    }
}
