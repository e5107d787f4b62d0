//! GatewayClasses.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::crds;
use portway_api::gateway::{GatewayClass, GatewayClassStatus, SupportedFeature};
use portway_store::{Resources, Stored};

use crate::condition::{self, Finding, History, Past, SUPPORTED_VERSION, no, yes};
use crate::{Options, parameters};

/// What Portway supports, by the names of the official conformance suite, sorted.
pub const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "ClusterTrustBundle",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayAddressRoutability",
    "GatewayAddressRoutabilityCluster",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayListenerFilters",
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
    let version = match options.crds.as_ref() {
        Some(crds) if !is_supported(&crds.bundle_version) => no(
            SUPPORTED_VERSION,
            "UnsupportedVersion",
            format!(
                "the cluster has CRDs of Gateway API {}; Portway supports v1.{OLDEST_MINOR} to v1.{NEWEST_MINOR} and makes the \
                 best of these",
                if crds.bundle_version.is_empty() { "without a version" } else { &crds.bundle_version }
            ),
        ),
        crds => {
            let version = crds.map_or(crds::VERSION, |crds| &crds.bundle_version);
            yes(SUPPORTED_VERSION, "SupportedVersion", format!("Gateway API {version} is supported"))
        }
    };
    let history = History::of(past, |status| Some(&status.conditions));
    let conditions =
        condition::dated(&[accepted, version], class.object.metadata.generation, options.now, history);
    let supported_features =
        features(options).into_iter().map(|name| SupportedFeature { name: name.to_owned() }).collect();
    GatewayClassStatus { conditions, supported_features }
}

/// What is supported with the CRDs that are there, sorted: those whose kinds and fields they have, by their names
/// then.
fn features(options: &Options) -> Vec<&'static str> {
    let crds = options.crds.as_ref();
    // Later ones have all that the newest known have.
    let minor = crds.and_then(|crds| minor(&crds.bundle_version)).unwrap_or(NEWEST_MINOR);
    let is_there = |name: &str| {
        CAME_LATER.iter().find(|came| came.feature == name).is_none_or(|came| {
            let since = if options.is_standard() { came.standard } else { Some(came.experimental) };
            since.is_some_and(|since| since <= minor)
        })
    };
    let names = FEATURES.iter().filter(|name| is_there(name)).flat_map(|name| {
        let old = OLD_NAMES.iter().find(|old| old.until >= minor && old.now == *name);
        old.map_or(std::slice::from_ref(name), |old| old.then)
    });
    let mut features: Vec<_> = names.copied().collect();
    features.sort_unstable();
    features
}

/// Whether a feature is supported with the CRDs that are there.
pub(crate) fn supports(options: &Options, feature: &str) -> bool {
    features(options).contains(&feature)
}

/// A feature whose kind, or fields, not all CRDs of the versions have that Portway knows.
struct CameLater {
    feature: &'static str,
    /// The first minor version whose experimental channel has them.
    experimental: u32,
    /// The same of the standard channel; `None` while it has not.
    standard: Option<u32>,
}

const fn came(feature: &'static str, experimental: u32, standard: Option<u32>) -> CameLater {
    CameLater { feature, experimental, standard }
}

/// By the CRDs of v1.4.1, v1.5.1, v1.6.3 and v1.7.0.
const CAME_LATER: [CameLater; 19] = [
    came("ClusterTrustBundle", 7, None),
    came("GatewayAddressRoutability", 7, None),
    came("GatewayAddressRoutabilityCluster", 7, None),
    // v1.4 had the fields elsewhere.
    came("GatewayBackendClientCertificate", 5, Some(5)),
    came("GatewayFrontendClientCertificateValidation", 5, Some(5)),
    came("GatewayFrontendClientCertificateValidationInsecureFallback", 5, Some(5)),
    came("GatewayListenerFilters", 7, None),
    came("HTTPRoute303RedirectStatusCode", 5, Some(5)),
    came("HTTPRoute307RedirectStatusCode", 5, Some(5)),
    came("HTTPRoute308RedirectStatusCode", 5, Some(5)),
    came("HTTPRouteCORS", 4, Some(5)),
    came("HTTPRouteDestinationPortMatching", 4, None),
    came("HTTPRouteRetryCodes", 4, Some(7)),
    came("HTTPRouteRetryConnectionError", 4, Some(7)),
    came("ListenerSet", 5, Some(5)),
    came("TCPRoute", 4, Some(6)),
    came("TLSRoute", 4, Some(5)),
    came("TLSRouteModeTerminate", 4, Some(5)),
    came("UDPRoute", 4, Some(6)),
];

/// What a feature was called up to a minor version.
struct OldName {
    now: &'static str,
    then: &'static [&'static str],
    until: u32,
}

const OLD_NAMES: [OldName; 2] = [
    OldName { now: "GatewayInfrastructure", then: &["GatewayInfrastructurePropagation"], until: 5 },
    OldName {
        now: "HTTPRouteRetryCodes",
        then: &["HTTPRouteRetry", "HTTPRouteRetryBackendTimeout"],
        until: 6,
    },
];

const OLDEST_MINOR: u32 = 4;
const NEWEST_MINOR: u32 = 7;

/// Whether Portway knows the CRDs of a bundle version, such as `v1.7.0`. All else is served as far as it goes:
/// an upgrade of CRDs stops no traffic.
fn is_supported(version: &str) -> bool {
    minor(version).is_some_and(|minor| (OLDEST_MINOR..=NEWEST_MINOR).contains(&minor))
}

fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted() {
        assert!(FEATURES.is_sorted());
    }

    #[test]
    fn features_are_those_of_the_crds() {
        let with = |bundle_version: &str, channel: &str| {
            let crds = crate::Crds { bundle_version: bundle_version.to_owned(), channel: channel.to_owned() };
            let now = portway_api::object::Time(time::OffsetDateTime::UNIX_EPOCH);
            features(&Options { crds: Some(crds), ..Options::new(now) })
        };
        assert_eq!(with("v1.7.0", "experimental"), FEATURES);
        assert_eq!(with("v1.9.0", "experimental"), FEATURES);
        let old = with("v1.6.3", "experimental");
        assert!(old.is_sorted());
        assert!(old.contains(&"HTTPRouteRetry") && !old.contains(&"GatewayListenerFilters"));
        let standard = with("v1.7.0", "standard");
        assert!(standard.contains(&"HTTPRouteRetryCodes") && standard.contains(&"UDPRoute"));
        assert!(!standard.contains(&"HTTPRouteRetry"));
        assert!(!standard.contains(&"HTTPRouteDestinationPortMatching"));
        let older = with("v1.5.1", "standard");
        assert!(older.contains(&"TLSRoute") && older.contains(&"GatewayInfrastructurePropagation"));
        assert!(
            !older.contains(&"UDPRoute") && !older.contains(&"HTTPRouteRetry"),
            "the CRDs have no such fields"
        );
        let oldest = with("v1.4.1", "standard");
        assert!(oldest.contains(&"HTTPRoute") && oldest.contains(&"BackendTLSPolicy"));
        for name in ["ListenerSet", "TLSRoute", "HTTPRouteCORS", "HTTPRoute308RedirectStatusCode"] {
            assert!(!oldest.contains(&name), "{name}");
        }
        assert!(CAME_LATER.iter().all(|came| FEATURES.contains(&came.feature)));
        assert!(OLD_NAMES.iter().all(|old| FEATURES.contains(&old.now)));
    }

    #[test]
    fn versions_from_1_4_to_that_of_the_own_crds_are_supported() {
        assert!(is_supported(crds::VERSION));
        for (version, supported) in [
            ("v1.4.0", true),
            ("v1.6.3", true),
            ("v1.7.0-rc.1", true),
            ("v1.3.0", false),
            ("v1.8.0", false),
            ("v2.4.0", false),
            ("1.7.0", false),
            ("", false),
        ] {
            assert_eq!(is_supported(version), supported, "{version:?}");
        }
    }
}
