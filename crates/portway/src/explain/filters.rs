//! Filters and matches in words.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use portway_plan::{
    CorsOrigin, Entry, Filter, HeaderEdit, PathMatch, PathRewrite, RedirectPort, Session, SessionCarrier,
    StringMatch, Target,
};
use portway_proxy::fault::FaultKind;
use portway_proxy::http::filters::{Effects, Filters, MatchContext, Stop};
use portway_proxy::http::{RequestHead, Response};

/// What a filter does.
pub(super) fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(edit) => format!("RequestHeaderModifier: {}", headers(edit)),
        Filter::ResponseHeaders(edit) => format!("ResponseHeaderModifier: {}", headers(edit)),
        Filter::Redirect(redirect) => {
            let mut parts = vec![format!("status {}", redirect.status)];
            parts.extend(redirect.scheme.as_ref().map(|scheme| format!("scheme {scheme}")));
            parts.extend(redirect.hostname.as_ref().map(|host| format!("host {host}")));
            if let RedirectPort::Number(port) = redirect.port {
                parts.push(format!("port {port}"));
            }
            parts.extend(redirect.path.as_ref().map(path));
            format!("RequestRedirect: {}", parts.join(", "))
        }
        Filter::Rewrite(rewrite) => {
            let host = rewrite.hostname.as_ref().map(|host| format!("host {host}"));
            let parts: Vec<String> = host.into_iter().chain(rewrite.path.as_ref().map(path)).collect();
            format!("URLRewrite: {}", parts.join(", "))
        }
        Filter::Mirror(mirror) => {
            let part = if mirror.numerator == mirror.denominator {
                "every request".to_owned()
            } else {
                format!("{} of {} requests", mirror.numerator, mirror.denominator)
            };
            match &mirror.target {
                Target::Backend(key) => format!("RequestMirror: a copy of {part} to {key}"),
                Target::Invalid(no) => format!("RequestMirror: nothing, {}: {}", no.reason, no.message),
            }
        }
        Filter::Cors(cors) => {
            let origins: Vec<String> = cors
                .allow_origins
                .iter()
                .map(|origin| match origin {
                    CorsOrigin::Any => "*".to_owned(),
                    CorsOrigin::Of { scheme, host, port } => {
                        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                        format!("{scheme}://{host}{port}")
                    }
                })
                .collect();
            format!("CORS: origins {}", origins.join(", "))
        }
        Filter::ExternalAuth(auth) => match &auth.target {
            Target::Backend(key) => format!("asks {key} whether the request may pass"),
            Target::Invalid(no) => {
                format!("cannot ask whether the request may pass, answers 500: {}", no.message)
            }
        },
        Filter::Broken { message } => format!("cannot be honoured, answers 500: {message}"),
    }
}

/// What stops a request at filters, if something does. Whoever they would ask is taken to say yes, and to
/// change nothing.
pub(super) fn stopped(
    filters: &Filters,
    head: &mut RequestHead,
    context: &MatchContext,
    effects: &mut Effects,
) -> Option<Result<Response, FaultKind>> {
    let mut from = 0;
    loop {
        match filters.on_request(from, head, context, effects) {
            ControlFlow::Continue(()) => return None,
            ControlFlow::Break(Stop::Ask(_, next)) => from = next,
            ControlFlow::Break(Stop::Answer(response)) => return Some(Ok(response)),
            ControlFlow::Break(Stop::Fault(kind)) => return Some(Err(kind)),
        }
    }
}

/// How sessions are kept.
pub(super) fn session(session: &Session) -> String {
    let carrier = match session.carrier {
        SessionCarrier::Cookie { .. } => "cookie",
        SessionCarrier::Header => "header",
    };
    let time = session.absolute_timeout.map_or_else(String::new, |time| format!(" for {time:?}"));
    format!("sessions by the {carrier} {}{time}", session.name)
}

fn headers(edit: &HeaderEdit) -> String {
    let pairs = |word: &str, pairs: &[portway_plan::HeaderPair]| {
        pairs.iter().map(|pair| format!("{word} {}: {}", pair.name, pair.value)).collect::<Vec<_>>()
    };
    let mut parts = pairs("set", &edit.set);
    parts.extend(pairs("add", &edit.add));
    parts.extend(edit.remove.iter().map(|name| format!("remove {name}")));
    parts.join(", ")
}

fn path(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(to) => format!("path {to}"),
        PathRewrite::Prefix(to) => format!("prefix becomes {}", if to.is_empty() { "/" } else { to }),
    }
}

/// What an entry asks of a request.
pub(super) fn entry(entry: &Entry) -> String {
    let mut text = match &entry.path {
        PathMatch::Exact(path) => format!("path = {path}"),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "every path".to_owned(),
        PathMatch::Prefix(prefix) => format!("path under {prefix}"),
        PathMatch::Regex(regex) => format!("path ~ {}", regex.0),
    };
    if let Some(method) = &entry.method {
        let _ = write!(text, ", method {method}");
    }
    for header in &entry.headers {
        let _ = write!(text, ", header {}", value(&header.name, &header.value));
    }
    for parameter in &entry.query {
        let _ = write!(text, ", query {}", value(&parameter.name, &parameter.value));
    }
    text
}

/// A name and the value that it is compared with.
pub(super) fn value(name: &str, value: &StringMatch) -> String {
    match value {
        StringMatch::Exact(text) => format!("{name} = {text}"),
        StringMatch::Regex(regex) => format!("{name} ~ {}", regex.0),
    }
}
