//! RequestRedirect: HTTPRequestRedirectFilter
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httprequestredirectfilter>).

use bytes::Bytes;
use http::StatusCode;
use portway_plan::RedirectPort;

use super::MatchContext;
use super::path_modifier::PathModifier;
use crate::http::{Authority, Body, RequestHead, Response, Scheme, path};

/// Answers with a `Location`.
#[derive(Debug)]
pub(super) struct Redirect {
    scheme: Option<Scheme>,
    host: Option<Box<str>>,
    port: RedirectPort,
    path: Option<PathModifier>,
    status: StatusCode,
}

impl Redirect {
    /// `None` when the scheme, hostname or status is none.
    pub(super) fn compile(redirect: &portway_plan::Redirect) -> Option<Self> {
        let scheme = match redirect.scheme.as_deref() {
            None => None,
            Some("http") => Some(Scheme::Http),
            Some("https") => Some(Scheme::Https),
            Some(_) => return None,
        };
        let host = match &redirect.hostname {
            Some(name) => Some(Authority::parse(Bytes::copy_from_slice(name.as_bytes())).ok()?.host().into()),
            None => None,
        };
        Some(Self {
            scheme,
            host,
            port: redirect.port,
            path: redirect.path.as_ref().map(PathModifier::compile),
            status: StatusCode::from_u16(redirect.status).ok().filter(StatusCode::is_redirection)?,
        })
    }

    /// The redirect; `None` when the new path climbs above its root. The query stays, as it does with a
    /// rewrite.
    pub(super) fn answer(&self, head: &RequestHead, context: &MatchContext) -> Option<Response> {
        let scheme = self.scheme.unwrap_or(head.scheme);
        let host = self.host.as_deref().unwrap_or_else(|| head.authority.host());
        let port = match self.port {
            RedirectPort::Number(port) => port,
            RedirectPort::OfScheme => scheme.default_port(),
            RedirectPort::OfListener => context.port,
        };
        let changed = match &self.path {
            Some(modifier) => Some(path::normalise(&modifier.apply(&head.target, context).into()).ok()?),
            None => None,
        };
        let target = changed.as_ref().unwrap_or(&head.target).as_str();
        // Without a host (HTTP/1.0) there is no absolute URI: the client keeps scheme and host.
        let location = if host.is_empty() {
            target.to_owned()
        } else if port == scheme.default_port() {
            format!("{}://{host}{target}", scheme.as_str())
        } else {
            format!("{}://{host}:{port}{target}", scheme.as_str())
        };
        let mut response = Response::new(self.status, Body::Empty);
        response.head.headers.append("location", location);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use portway_plan::PathRewrite;

    use super::super::tests::request;
    use super::*;

    fn plan() -> portway_plan::Redirect {
        portway_plan::Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: RedirectPort::OfListener,
            status: 302,
        }
    }

    fn location(redirect: portway_plan::Redirect, url: &str, port: u16) -> String {
        let context = MatchContext { prefix_len: Some("/original".len()), port };
        let status = redirect.status;
        let redirect = Redirect::compile(&redirect).expect("a redirect");
        let response = redirect.answer(&request("GET", url), &context).expect("an answer");
        assert_eq!(response.head.status.as_u16(), status);
        String::from_utf8_lossy(response.head.headers.get("location").expect("a location")).into_owned()
    }

    /// The cases of HTTPRouteRedirectPortAndScheme.
    #[test]
    fn port_and_scheme() {
        let host = Some("example.org".into());
        for (listener, scheme, port, wanted) in [
            (80, None, None, "http://example.org/"),
            (80, None, Some(80), "http://example.org/"),
            (80, None, Some(8080), "http://example.org:8080/"),
            (80, Some("https"), None, "https://example.org/"),
            (80, Some("https"), Some(443), "https://example.org/"),
            (80, Some("https"), Some(8443), "https://example.org:8443/"),
            (8080, None, None, "http://example.org:8080/"),
            (8080, None, Some(80), "http://example.org/"),
            (8080, Some("https"), None, "https://example.org/"),
            (443, None, None, "https://example.org/"),
            (443, None, Some(443), "https://example.org/"),
            (443, None, Some(8443), "https://example.org:8443/"),
            (443, Some("http"), None, "http://example.org/"),
            (443, Some("http"), Some(80), "http://example.org/"),
            (443, Some("http"), Some(8080), "http://example.org:8080/"),
        ] {
            let from: &str = if listener == 443 { "https" } else { "http" };
            let redirect = portway_plan::Redirect {
                scheme: scheme.map(Into::into),
                hostname: host.clone(),
                port: match (port, scheme) {
                    (Some(port), _) => RedirectPort::Number(port),
                    (None, Some(_)) => RedirectPort::OfScheme,
                    (None, None) => RedirectPort::OfListener,
                },
                ..plan()
            };
            let got = location(redirect, &format!("{from}://a.example:1234/"), listener);
            assert_eq!(got, wanted, "listener {listener}, scheme {scheme:?}, port {port:?}");
        }
    }

    #[test]
    fn the_rest_of_the_request_stays() {
        let got = location(plan(), "http://Shop.Example.:99/a//b?c=%2e", 80);
        assert_eq!(got, "http://shop.example/a/b?c=%2e");
        assert_eq!(location(plan(), "http://[::1]:99/", 8080), "http://[::1]:8080/");
        assert_eq!(location(plan(), "http:///a", 80), "/a");
        for status in [301, 302, 303, 307, 308] {
            location(portway_plan::Redirect { status, ..plan() }, "http://a/", 80);
        }
    }

    #[test]
    fn paths() {
        let with = |path| portway_plan::Redirect { path: Some(path), ..plan() };
        let prefix = with(PathRewrite::Prefix("/replacement".into()));
        assert_eq!(location(prefix, "http://a/original/lemon?q=1", 80), "http://a/replacement/lemon?q=1");
        let full = with(PathRewrite::Full("/full".into()));
        assert_eq!(location(full, "http://a/original/lemon?q=1", 80), "http://a/full?q=1");
    }

    #[test]
    fn what_is_no_redirect() {
        for bad in [
            portway_plan::Redirect { scheme: Some("ftp".into()), ..plan() },
            portway_plan::Redirect { hostname: Some("a b".into()), ..plan() },
            portway_plan::Redirect { status: 200, ..plan() },
        ] {
            assert!(Redirect::compile(&bad).is_none());
        }
    }
}
