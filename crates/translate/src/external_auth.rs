//! ExternalAuth filters (GEP-1494), of routes and of listeners.

use std::sync::Arc;

use portway_api::gateway::{HTTPExternalAuthFilter, HTTPRouteExternalAuthProtocol};
use portway_plan::{AuthProtocol, ExternalAuth};

use crate::backend::Resolver;
use crate::filter::is_token;

/// The longest body that is held back for an authorization service. Each request may take as much memory.
const BODY_LIMIT: u32 = 16 * 1024 * 1024;

/// What cannot be honoured: the field, below the filter's, and why.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) message: String,
}

/// Translates a filter; `path` is that of its settings.
pub(crate) fn translate(
    filter: &HTTPExternalAuthFilter,
    path: &str,
    resolver: &mut Resolver<'_>,
) -> Result<ExternalAuth, Fault> {
    // Followed first, so that its own faults show whatever else is wrong.
    let target = resolver.backend((&filter.backend_ref).into(), &format!("{path}.backendRef"));
    let fault = |field: &str, message: String| Fault { path: format!("{path}.{field}"), message };
    let names = |list: &[String], field: &str| -> Result<Vec<Arc<str>>, Fault> {
        match list.iter().position(|name| !is_token(name)) {
            Some(i) => Err(fault(&format!("{field}[{i}]"), format!("{:?} is no header name", list[i]))),
            None => Ok(list.iter().map(|name| name.to_ascii_lowercase().into()).collect()),
        }
    };
    let (protocol, told) = match &filter.protocol {
        HTTPRouteExternalAuthProtocol::Grpc => {
            let told = filter.grpc.as_ref().map(|grpc| grpc.allowed_headers.as_slice());
            (AuthProtocol::Grpc, names(told.unwrap_or_default(), "grpc.allowedHeaders")?)
        }
        HTTPRouteExternalAuthProtocol::Http => {
            let http = filter.http.clone().unwrap_or_default();
            let prefix = http.path.unwrap_or_default();
            // It becomes part of a request line: nothing may end it early.
            if !prefix.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?') {
                return Err(fault("http.path", format!("{prefix:?} is no path")));
            }
            let response_headers = names(&http.allowed_response_headers, "http.allowedResponseHeaders")?;
            let told = names(&http.allowed_headers, "http.allowedHeaders")?;
            (AuthProtocol::Http { path: prefix.into(), response_headers }, told)
        }
        HTTPRouteExternalAuthProtocol::Other(other) => {
            return Err(fault("protocol", format!("the protocol {other:?} is neither HTTP nor GRPC")));
        }
    };
    let most = filter.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or(0);
    let body_limit = match u32::try_from(most) {
        Ok(limit) if limit <= BODY_LIMIT => limit,
        _ => {
            let message = format!("{most} is no size from 0 to {BODY_LIMIT} bytes");
            return Err(fault("forwardBody.maxSize", message));
        }
    };
    let request_headers = (!told.is_empty()).then_some(told);
    Ok(ExternalAuth { target, protocol, request_headers, body_limit })
}
