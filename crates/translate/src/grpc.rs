//! GRPCRoutes: a method match is a path match, as gRPC calls are `POST /service/method`.

use std::sync::Arc;

use portway_api::gateway::{GRPCMethodMatch, GRPCMethodMatchType, GRPCRoute, GRPCRouteMatch, GRPCRouteRule};
use portway_api::object::ObjectKey;
use portway_plan::{PathMatch, Regex, Rule, RuleKind, Session, Share};
use portway_store::Resources;

use crate::backend::Resolver;
use crate::draft::{Draft, DraftMatch, Drafting, InvalidRule, RuleContext};
use crate::precedence::Specificity;
use crate::{draft, filter, http, pattern};

/// Translates the rules of a GRPCRoute.
pub(crate) fn draft(resources: &Resources, key: &ObjectKey, route: &GRPCRoute) -> Draft {
    let mut drafting = Drafting::new(Resolver::new(resources, key), key);
    if route.spec.use_default_gateways.is_some() {
        drafting.ignore("spec.useDefaultGateways".to_owned());
    }
    for (i, spec) in route.spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let source = drafting.source(path.clone(), spec.name.as_deref());
        let admitted = drafting.admit_expressions(expressions(&spec.matches), &path);
        let mut context =
            RuleContext { resolver: &mut drafting.resolver, invalid: None, prefixes_only: false };
        let rule = admitted.and_then(|()| {
            let session = spec.session_persistence.as_deref();
            let session = session.map(|spec| draft::session(spec, &path, key, &route.metadata, &source));
            rule(spec, source, &path, session.transpose()?, &mut context)
        });
        let invalid = context.invalid;
        drafting.add(i, rule, invalid);
    }
    drafting.finish()
}

fn expressions(matches: &[GRPCRouteMatch]) -> usize {
    let in_match = |spec: &GRPCRouteMatch| {
        // A method alone becomes one too: of all services.
        let method = spec.method.as_ref().is_some_and(|method| {
            method.type_ == Some(GRPCMethodMatchType::RegularExpression)
                || (method.service.is_none() && method.method.is_some())
        });
        usize::from(method) + http::header_expressions(&spec.headers)
    };
    matches.iter().map(in_match).sum()
}

fn rule(
    spec: &GRPCRouteRule,
    source: portway_plan::Source,
    path: &str,
    session: Option<Arc<Session>>,
    context: &mut RuleContext<'_, '_>,
) -> Result<(Rule, Vec<DraftMatch>), InvalidRule> {
    let matches = if spec.matches.is_empty() {
        vec![one_match(&GRPCRouteMatch::default(), 0, path)?]
    } else {
        let matches = spec.matches.iter().zip(0..);
        matches
            .map(|(spec, index)| one_match(spec, index, &format!("{path}.matches[{index}]")))
            .collect::<Result<_, _>>()?
    };
    let filters = filter::of_grpc(&spec.filters, &format!("{path}.filters"), context)?;
    let backends = spec.backend_refs.iter().enumerate().map(|(i, backend)| {
        let path = format!("{path}.backendRefs[{i}]");
        Ok(Share {
            weight: http::weight(backend.weight),
            target: context.resolver.backend(backend.into(), &path),
            filters: filter::of_grpc(&backend.filters, &format!("{path}.filters"), context)?,
            path: path.into(),
        })
    });
    let backends = backends.collect::<Result<_, InvalidRule>>()?;
    let kind = RuleKind::Grpc;
    let rule = Rule { source, kind, filters, backends, timeouts: None, retry: None, session };
    Ok((rule, matches))
}

fn one_match(spec: &GRPCRouteMatch, index: u16, path: &str) -> Result<DraftMatch, InvalidRule> {
    let headers = http::headers(&spec.headers, path)?;
    let no_method = GRPCMethodMatch::default();
    let method = spec.method.as_deref().unwrap_or(&no_method);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, name) = (given(&method.service), given(&method.method));
    let matched = method_path(method, service.as_deref(), name.as_deref(), &format!("{path}.method"))?;
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    Ok(DraftMatch {
        index,
        specificity: Specificity::of_grpc(length(&service), length(&name), headers.len()),
        path: matched,
        method: None,
        headers,
        query: Vec::new(),
    })
}

fn method_path(
    spec: &GRPCMethodMatch,
    service: Option<&str>,
    method: Option<&str>,
    path: &str,
) -> Result<PathMatch, InvalidRule> {
    let expressions = match &spec.type_ {
        None | Some(GRPCMethodMatchType::Exact) => false,
        Some(GRPCMethodMatchType::RegularExpression) => true,
        Some(GRPCMethodMatchType::Other(other)) => {
            let message = format!("the type {other:?} is not known");
            return Err(InvalidRule::unsupported(format!("{path}.type"), message));
        }
    };
    for (field, text) in [("service", service), ("method", method)] {
        if !expressions && text.is_some_and(|text| text.contains('/')) {
            return Err(InvalidRule::unsupported(format!("{path}.{field}"), "the name contains a slash"));
        }
    }
    // Each expression must be one by itself, or `a)|(b` would reach beyond its half of the path.
    let half = |text: Option<&str>, field: &str| match text {
        None => Ok("[^/]+".to_owned()),
        Some(text) if expressions => pattern::regex(text)
            .map(|regex| format!("(?:{})", regex.0))
            .map_err(|why| InvalidRule::unsupported(format!("{path}.{field}"), why)),
        Some(text) => Ok(regex::escape(text)),
    };
    match (service, method) {
        (None, None) => Ok(PathMatch::Prefix("".into())),
        (Some(service), Some(method)) if !expressions => {
            Ok(PathMatch::Exact(format!("/{service}/{method}").into()))
        }
        (Some(service), None) if !expressions => Ok(PathMatch::Prefix(format!("/{service}").into())),
        _ => {
            let text = format!("/{}/{}", half(service, "service")?, half(method, "method")?);
            let regex: Regex = pattern::regex(&text).map_err(|why| InvalidRule::unsupported(path, why))?;
            Ok(PathMatch::Regex(regex))
        }
    }
}
