//! CORS: HTTPCORSFilter, GEP-1767 (<https://gateway-api.sigs.k8s.io/geps/gep-1767/>), and the Fetch standard
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_plan::CorsOrigin;

use super::Effects;
use crate::http::{Body, Headers, RequestHead, Response, ResponseHead};

/// Says which other origins may use a resource. The gateway has the last word: it answers every preflight
/// by itself, and drops what a backend says on the matter.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Box<[CorsOrigin]>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: List,
    max_age: Bytes,
}

#[derive(Debug)]
enum List {
    /// Nothing is said.
    None,
    /// `*`.
    All,
    /// The header's value.
    Of(Bytes),
}

/// The method that a CORS preflight asks for; `None` for requests that are none.
pub fn requested_method(head: &RequestHead) -> Option<&[u8]> {
    if head.method != Method::OPTIONS || !head.headers.contains("origin") {
        return None;
    }
    head.headers.get("access-control-request-method")
}

impl List {
    fn compile(items: &[Arc<str>]) -> Self {
        match items {
            [] => Self::None,
            items if items.iter().any(|item| &**item == "*") => Self::All,
            items => Self::Of(items.join(", ").into()),
        }
    }
}

impl Cors {
    pub(super) fn compile(cors: &portway_plan::Cors) -> Self {
        let max_age = cors.max_age.unwrap_or(Duration::from_secs(5));
        Self {
            origins: cors.allow_origins.clone().into(),
            credentials: cors.allow_credentials,
            methods: List::compile(&cors.allow_methods),
            headers: List::compile(&cors.allow_headers),
            expose: List::compile(&cors.expose_headers),
            max_age: max_age.as_secs().to_string().into(),
        }
    }

    /// Answers preflights, also those of origins that are not allowed: with 204 and no CORS headers.
    pub(super) fn on_request(&self, head: &RequestHead, effects: &mut Effects) -> Option<Response> {
        effects.origin = head.headers.get("origin").map(Bytes::copy_from_slice);
        let method = requested_method(head)?;
        let mut response = Response::new(StatusCode::NO_CONTENT, Body::Empty);
        let headers = &mut response.head.headers;
        if self.grant(headers, effects.origin.as_deref()) {
            let asked = head.headers.get("access-control-request-headers");
            self.answer_preflight(headers, method, asked);
            self.expose(headers);
        }
        Some(response)
    }

    /// Replaces what the backend says about CORS.
    pub(super) fn on_response(&self, head: &mut ResponseHead, origin: Option<&[u8]>) {
        const PREFIX: &[u8] = b"access-control-";
        head.headers.remove_if(|name, _| {
            name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        });
        if self.grant(&mut head.headers, origin) {
            self.expose(&mut head.headers);
        }
    }

    /// Says whose request this is allowed to be; whether it is this origin's.
    fn grant(&self, headers: &mut Headers, origin: Option<&[u8]>) -> bool {
        // A credentialed response must name the origin (Fetch standard, section "CORS protocol and
        // credentials").
        let any = !self.credentials && self.origins.contains(&CorsOrigin::Any);
        if !any && !headers.has_token("vary", "origin") && !headers.has_token("vary", "*") {
            headers.append("vary", "Origin");
        }
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else { return false };
        if any {
            headers.append("access-control-allow-origin", "*");
        } else {
            headers.append("access-control-allow-origin", origin);
        }
        if self.credentials {
            headers.append("access-control-allow-credentials", "true");
        }
        true
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let parsed = Origin::parse(origin);
        self.origins.iter().any(|allowed| match (allowed, &parsed) {
            (CorsOrigin::Any, _) => true,
            (CorsOrigin::Of { scheme, host, port }, Some(origin)) => {
                origin.scheme.eq_ignore_ascii_case(scheme)
                    && host.matches(&origin.host)
                    && origin.port.or(default_port(scheme)) == port.or(default_port(scheme))
            }
            (CorsOrigin::Of { .. }, None) => false,
        })
    }

    fn answer_preflight(&self, headers: &mut Headers, method: &[u8], asked: Option<&[u8]>) {
        match &self.methods {
            List::None => {}
            List::Of(methods) => headers.append("access-control-allow-methods", methods),
            List::All if !self.credentials => headers.append("access-control-allow-methods", "*"),
            List::All if Method::from_bytes(method).is_ok() => {
                headers.append("access-control-allow-methods", method);
            }
            List::All => {}
        }
        match (&self.headers, asked) {
            (List::None, _) => {}
            (List::Of(names), _) => headers.append("access-control-allow-headers", names),
            // Browsers do not take `*` to include Authorization; the names that were asked for do.
            (List::All, Some(asked)) => headers.append("access-control-allow-headers", asked),
            (List::All, None) if !self.credentials => headers.append("access-control-allow-headers", "*"),
            (List::All, None) => {}
        }
        headers.append("access-control-max-age", &self.max_age);
    }

    fn expose(&self, headers: &mut Headers) {
        let names = match &self.expose {
            List::None => return,
            List::Of(names) => names.clone(),
            List::All if !self.credentials => Bytes::from_static(b"*"),
            // With credentials, `*` would be a header of that name: all names are spelled out instead.
            List::All => {
                let mut names: Vec<Vec<u8>> = headers.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
                names.retain(|name| !name.starts_with(b"access-control-") && name != b"set-cookie");
                names.sort_unstable();
                names.dedup();
                names.join(&b", "[..]).into()
            }
        };
        if !names.is_empty() {
            headers.append("access-control-expose-headers", names);
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// An `Origin` other than `null` (RFC 6454 section 6.2).
struct Origin<'a> {
    scheme: &'a str,
    host: String,
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    fn parse(origin: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = std::str::from_utf8(origin).ok()?.split_once("://")?;
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (rest, None),
        };
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
        (!host.is_empty() && host.bytes().all(valid)).then(|| Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use portway_plan::HostPattern;

    use super::super::tests::request;
    use super::*;

    fn origin(text: &str) -> CorsOrigin {
        if text == "*" {
            return CorsOrigin::Any;
        }
        let (scheme, rest) = text.split_once("://").expect("a scheme");
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().expect("a port"))),
            None => (rest, None),
        };
        CorsOrigin::Of { scheme: scheme.into(), host: HostPattern::parse(host).expect("a host"), port }
    }

    fn plan(origins: &[&str], methods: &[&str], headers: &[&str], credentials: bool) -> portway_plan::Cors {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
        portway_plan::Cors {
            allow_origins: origins.iter().map(|text| origin(text)).collect(),
            allow_credentials: credentials,
            allow_methods: texts(methods),
            allow_headers: texts(headers),
            expose_headers: Vec::new(),
            max_age: None,
        }
    }

    /// The route `cors-1` of HTTPRouteCORS.
    fn first() -> Cors {
        Cors::compile(&portway_plan::Cors {
            expose_headers: vec!["x-header-3".into(), "x-header-4".into()],
            max_age: Some(Duration::from_secs(3600)),
            ..plan(
                &["https://www.foo.com", "https://*.bar.com"],
                &["GET", "OPTIONS"],
                &["x-header-1", "x-header-2"],
                true,
            )
        })
    }

    fn preflight(cors: &Cors, origin: &str, method: &str, headers: Option<&str>) -> Headers {
        let mut head = request("OPTIONS", "http://a/");
        head.headers.append("Origin", origin);
        head.headers.append("Access-Control-Request-Method", method);
        if let Some(names) = headers {
            head.headers.append("Access-Control-Request-Headers", names);
        }
        let response = cors.on_request(&head, &mut Effects::default()).expect("a preflight must not pass");
        assert_eq!(response.head.status, StatusCode::NO_CONTENT);
        response.head.headers
    }

    fn response(cors: &Cors, origin: Option<&str>, backend: Headers) -> Headers {
        let mut head = request("GET", "http://a/");
        if let Some(origin) = origin {
            head.headers.append("origin", origin);
        }
        let mut effects = Effects::default();
        assert!(cors.on_request(&head, &mut effects).is_none());
        let mut head = ResponseHead { status: StatusCode::OK, headers: backend };
        cors.on_response(&mut head, effects.origin.as_deref());
        head.headers
    }

    #[test]
    fn preflight_of_an_allowed_origin() {
        for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
            let headers = preflight(&first(), origin, "GET", Some("x-header-1, x-header-2"));
            let wanted = Headers::from([
                ("vary", "Origin"),
                ("access-control-allow-origin", origin),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "GET, OPTIONS"),
                ("access-control-allow-headers", "x-header-1, x-header-2"),
                ("access-control-max-age", "3600"),
                ("access-control-expose-headers", "x-header-3, x-header-4"),
            ]);
            assert_eq!(headers, wanted, "{origin}");
        }
    }

    #[test]
    fn other_origins_get_nothing() {
        for origin in [
            "https://foobar.com",
            "http://www.foo.com",
            "https://www.foo.com:8443",
            "https://bar.com",
            "null",
            "https://evilbar.com",
            "https://www.foo.com.evil.com",
            "https://www.foo.com@x",
            "",
        ] {
            assert_eq!(preflight(&first(), origin, "GET", None), Headers::from([("vary", "Origin")]));
            let headers = response(&first(), Some(origin), Headers::default());
            assert_eq!(headers, Headers::from([("vary", "Origin")]), "{origin}");
        }
    }

    #[test]
    fn the_backend_has_no_say() {
        let own = [("Access-Control-Allow-Origin", "*"), ("Vary", "Accept"), ("access-control-max-age", "9")];
        let wanted = [
            ("Vary", "Accept"),
            ("vary", "Origin"),
            ("access-control-allow-origin", "https://www.foo.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
        ];
        let got = response(&first(), Some("https://www.foo.com"), own.into());
        assert_eq!(got, wanted.into());
        let got = response(&first(), None, own.into());
        assert_eq!(got, Headers::from([("Vary", "Accept"), ("vary", "Origin")]));
    }

    #[test]
    fn wildcards_without_credentials() {
        let cors = Cors::compile(&plan(&["*"], &["*"], &["*"], false));
        let headers = preflight(&cors, "https://foobar.com:12345", "PUT", Some("authorization"));
        let wanted = Headers::from([
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "*"),
            ("access-control-allow-headers", "authorization"),
            ("access-control-max-age", "5"),
        ]);
        assert_eq!(headers, wanted);
    }

    #[test]
    fn wildcards_with_credentials_are_never_literal() {
        let mut plan = plan(&["*"], &["*"], &["*"], true);
        plan.expose_headers = vec!["*".into()];
        let cors = Cors::compile(&plan);
        let headers = preflight(&cors, "https://other.foo.com", "PUT", Some("x-header-1, x-header-2"));
        assert!(headers.iter().all(|(_, value)| value != b"*"), "{headers:?}");
        assert_eq!(headers.get("access-control-allow-origin"), Some(&b"https://other.foo.com"[..]));
        assert_eq!(headers.get("access-control-allow-methods"), Some(&b"PUT"[..]));
        assert_eq!(headers.get("access-control-allow-headers"), Some(&b"x-header-1, x-header-2"[..]));
        let none = preflight(&cors, "https://other.foo.com", "PUT", None);
        assert!(!none.contains("access-control-allow-headers"));
        let backend = Headers::from([("X-B", "1"), ("x-a", "1"), ("Set-Cookie", "s")]);
        let headers = response(&cors, Some("https://other.foo.com"), backend);
        assert_eq!(headers.get("access-control-expose-headers"), Some(&b"vary, x-a, x-b"[..]));
    }

    #[test]
    fn origins_with_ports() {
        let cors = Cors::compile(&plan(
            &["https://a.com:8443", "http://*:81", "https://b.com:443"],
            &[],
            &[],
            false,
        ));
        for (origin, allowed) in [
            ("https://a.com:8443", true),
            ("https://a.com", false),
            ("http://anything.org:81", true),
            ("http://anything.org", false),
            ("https://b.com", true),
            ("HTTPS://B.com:443", true),
            ("https://b.com:99999", false),
        ] {
            let headers = response(&cors, Some(origin), Headers::default());
            assert_eq!(headers.contains("access-control-allow-origin"), allowed, "{origin}");
        }
    }

    #[test]
    fn options_without_a_requested_method_is_no_preflight() {
        let mut head = request("OPTIONS", "http://a/");
        head.headers.append("origin", "https://www.foo.com");
        assert!(first().on_request(&head, &mut Effects::default()).is_none());
    }
}
