//! HTTPRoutes.

use std::collections::HashSet;
use std::sync::Arc;

use portway_api::gateway::{
    HTTPHeaderMatch, HTTPMethod, HTTPQueryParamMatch, HTTPRoute, HTTPRouteMatch, HTTPRouteRetry,
    HTTPRouteRule, HTTPRouteTimeouts, HeaderMatchType, PathMatchType, QueryParamMatchType,
};
use portway_api::object::ObjectKey;
use portway_plan::{
    HeaderMatch, PathMatch, QueryMatch, Retry, Rule, RuleKind, Session, Share, StringMatch, Timeouts,
};
use portway_store::Resources;

use crate::backend::Resolver;
use crate::draft::{Draft, DraftMatch, Drafting, InvalidRule, RuleContext};
use crate::precedence::Specificity;
use crate::{draft, duration, filter, pattern};

/// Translates the rules of an HTTPRoute.
pub(crate) fn draft(resources: &Resources, key: &ObjectKey, route: &HTTPRoute) -> Draft {
    let mut drafting = Drafting::new(Resolver::new(resources, key), key);
    if route.spec.use_default_gateways.is_some() {
        drafting.ignore("spec.useDefaultGateways".to_owned());
    }
    for (i, spec) in route.spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let source = drafting.source(path.clone(), spec.name.as_deref());
        let admitted = drafting.admit_expressions(expressions(&spec.matches), &path);
        let mut context = RuleContext {
            resolver: &mut drafting.resolver,
            invalid: None,
            prefixes_only: spec.matches.iter().all(is_prefix),
        };
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

fn expressions(matches: &[HTTPRouteMatch]) -> usize {
    let in_match = |spec: &HTTPRouteMatch| {
        let path = spec.path.as_ref().and_then(|path| path.type_.as_ref());
        let in_query = spec.query_params.iter();
        usize::from(path == Some(&PathMatchType::RegularExpression))
            + header_expressions(&spec.headers)
            + in_query.filter(|spec| spec.type_ == Some(QueryParamMatchType::RegularExpression)).count()
    };
    matches.iter().map(in_match).sum()
}

/// How many header matches of an HTTPRoute or GRPCRoute are regular expressions.
pub(crate) fn header_expressions(specs: &[HTTPHeaderMatch]) -> usize {
    specs.iter().filter(|spec| spec.type_ == Some(HeaderMatchType::RegularExpression)).count()
}

fn is_prefix(spec: &HTTPRouteMatch) -> bool {
    let kind = spec.path.as_ref().and_then(|path| path.type_.as_ref());
    matches!(kind, None | Some(PathMatchType::PathPrefix))
}

fn rule(
    spec: &HTTPRouteRule,
    source: portway_plan::Source,
    path: &str,
    session: Option<Arc<Session>>,
    context: &mut RuleContext<'_, '_>,
) -> Result<(Rule, Vec<DraftMatch>), InvalidRule> {
    let matches = matches(&spec.matches, path)?;
    let filters = filter::of_http(&spec.filters, &format!("{path}.filters"), context)?;
    let backends = spec.backend_refs.iter().enumerate().map(|(i, backend)| {
        let path = format!("{path}.backendRefs[{i}]");
        Ok(Share {
            weight: weight(backend.weight),
            target: context.resolver.backend(backend.into(), &path),
            filters: filter::of_http(&backend.filters, &format!("{path}.filters"), context)?,
            path: path.into(),
        })
    });
    let backends = backends.collect::<Result<_, InvalidRule>>()?;
    let timeouts = spec.timeouts.as_ref().map(|spec| timeouts(spec, path)).transpose()?;
    let timeouts = timeouts.and_then(Timeouts::boxed);
    let retry = spec.retry.as_ref().map(|spec| retry(spec, path).map(Box::new)).transpose()?;
    let rule = Rule { source, kind: RuleKind::Http, filters, backends, timeouts, retry, session };
    Ok((rule, matches))
}

/// The weight of a backendRef: 1 unless given.
pub(crate) fn weight(given: Option<i32>) -> u32 {
    given.map_or(1, |weight| u32::try_from(weight).unwrap_or(0))
}

fn matches(specs: &[HTTPRouteMatch], path: &str) -> Result<Vec<DraftMatch>, InvalidRule> {
    if specs.is_empty() {
        return Ok(vec![one_match(&HTTPRouteMatch::default(), 0, path)?]);
    }
    specs
        .iter()
        .zip(0..)
        .map(|(spec, index)| one_match(spec, index, &format!("{path}.matches[{index}]")))
        .collect()
}

fn one_match(spec: &HTTPRouteMatch, index: u16, path: &str) -> Result<DraftMatch, InvalidRule> {
    let given = spec.path.as_ref();
    let value = given.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let matched = match given.and_then(|path| path.type_.as_ref()) {
        None | Some(PathMatchType::PathPrefix) => {
            PathMatch::Prefix(absolute(value, path)?.trim_end_matches('/').into())
        }
        Some(PathMatchType::Exact) => PathMatch::Exact(absolute(value, path)?.into()),
        Some(PathMatchType::RegularExpression) => PathMatch::Regex(
            pattern::regex(value)
                .map_err(|why| InvalidRule::unsupported(format!("{path}.path.value"), why))?,
        ),
        Some(PathMatchType::Other(other)) => {
            let message = format!("the type {other:?} is not known");
            return Err(InvalidRule::unsupported(format!("{path}.path.type"), message));
        }
    };
    let method = match &spec.method {
        None => None,
        Some(HTTPMethod::Other(other)) => {
            let message = format!("the method {other:?} is not known");
            return Err(InvalidRule::unsupported(format!("{path}.method"), message));
        }
        Some(method) => Some(Arc::from(method.as_str())),
    };
    let headers = headers(&spec.headers, path)?;
    let query = query(&spec.query_params, path)?;
    Ok(DraftMatch {
        index,
        specificity: Specificity::of_http(&matched, method.is_some(), headers.len(), query.len()),
        path: matched,
        method,
        headers,
        query,
    })
}

fn absolute(value: &str, path: &str) -> Result<String, InvalidRule> {
    if value.starts_with('/') {
        Ok(pattern::path(value))
    } else {
        let message = format!("{value:?} does not begin with a slash");
        Err(InvalidRule::unsupported(format!("{path}.path.value"), message))
    }
}

/// Header matches of HTTPRoutes and GRPCRoutes: of names that are alike without case, the first counts.
pub(crate) fn headers(specs: &[HTTPHeaderMatch], path: &str) -> Result<Vec<HeaderMatch>, InvalidRule> {
    let mut seen = HashSet::new();
    let mut matches = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let path = format!("{path}.headers[{i}]");
        let name = spec.name.to_ascii_lowercase();
        if !filter::is_token(&name) {
            let message = format!("{:?} is no header name", spec.name);
            return Err(InvalidRule::unsupported(format!("{path}.name"), message));
        }
        let value = match &spec.type_ {
            None | Some(HeaderMatchType::Exact) => StringMatch::Exact(spec.value.as_str().into()),
            Some(HeaderMatchType::RegularExpression) => expression(&spec.value, &path)?,
            Some(HeaderMatchType::Other(other)) => {
                let message = format!("the type {other:?} is not known");
                return Err(InvalidRule::unsupported(format!("{path}.type"), message));
            }
        };
        if seen.insert(name.clone()) {
            matches.push(HeaderMatch { name: name.into(), value });
        }
    }
    Ok(matches)
}

fn query(specs: &[HTTPQueryParamMatch], path: &str) -> Result<Vec<QueryMatch>, InvalidRule> {
    let mut seen = HashSet::new();
    let mut matches = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let path = format!("{path}.queryParams[{i}]");
        let value = match &spec.type_ {
            None | Some(QueryParamMatchType::Exact) => StringMatch::Exact(spec.value.as_str().into()),
            Some(QueryParamMatchType::RegularExpression) => expression(&spec.value, &path)?,
            Some(QueryParamMatchType::Other(other)) => {
                let message = format!("the type {other:?} is not known");
                return Err(InvalidRule::unsupported(format!("{path}.type"), message));
            }
        };
        if seen.insert(spec.name.as_str()) {
            matches.push(QueryMatch { name: spec.name.as_str().into(), value });
        }
    }
    Ok(matches)
}

fn expression(value: &str, path: &str) -> Result<StringMatch, InvalidRule> {
    let regex =
        pattern::regex(value).map_err(|why| InvalidRule::unsupported(format!("{path}.value"), why))?;
    Ok(StringMatch::Regex(regex))
}

fn timeouts(spec: &HTTPRouteTimeouts, path: &str) -> Result<Timeouts, InvalidRule> {
    let limit = |text: &Option<String>, field: &str| match text {
        None => Ok(None),
        // "0s" turns the limit off.
        Some(text) => interval(text, &format!("{path}.timeouts.{field}"))
            .map(|limit| Some(limit).filter(|limit| !limit.is_zero())),
    };
    Ok(Timeouts {
        request: limit(&spec.request, "request")?,
        backend_request: limit(&spec.backend_request, "backendRequest")?,
    })
}

fn interval(text: &str, path: &str) -> Result<std::time::Duration, InvalidRule> {
    duration::parse(text)
        .ok_or_else(|| InvalidRule::unsupported(path, format!("{text:?} is no duration (GEP-2257)")))
}

/// How many tries follow the first where `retry` does not say.
const DEFAULT_RETRIES: u32 = 1;

fn retry(spec: &HTTPRouteRetry, path: &str) -> Result<Retry, InvalidRule> {
    let codes = spec.codes.iter().enumerate().map(|(i, code)| match u16::try_from(*code) {
        Ok(code @ 400..=599) => Ok(code),
        _ => {
            let message = format!("{code} is no status from 400 to 599");
            Err(InvalidRule::unsupported(format!("{path}.retry.codes[{i}]"), message))
        }
    });
    let attempts = match spec.attempts {
        None => DEFAULT_RETRIES,
        Some(attempts) => u32::try_from(attempts).map_err(|_| {
            let message = format!("{attempts} is no number of attempts");
            InvalidRule::unsupported(format!("{path}.retry.attempts"), message)
        })?,
    };
    let backoff =
        spec.backoff.as_deref().map(|text| interval(text, &format!("{path}.retry.backoff"))).transpose()?;
    Ok(Retry { codes: codes.collect::<Result<_, _>>()?, attempts, backoff })
}
