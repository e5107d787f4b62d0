//! Which Go type a place in a CRD's schema has.
//!
//! The OpenAPI schema has no type names; these are the names of the Go API, so that whoever knows the Gateway
//! API finds the types that they know. Schemas of one name become one Rust type, and must be alike.

/// Path endings and the Go type found there; the longest ending that fits decides.
///
/// Where the Go API has two names for one shape (`Listener` and `ListenerEntry`), both paths get the first, so
/// that what is written for one serves both.
const NAMES: &[(&str, &str)] = &[
    // Statuses.
    ("conditions[]", "Condition"),
    ("conditions[].status", "ConditionStatus"),
    ("GRPCRoute.status", "RouteStatus"),
    ("HTTPRoute.status", "RouteStatus"),
    ("TCPRoute.status", "RouteStatus"),
    ("TLSRoute.status", "RouteStatus"),
    ("UDPRoute.status", "RouteStatus"),
    ("status.parents[]", "RouteParentStatus"),
    ("BackendTLSPolicy.status", "PolicyStatus"),
    ("XBackendTrafficPolicy.status", "PolicyStatus"),
    ("XTelemetryPolicy.status", "PolicyStatus"),
    ("status.ancestors[]", "PolicyAncestorStatus"),
    ("XBackend.status.ancestors[]", "BackendAncestorStatus"),
    ("status.listeners[]", "ListenerStatus"),
    ("supportedKinds[]", "RouteGroupKind"),
    ("supportedFeatures[]", "SupportedFeature"),
    ("Gateway.status.addresses[]", "GatewayStatusAddress"),
    // References.
    ("parentRefs[]", "ParentReference"),
    ("parents[].parentRef", "ParentReference"),
    ("ancestorRef", "ParentReference"),
    ("ListenerSet.spec.parentRef", "ParentGatewayReference"),
    ("caCertificateRefs[]", "LocalObjectReference"),
    ("Gateway.spec.tls.frontend.default.validation.caCertificateRefs[]", "ObjectReference"),
    ("Gateway.spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[]", "ObjectReference"),
    ("certificateRefs[]", "SecretObjectReference"),
    ("clientCertificateRef", "SecretObjectReference"),
    ("extensionRef", "LocalObjectReference"),
    ("infrastructure.parametersRef", "LocalParametersReference"),
    ("spec.parametersRef", "ParametersReference"),
    ("backendRef", "BackendObjectReference"),
    ("backendRefs[]", "BackendRef"),
    ("HTTPRoute.spec.rules[].backendRefs[]", "HTTPBackendRef"),
    ("GRPCRoute.spec.rules[].backendRefs[]", "GRPCBackendRef"),
    ("BackendTLSPolicy.spec.targetRefs[]", "LocalPolicyTargetReferenceWithSectionName"),
    ("XBackendTrafficPolicy.spec.targetRefs[]", "LocalPolicyTargetReference"),
    ("XTelemetryPolicy.spec.targetRefs[]", "LocalObjectReference"),
    // Gateway and ListenerSet.
    ("Gateway.spec.addresses[]", "GatewaySpecAddress"),
    ("Gateway.spec.infrastructure", "GatewayInfrastructure"),
    ("Gateway.spec.defaultScope", "GatewayDefaultScope"),
    ("useDefaultGateways", "GatewayDefaultScope"),
    ("allowedListeners", "AllowedListeners"),
    ("allowedListeners.namespaces", "ListenerNamespaces"),
    ("namespaces.from", "FromNamespaces"),
    ("namespaces.selector", "LabelSelector"),
    ("selector.matchExpressions[]", "LabelSelectorRequirement"),
    ("spec.listeners[]", "Listener"),
    ("listeners[].filters", "ListenerFilters"),
    ("filters.requests[]", "ListenerFilter"),
    ("filters.requests[].type", "ListenerFilterType"),
    ("listeners[].allowedRoutes", "AllowedRoutes"),
    ("allowedRoutes.namespaces", "RouteNamespaces"),
    ("allowedRoutes.kinds[]", "RouteGroupKind"),
    ("listeners[].tls", "ListenerTLSConfig"),
    ("listeners[].tls.mode", "TLSModeType"),
    ("Gateway.spec.tls", "GatewayTLSConfig"),
    ("Gateway.spec.tls.backend", "GatewayBackendTLS"),
    ("Gateway.spec.tls.frontend", "FrontendTLSConfig"),
    ("frontend.default", "TLSConfig"),
    ("frontend.perPort[]", "TLSPortConfig"),
    ("frontend.perPort[].tls", "TLSConfig"),
    ("frontend.default.validation", "FrontendTLSValidation"),
    ("frontend.perPort[].tls.validation", "FrontendTLSValidation"),
    ("frontend.default.validation.mode", "FrontendValidationModeType"),
    ("frontend.perPort[].tls.validation.mode", "FrontendValidationModeType"),
    // Routes.
    ("HTTPRoute.spec.rules[]", "HTTPRouteRule"),
    ("HTTPRoute.spec.rules[].matches[]", "HTTPRouteMatch"),
    ("matches[].path", "HTTPPathMatch"),
    ("matches[].path.type", "PathMatchType"),
    ("matches[].headers[]", "HTTPHeaderMatch"),
    ("matches[].headers[].type", "HeaderMatchType"),
    ("matches[].queryParams[]", "HTTPQueryParamMatch"),
    ("matches[].queryParams[].type", "QueryParamMatchType"),
    ("HTTPRoute.spec.rules[].matches[].method", "HTTPMethod"),
    ("rules[].retry", "HTTPRouteRetry"),
    ("rules[].timeouts", "HTTPRouteTimeouts"),
    ("HTTPRoute.spec.rules[].filters[]", "HTTPRouteFilter"),
    ("HTTPRoute.spec.rules[].filters[].type", "HTTPRouteFilterType"),
    ("HTTPRoute.spec.rules[].backendRefs[].filters[]", "HTTPRouteFilter"),
    ("HTTPRoute.spec.rules[].backendRefs[].filters[].type", "HTTPRouteFilterType"),
    ("requestHeaderModifier", "HTTPHeaderFilter"),
    ("responseHeaderModifier", "HTTPHeaderFilter"),
    ("HeaderModifier.add[]", "HTTPHeader"),
    ("HeaderModifier.set[]", "HTTPHeader"),
    ("tracing.provider.headers[]", "HTTPHeader"),
    ("requestMirror", "HTTPRequestMirrorFilter"),
    ("requestMirror.fraction", "Fraction"),
    ("amplingRate", "Fraction"),
    ("requestRedirect", "HTTPRequestRedirectFilter"),
    ("requestRedirect.scheme", "HTTPRedirectScheme"),
    ("urlRewrite", "HTTPURLRewriteFilter"),
    ("requestRedirect.path", "HTTPPathModifier"),
    ("urlRewrite.path", "HTTPPathModifier"),
    ("requestRedirect.path.type", "HTTPPathModifierType"),
    ("urlRewrite.path.type", "HTTPPathModifierType"),
    ("cors", "HTTPCORSFilter"),
    ("cors.allowMethods[]", "HTTPMethodWithWildcard"),
    ("externalAuth", "HTTPExternalAuthFilter"),
    ("externalAuth.protocol", "HTTPRouteExternalAuthProtocol"),
    ("externalAuth.grpc", "GRPCAuthConfig"),
    ("externalAuth.http", "HTTPAuthConfig"),
    ("externalAuth.forwardBody", "ForwardBodyConfig"),
    ("sessionPersistence", "SessionPersistence"),
    ("sessionPersistence.type", "SessionPersistenceType"),
    ("sessionPersistence.cookie", "CookieConfig"),
    ("sessionPersistence.cookie.lifetimeType", "CookieLifetimeType"),
    ("sessionPersistence.header", "HeaderConfig"),
    ("GRPCRoute.spec.rules[]", "GRPCRouteRule"),
    ("GRPCRoute.spec.rules[].matches[]", "GRPCRouteMatch"),
    ("GRPCRoute.spec.rules[].matches[].method", "GRPCMethodMatch"),
    ("GRPCRoute.spec.rules[].matches[].method.type", "GRPCMethodMatchType"),
    ("GRPCRoute.spec.rules[].filters[]", "GRPCRouteFilter"),
    ("GRPCRoute.spec.rules[].filters[].type", "GRPCRouteFilterType"),
    ("GRPCRoute.spec.rules[].backendRefs[].filters[]", "GRPCRouteFilter"),
    ("GRPCRoute.spec.rules[].backendRefs[].filters[].type", "GRPCRouteFilterType"),
    // The Go API has TCPRouteRule, TLSRouteRule and UDPRouteRule, all alike.
    ("TCPRoute.spec.rules[]", "L4RouteRule"),
    ("TLSRoute.spec.rules[]", "L4RouteRule"),
    ("UDPRoute.spec.rules[]", "L4RouteRule"),
    // Grants, policies and the x-k8s.io kinds.
    ("ReferenceGrant.spec.from[]", "ReferenceGrantFrom"),
    ("ReferenceGrant.spec.to[]", "ReferenceGrantTo"),
    ("BackendTLSPolicy.spec.validation", "BackendTLSPolicyValidation"),
    ("XBackend.spec.tls.validation", "BackendTLSPolicyValidation"),
    ("subjectAltNames[]", "SubjectAltName"),
    ("subjectAltNames[].type", "SubjectAltNameType"),
    ("XBackend.spec", "BackendSpec"),
    ("XBackend.status", "BackendStatus"),
    ("XBackend.spec.type", "BackendType"),
    ("XBackend.spec.port", "BackendPort"),
    ("XBackend.spec.protocol", "BackendProtocol"),
    ("XBackend.spec.externalHostname", "ExternalHostnameBackend"),
    ("XBackend.spec.endpointSelector", "EndpointSelectorBackend"),
    ("XBackend.spec.tls", "BackendTLS"),
    ("XBackend.spec.tls.mode", "BackendTLSMode"),
    ("XBackendTrafficPolicy.spec", "BackendTrafficPolicySpec"),
    ("retryConstraint", "RetryConstraint"),
    ("retryConstraint.budget", "BudgetDetails"),
    ("retryConstraint.minRetryRate", "RequestRate"),
    ("XMesh.spec", "MeshSpec"),
    ("XMesh.status", "MeshStatus"),
    ("XTelemetryPolicy.spec", "TelemetryPolicySpec"),
    ("XTelemetryPolicy.spec.tracing", "TracingConfig"),
    ("XTelemetryPolicy.spec.tracing.mode", "TracingMode"),
    ("tracing.parentBasedSampling", "ParentBasedSampling"),
    ("tracing.parentBasedSampling.mode", "TracingMode"),
    ("tracing.provider", "TracingProvider"),
    ("tracing.attributes[]", "TracingAttribute"),
    ("tracing.attributes[].sourceType", "AttributeSourceType"),
    // Portway's own.
    ("GatewayParameters.spec.workload", "Workload"),
    ("GatewayParameters.spec.workload.kind", "WorkloadKind"),
    ("GatewayParameters.spec.workload.autoscaling", "Autoscaling"),
    ("GatewayParameters.spec.proxy", "ProxyParameters"),
    ("GatewayParameters.spec.proxy.accessLog", "AccessLogParameters"),
    ("GatewayParameters.spec.proxy.accessLog.format", "AccessLogFormat"),
    ("GatewayParameters.spec.proxy.drain", "DrainParameters"),
    ("GatewayParameters.spec.pod", "PodParameters"),
    ("GatewayParameters.spec.pod.imagePullPolicy", "ImagePullPolicy"),
    ("GatewayParameters.spec.service", "ServiceParameters"),
    ("GatewayParameters.spec.service.type", "ServiceType"),
    ("GatewayParameters.spec.service.externalTrafficPolicy", "TrafficPolicy"),
    ("GatewayParameters.spec.service.internalTrafficPolicy", "TrafficPolicy"),
    ("GatewayParameters.spec.service.ipFamilyPolicy", "IpFamilyPolicy"),
    ("GatewayParameters.spec.service.ipFamilies[]", "IpFamily"),
    ("GatewayParameters.spec.podDisruptionBudget", "DisruptionBudget"),
];

/// What Portway hands on to Kubernetes as it is: the schema is full, the type is JSON.
const PASSED_ON: &[&str] = &[
    "GatewayParameters.spec.pod.affinity",
    "GatewayParameters.spec.pod.imagePullSecrets[]",
    "GatewayParameters.spec.pod.resources",
    "GatewayParameters.spec.pod.tolerations[]",
    "GatewayParameters.spec.pod.topologySpreadConstraints[]",
];

/// Whether no type is made for what is at `path`.
pub(super) fn is_passed_on(path: &str) -> bool {
    PASSED_ON.contains(&path)
}

/// The name of the type at `path` (`HTTPRoute.spec.rules[]`); built from the path where the table has none.
pub(super) fn type_name(path: &str) -> String {
    let longest =
        NAMES.iter().filter(|(ending, _)| path.ends_with(ending)).max_by_key(|(ending, _)| ending.len());
    match longest {
        Some((_, name)) => (*name).to_owned(),
        None => path.replace("[]", "").split('.').map(capitalised).collect(),
    }
}

/// The Rust variant for an enum's value: `GET` → `Get`, `URLRewrite` as it is, `*` → `Wildcard`.
pub(super) fn variant(value: &str) -> String {
    match value {
        "*" => "Wildcard".to_owned(),
        _ if value.chars().any(|c| c.is_ascii_lowercase()) => capitalised(value),
        _ => capitalised(&value.to_ascii_lowercase()),
    }
}

/// The Rust field for a JSON field: `caCertificateRefs` → `ca_certificate_refs`, `type` → `type_`.
pub(super) fn field(json: &str) -> String {
    let chars: Vec<char> = json.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let follows_lower = i > 0 && chars[i - 1].is_lowercase();
        let starts_word = i > 0 && chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && (follows_lower || starts_word) {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    if out == "type" { "type_".to_owned() } else { out }
}

/// What serde's `rename_all = "camelCase"` makes of a Rust field.
pub(super) fn camel(field: &str) -> String {
    let mut words = field.split('_').filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default().to_owned();
    first + &words.map(capitalised).collect::<String>()
}

/// The module for a kind: `HTTPRoute` → `http_route`, `XBackendTrafficPolicy` → `x_backend_traffic_policy`.
pub(super) fn module(kind: &str) -> String {
    field(kind)
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_names_the_type() {
        assert_eq!(type_name("HTTPRoute.spec.rules[].backendRefs[]"), "HTTPBackendRef");
        assert_eq!(type_name("TCPRoute.spec.rules[].backendRefs[]"), "BackendRef");
        assert_eq!(type_name("GRPCRoute.spec"), "GRPCRouteSpec");
    }

    #[test]
    fn rust_names_follow_the_json_names() {
        assert_eq!(field("wellKnownCACertificates"), "well_known_ca_certificates");
        assert_eq!(field("type"), "type_");
        assert_eq!(camel("type_"), "type");
        assert_eq!(variant("CORS"), "Cors");
        assert_eq!(variant("URLRewrite"), "URLRewrite");
        assert_eq!(module("BackendTLSPolicy"), "backend_tls_policy");
    }
}
