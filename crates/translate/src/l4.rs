//! TLSRoutes, TCPRoutes and UDPRoutes.

use std::sync::Arc;

use portway_api::gateway::{GatewayDefaultScope, L4RouteRule};
use portway_api::object::ObjectKey;
use portway_plan::{ForwardKind, ForwardRule, Share};
use portway_store::Resources;

use crate::backend::Resolver;
use crate::draft::{Draft, Drafting};
use crate::http::weight;

/// Translates the rules of a TLSRoute, TCPRoute or UDPRoute.
///
/// v1 has exactly one rule. Older versions allowed several, which nothing tells apart: the first takes
/// everything.
pub(crate) fn draft(
    resources: &Resources,
    key: &ObjectKey,
    kind: ForwardKind,
    rules: &[L4RouteRule],
    default_gateways: Option<&GatewayDefaultScope>,
) -> Draft {
    let mut drafting = Drafting::new(Resolver::new(resources, key), key);
    if default_gateways.is_some() {
        drafting.ignore("spec.useDefaultGateways".to_owned());
    }
    for (i, spec) in rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let source = drafting.source(path.clone(), spec.name.as_deref());
        let backends = spec.backend_refs.iter().enumerate().map(|(j, backend)| {
            let path = format!("{path}.backendRefs[{j}]");
            Share {
                weight: weight(backend.weight),
                target: drafting.resolver.backend(backend.into(), &path),
                filters: Box::default(),
                path: path.into(),
            }
        });
        let rule = ForwardRule { source, kind, backends: backends.collect() };
        if i == 0 {
            drafting.forward(Arc::new(rule));
        } else {
            drafting.ignore(path);
        }
    }
    drafting.finish()
}
