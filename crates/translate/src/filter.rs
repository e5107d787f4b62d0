//! Filters of HTTPRoutes and GRPCRoutes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use portway_api::gateway::{
    GRPCRouteFilter, GRPCRouteFilterType, HTTPCORSFilter, HTTPHeader, HTTPHeaderFilter, HTTPPathModifier,
    HTTPPathModifierType, HTTPRedirectScheme, HTTPRequestMirrorFilter, HTTPRequestRedirectFilter,
    HTTPRouteFilter, HTTPRouteFilterType, HTTPURLRewriteFilter, LocalObjectReference,
};
use portway_plan::{
    Cors, CorsOrigin, Filter, HeaderEdit, HeaderPair, HostPattern, Mirror, PathRewrite, Redirect,
    RedirectPort, Rewrite,
};

use crate::draft::{InvalidRule, RuleContext};
use crate::external_auth;

/// Translates the filters of an HTTPRoute's rule or backendRef; `path` is the list's.
pub(crate) fn of_http(
    filters: &[HTTPRouteFilter],
    path: &str,
    context: &mut RuleContext<'_, '_>,
) -> Result<Box<[Filter]>, InvalidRule> {
    let has = |kind| filters.iter().any(|filter| filter.type_ == kind);
    if has(HTTPRouteFilterType::RequestRedirect) && has(HTTPRouteFilterType::URLRewrite) {
        return Err(InvalidRule {
            reason: "IncompatibleFilters",
            ..InvalidRule::unsupported(path, "RequestRedirect and URLRewrite exclude each other")
        });
    }
    filters
        .iter()
        .enumerate()
        .map(|(i, filter)| http_filter(filter, &format!("{path}[{i}]"), context))
        .collect()
}

fn http_filter(
    filter: &HTTPRouteFilter,
    path: &str,
    context: &mut RuleContext<'_, '_>,
) -> Result<Filter, InvalidRule> {
    let missing = || {
        InvalidRule::unsupported(path, format!("the filter has no settings for its type {}", filter.type_))
    };
    match &filter.type_ {
        HTTPRouteFilterType::RequestHeaderModifier => {
            let edit = filter.request_header_modifier.as_deref().ok_or_else(missing)?;
            headers(edit, &format!("{path}.requestHeaderModifier")).map(Filter::RequestHeaders)
        }
        HTTPRouteFilterType::ResponseHeaderModifier => {
            let edit = filter.response_header_modifier.as_deref().ok_or_else(missing)?;
            headers(edit, &format!("{path}.responseHeaderModifier")).map(Filter::ResponseHeaders)
        }
        HTTPRouteFilterType::RequestMirror => {
            let settings = filter.request_mirror.as_deref().ok_or_else(missing)?;
            mirror(settings, &format!("{path}.requestMirror"), context)
        }
        HTTPRouteFilterType::RequestRedirect => {
            let settings = filter.request_redirect.as_deref().ok_or_else(missing)?;
            redirect(settings, &format!("{path}.requestRedirect"), context)
        }
        HTTPRouteFilterType::URLRewrite => {
            let settings = filter.url_rewrite.as_ref().ok_or_else(missing)?;
            rewrite(settings, &format!("{path}.urlRewrite"), context)
        }
        HTTPRouteFilterType::Cors => {
            let settings = filter.cors.as_deref().ok_or_else(missing)?;
            cors(settings, &format!("{path}.cors")).map(Filter::Cors)
        }
        HTTPRouteFilterType::ExtensionRef => {
            Ok(extension(filter.extension_ref.as_deref().ok_or_else(missing)?, path, context))
        }
        HTTPRouteFilterType::ExternalAuth => {
            let settings = filter.external_auth.as_deref().ok_or_else(missing)?;
            match external_auth::translate(settings, &format!("{path}.externalAuth"), context.resolver) {
                Ok(auth) => Ok(Filter::ExternalAuth(auth)),
                // The rule stays and answers 500: without it, requests might find another that asks nobody.
                Err(fault) => Ok(context.unsupported_filter(&fault.path, fault.message)),
            }
        }
        HTTPRouteFilterType::Other(name) => {
            Ok(context.unsupported_filter(path, format!("the filter type {name:?} is not known")))
        }
    }
}

/// Translates the filters of a GRPCRoute's rule or backendRef; `path` is the list's.
pub(crate) fn of_grpc(
    filters: &[GRPCRouteFilter],
    path: &str,
    context: &mut RuleContext<'_, '_>,
) -> Result<Box<[Filter]>, InvalidRule> {
    filters
        .iter()
        .enumerate()
        .map(|(i, filter)| grpc_filter(filter, &format!("{path}[{i}]"), context))
        .collect()
}

fn grpc_filter(
    filter: &GRPCRouteFilter,
    path: &str,
    context: &mut RuleContext<'_, '_>,
) -> Result<Filter, InvalidRule> {
    let missing = || {
        InvalidRule::unsupported(path, format!("the filter has no settings for its type {}", filter.type_))
    };
    match &filter.type_ {
        GRPCRouteFilterType::RequestHeaderModifier => {
            let edit = filter.request_header_modifier.as_deref().ok_or_else(missing)?;
            headers(edit, &format!("{path}.requestHeaderModifier")).map(Filter::RequestHeaders)
        }
        GRPCRouteFilterType::ResponseHeaderModifier => {
            let edit = filter.response_header_modifier.as_deref().ok_or_else(missing)?;
            headers(edit, &format!("{path}.responseHeaderModifier")).map(Filter::ResponseHeaders)
        }
        GRPCRouteFilterType::RequestMirror => {
            let settings = filter.request_mirror.as_deref().ok_or_else(missing)?;
            mirror(settings, &format!("{path}.requestMirror"), context)
        }
        GRPCRouteFilterType::ExtensionRef => {
            Ok(extension(filter.extension_ref.as_deref().ok_or_else(missing)?, path, context))
        }
        GRPCRouteFilterType::Other(name) => {
            Ok(context.unsupported_filter(path, format!("the filter type {name:?} is not known")))
        }
    }
}

/// A reference to a filter of another API: there is none that Portway knows. It may not be skipped, so
/// requests that meet it get a 500.
fn extension(reference: &LocalObjectReference, path: &str, context: &mut RuleContext<'_, '_>) -> Filter {
    let LocalObjectReference { group, kind, name } = reference;
    let path = format!("{path}.extensionRef");
    let message = format!("{kind}.{group} {name} is no kind of filter that Portway knows");
    let broken = Filter::Broken { message: format!("{path}: {message}").into() };
    context.resolver.fault(&path, "InvalidKind", message);
    broken
}

/// Whether a text is an RFC 9110 token, as header names are.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn headers(filter: &HTTPHeaderFilter, path: &str) -> Result<HeaderEdit, InvalidRule> {
    let pairs = |list: &[HTTPHeader], field: &str| -> Result<Vec<HeaderPair>, InvalidRule> {
        let mut seen = HashSet::new();
        let mut pairs = Vec::with_capacity(list.len());
        for (i, HTTPHeader { name, value }) in list.iter().enumerate() {
            if !is_token(name) {
                let path = format!("{path}.{field}[{i}].name");
                return Err(InvalidRule::unsupported(path, format!("{name:?} is no header name")));
            }
            if !value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)) {
                let path = format!("{path}.{field}[{i}].value");
                return Err(InvalidRule::unsupported(path, "the value has control characters"));
            }
            // HTTPHeader name: of equivalent names the first counts.
            if seen.insert(name.to_ascii_lowercase()) {
                pairs.push(HeaderPair { name: name.as_str().into(), value: value.as_str().into() });
            }
        }
        Ok(pairs)
    };
    if let Some(i) = filter.remove.iter().position(|name| !is_token(name)) {
        let message = format!("{:?} is no header name", filter.remove[i]);
        return Err(InvalidRule::unsupported(format!("{path}.remove[{i}]"), message));
    }
    Ok(HeaderEdit {
        set: pairs(&filter.set, "set")?,
        add: pairs(&filter.add, "add")?,
        remove: filter.remove.iter().map(|name| Arc::from(name.as_str())).collect(),
    })
}

fn mirror(
    filter: &HTTPRequestMirrorFilter,
    path: &str,
    context: &mut RuleContext<'_, '_>,
) -> Result<Filter, InvalidRule> {
    let (numerator, denominator) = match (&filter.fraction, filter.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    let (Ok(numerator), Ok(denominator @ 1..)) = (u32::try_from(numerator), u32::try_from(denominator))
    else {
        return Err(InvalidRule::unsupported(path, "the share to mirror is no fraction from 0 to 1"));
    };
    if numerator > denominator {
        return Err(InvalidRule::unsupported(path, "the share to mirror is above the whole"));
    }
    let target = context.resolver.backend((&filter.backend_ref).into(), &format!("{path}.backendRef"));
    Ok(Filter::Mirror(Mirror { target, numerator, denominator }))
}

fn redirect(
    filter: &HTTPRequestRedirectFilter,
    path: &str,
    context: &RuleContext<'_, '_>,
) -> Result<Filter, InvalidRule> {
    let scheme = match &filter.scheme {
        None => None,
        Some(scheme @ (HTTPRedirectScheme::Http | HTTPRedirectScheme::Https)) => {
            Some(Arc::from(scheme.as_str()))
        }
        Some(HTTPRedirectScheme::Other(other)) => {
            let message = format!("the scheme {other:?} is neither http nor https");
            return Err(InvalidRule::unsupported(format!("{path}.scheme"), message));
        }
    };
    let port = match filter.port {
        Some(port) => match u16::try_from(port) {
            Ok(port @ 1..) => RedirectPort::Number(port),
            _ => {
                return Err(InvalidRule::unsupported(
                    format!("{path}.port"),
                    format!("{port} is no port number"),
                ));
            }
        },
        None if scheme.is_some() => RedirectPort::OfScheme,
        None => RedirectPort::OfListener,
    };
    let status = match filter.status_code {
        None => 302,
        Some(301) => 301,
        Some(302) => 302,
        Some(303) => 303,
        Some(307) => 307,
        Some(308) => 308,
        Some(other) => {
            let message = format!("the status code {other} is not one of 301, 302, 303, 307 and 308");
            return Err(InvalidRule::unsupported(format!("{path}.statusCode"), message));
        }
    };
    Ok(Filter::Redirect(Redirect {
        scheme,
        hostname: hostname(filter.hostname.as_deref(), path)?,
        path: path_rewrite(filter.path.as_deref(), path, context)?,
        port,
        status,
    }))
}

fn rewrite(
    filter: &HTTPURLRewriteFilter,
    path: &str,
    context: &RuleContext<'_, '_>,
) -> Result<Filter, InvalidRule> {
    Ok(Filter::Rewrite(Rewrite {
        hostname: hostname(filter.hostname.as_deref(), path)?,
        path: path_rewrite(filter.path.as_deref(), path, context)?,
    }))
}

fn hostname(given: Option<&str>, path: &str) -> Result<Option<Arc<str>>, InvalidRule> {
    given
        .map(|text| match HostPattern::parse(text) {
            Ok(HostPattern::Exact(name)) => Ok(name),
            _ => {
                let message = format!("{text:?} is no hostname");
                Err(InvalidRule::unsupported(format!("{path}.hostname"), message))
            }
        })
        .transpose()
}

fn path_rewrite(
    modifier: Option<&HTTPPathModifier>,
    path: &str,
    context: &RuleContext<'_, '_>,
) -> Result<Option<PathRewrite>, InvalidRule> {
    let Some(modifier) = modifier else { return Ok(None) };
    let path = format!("{path}.path");
    let text = |value: &Option<String>| -> Result<Arc<str>, InvalidRule> {
        let value = value.as_deref().unwrap_or_default();
        // It becomes part of a request line or a Location: nothing may end it early.
        if value.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?') {
            Ok(value.into())
        } else {
            Err(InvalidRule::unsupported(path.as_str(), format!("{value:?} is no path")))
        }
    };
    match &modifier.type_ {
        HTTPPathModifierType::ReplaceFullPath => {
            text(&modifier.replace_full_path).map(|path| Some(PathRewrite::Full(path)))
        }
        HTTPPathModifierType::ReplacePrefixMatch if context.prefixes_only => {
            text(&modifier.replace_prefix_match).map(|path| Some(PathRewrite::Prefix(path)))
        }
        HTTPPathModifierType::ReplacePrefixMatch => Err(InvalidRule::unsupported(
            path.as_str(),
            "ReplacePrefixMatch needs every match of the rule to be a PathPrefix",
        )),
        HTTPPathModifierType::Other(other) => {
            Err(InvalidRule::unsupported(path.as_str(), format!("the type {other:?} is not known")))
        }
    }
}

fn cors(filter: &HTTPCORSFilter, path: &str) -> Result<Cors, InvalidRule> {
    let origins = filter.allow_origins.iter().enumerate().map(|(i, text)| {
        origin(text).ok_or_else(|| {
            let message = format!("{text:?} is no origin (scheme://host[:port])");
            InvalidRule::unsupported(format!("{path}.allowOrigins[{i}]"), message)
        })
    });
    let names = |list: &[String], field: &str| -> Result<Vec<Arc<str>>, InvalidRule> {
        match list.iter().position(|name| !is_token(name)) {
            Some(i) => {
                let message = format!("{:?} is no header name", list[i]);
                Err(InvalidRule::unsupported(format!("{path}.{field}[{i}]"), message))
            }
            None => Ok(list.iter().map(|name| Arc::from(name.as_str())).collect()),
        }
    };
    if let Some(i) = filter.allow_methods.iter().position(|method| !is_token(method.as_str())) {
        let message = format!("{:?} is no method", filter.allow_methods[i].as_str());
        return Err(InvalidRule::unsupported(format!("{path}.allowMethods[{i}]"), message));
    }
    Ok(Cors {
        allow_origins: origins.collect::<Result<_, _>>()?,
        allow_credentials: filter.allow_credentials.unwrap_or(false),
        allow_methods: filter.allow_methods.iter().map(|method| Arc::from(method.as_str())).collect(),
        allow_headers: names(&filter.allow_headers, "allowHeaders")?,
        expose_headers: names(&filter.expose_headers, "exposeHeaders")?,
        // The field's own default.
        max_age: Some(Duration::from_secs(u64::try_from(filter.max_age.unwrap_or(5)).unwrap_or(0))),
    })
}

fn origin(text: &str) -> Option<CorsOrigin> {
    if text == "*" {
        return Some(CorsOrigin::Any);
    }
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port: &u16| *port > 0)?)),
        None => (authority, None),
    };
    if host.is_empty() {
        return None;
    }
    Some(CorsOrigin::Of {
        scheme: scheme.into(),
        host: HostPattern::parse(host).ok()?,
        port: port.filter(|port| *port != own_port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_host_and_port() {
        let of = |scheme: &str, host: &str, port| {
            Some(CorsOrigin::Of { scheme: scheme.into(), host: HostPattern::parse(host).unwrap(), port })
        };
        assert_eq!(origin("*"), Some(CorsOrigin::Any));
        assert_eq!(origin("https://*"), of("https", "*", None));
        assert_eq!(origin("https://a.example.com:443"), of("https", "a.example.com", None));
        assert_eq!(origin("http://*.example.com:8080"), of("http", "*.example.com", Some(8080)));
        for bad in ["", "a.example.com", "ftp://a", "http://", "http://a:0", "http://a:99999", "http://a/b"] {
            assert_eq!(origin(bad), None, "{bad:?}");
        }
    }
}
