//! Filters of rules and shares, compiled from the plan: one filter, one file.
//!
//! ```text
//! request ─► rule's filters ─► choice of the share ─► share's filters ─► backend
//! response ◄─ rule's filters ◄──────────────────────── share's filters ◄─┘
//! ```
//!
//! Requests pass the rule's filters first, in the route's order, then those of the share; responses come
//! back the other way round, so that the rule has the last word.
//!
//! Filters run at once, save for those that must ask someone first: there the chain stops, and whoever runs
//! it goes on behind the filter when the answer is there.

mod cors;
mod external_auth;
mod forwarded;
mod header_modifier;
mod mirror;
mod path_modifier;
mod redirect;
mod rewrite;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use portway_plan as plan;
use smallvec::SmallVec;

use super::{Headers, RequestHead, Response, ResponseHead};
use crate::fault::FaultKind;
use crate::upstream::{Backend, BackendMap};

pub use cors::requested_method;
pub use external_auth::ExternalAuth;
pub(crate) use external_auth::{Question, Refusal};
pub use forwarded::ForwardingHeaders;

/// The filters of one rule or share, in order.
#[derive(Debug, Default)]
pub struct Filters(Option<Box<[Filter]>>);

#[derive(Debug)]
enum Filter {
    RequestHeaders(header_modifier::HeaderModifier),
    ResponseHeaders(header_modifier::HeaderModifier),
    Redirect(Box<redirect::Redirect>),
    Rewrite(Box<rewrite::Rewrite>),
    Mirror(Box<mirror::Mirror>),
    Cors(Box<cors::Cors>),
    ExternalAuth(Box<ExternalAuth>),
    Broken,
}

/// Why a request does not go on to the next filter.
pub enum Stop<'a> {
    /// A redirect or a preflight's answer, to which these filters' own [`Filters::on_response`] has been
    /// applied.
    Answer(Response),
    /// A filter that cannot be honoured.
    Fault(FaultKind),
    /// Someone is to be asked; with a yes, the request goes on with the filter of that index.
    Ask(&'a ExternalAuth, usize),
}

/// A header that is added to a message because an authorization service says so.
#[derive(Debug)]
pub(crate) enum Addition {
    /// In place of what is there.
    Set(Bytes, Bytes),
    /// As a further line.
    Append(Bytes, Bytes),
    /// Where the name is not there.
    IfAbsent(Bytes, Bytes),
    /// In place of what is there, if something is.
    IfPresent(Bytes, Bytes),
}

impl Addition {
    pub(crate) fn apply(&self, headers: &mut Headers) {
        let has = |name: &Bytes| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        match self {
            Self::IfAbsent(name, _) if has(name) => {}
            Self::IfPresent(name, _) if !has(name) => {}
            Self::Set(name, value) | Self::IfPresent(name, value) => headers.set(name, value),
            Self::Append(name, value) | Self::IfAbsent(name, value) => {
                headers.append(name, value);
            }
        }
    }
}

/// What filters must know of the match.
#[derive(Clone, Copy, Debug)]
pub struct MatchContext {
    /// The length of the path prefix that matched, without its trailing slash; `None` where the path was
    /// not matched by prefix.
    pub prefix_len: Option<usize>,
    /// The listener's port, as the plan has it.
    pub port: u16,
}

/// What the filters of a request leave to be done.
#[derive(Debug, Default)]
pub struct Effects {
    /// Where to send copies of the request.
    pub mirrors: SmallVec<[Arc<Backend>; 1]>,
    /// The request's `Origin`, if a CORS filter was met.
    origin: Option<Bytes>,
    /// The certificate that the listener shows to backends.
    pub(crate) identity: Option<plan::CertificateKey>,
    /// Headers for the response, from authorization services.
    pub(crate) additions: Vec<Addition>,
    /// Someone was asked, which took time.
    pub(crate) asked: bool,
}

impl Filters {
    /// Compiles filters. `resolved` is set to `false` where a backend that they name is not there.
    pub fn compile(filters: &[plan::Filter], backends: &BackendMap, resolved: &mut bool) -> Self {
        let compiled: Box<[Filter]> = filters
            .iter()
            .filter_map(|filter| {
                Some(match filter {
                    plan::Filter::RequestHeaders(edit) => header_modifier::HeaderModifier::compile(edit)
                        .map_or(Filter::Broken, Filter::RequestHeaders),
                    plan::Filter::ResponseHeaders(edit) => header_modifier::HeaderModifier::compile(edit)
                        .map_or(Filter::Broken, Filter::ResponseHeaders),
                    plan::Filter::Redirect(redirect) => redirect::Redirect::compile(redirect)
                        .map_or(Filter::Broken, |redirect| Filter::Redirect(redirect.into())),
                    plan::Filter::Rewrite(rewrite) => rewrite::Rewrite::compile(rewrite)
                        .map_or(Filter::Broken, |rewrite| Filter::Rewrite(rewrite.into())),
                    plan::Filter::Mirror(mirror) => {
                        let plan::Target::Backend(key) = &mirror.target else { return None };
                        let Some(backend) = backends.get(key) else {
                            *resolved = false;
                            return None;
                        };
                        Filter::Mirror(mirror::Mirror::compile(mirror, backend.clone()).into())
                    }
                    plan::Filter::Cors(cors) => Filter::Cors(cors::Cors::compile(cors).into()),
                    plan::Filter::ExternalAuth(auth) => match &auth.target {
                        plan::Target::Invalid(_) => Filter::Broken,
                        plan::Target::Backend(key) => {
                            let backend = backends.get(key);
                            *resolved &= backend.is_some();
                            Filter::ExternalAuth(ExternalAuth::compile(auth, backend.cloned()).into())
                        }
                    },
                    plan::Filter::Broken { .. } => Filter::Broken,
                })
            })
            .collect();
        Self((!compiled.is_empty()).then_some(compiled))
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them answers CORS preflights.
    pub(crate) fn has_cors(&self) -> bool {
        self.list().iter().any(|filter| matches!(filter, Filter::Cors(_)))
    }

    fn list(&self) -> &[Filter] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Applies them to a request in order, from the filter of index `from` on.
    pub fn on_request(
        &self,
        from: usize,
        head: &mut RequestHead,
        context: &MatchContext,
        effects: &mut Effects,
    ) -> ControlFlow<Stop<'_>> {
        for (at, filter) in self.list().iter().enumerate().skip(from) {
            match filter {
                Filter::RequestHeaders(modifier) => modifier.on_request(head),
                Filter::ResponseHeaders(_) => {}
                Filter::Redirect(redirect) => {
                    let answer = redirect.answer(head, context).map(|mut response| {
                        self.on_response(&mut response.head, effects);
                        response
                    });
                    return ControlFlow::Break(
                        answer.map_or(Stop::Fault(FaultKind::InvalidRoute), Stop::Answer),
                    );
                }
                Filter::Rewrite(rewrite) => {
                    if !rewrite.on_request(head, context) {
                        return ControlFlow::Break(Stop::Fault(FaultKind::InvalidRoute));
                    }
                }
                Filter::Mirror(mirror) => mirror.on_request(effects),
                Filter::Cors(cors) => {
                    if let Some(answer) = cors.on_request(head, effects) {
                        return ControlFlow::Break(Stop::Answer(answer));
                    }
                }
                Filter::ExternalAuth(auth) => return ControlFlow::Break(Stop::Ask(auth, at + 1)),
                Filter::Broken => return ControlFlow::Break(Stop::Fault(FaultKind::InvalidRoute)),
            }
        }
        ControlFlow::Continue(())
    }

    /// Applies them to a response: the backend's, or one of the gateway's own that is sent in its place.
    pub fn on_response(&self, head: &mut ResponseHead, effects: &Effects) {
        for filter in self.list().iter().rev() {
            match filter {
                Filter::ResponseHeaders(modifier) => modifier.on_response(head),
                Filter::Cors(cors) => cors.on_response(head, effects.origin.as_deref()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{Method, StatusCode};
    use portway_plan::{
        Backend as PlanBackend, BackendKey, BackendProtocol, Filter as F, HeaderEdit, HeaderPair, NoBackend,
        ObjectRef, Plan, RedirectPort, Target as PlanTarget,
    };

    use super::*;
    use crate::http::{Authority, Headers, Scheme, Version, path};
    use crate::upstream::Backends;

    /// A request for a URL.
    pub(crate) fn request(method: &str, url: &str) -> RequestHead {
        let (scheme, rest) = url.split_once("://").expect("a scheme");
        let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        RequestHead {
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            scheme: if scheme == "https" { Scheme::Https } else { Scheme::Http },
            authority: Authority::parse(authority.to_owned().into()).expect("an authority"),
            target: path::normalise(&target.to_owned().into()).expect("a target"),
            version: Version::Http11,
            headers: Headers::default(),
        }
    }

    fn key(name: &str) -> BackendKey {
        let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: name.into() };
        BackendKey::tcp(object, 80)
    }

    /// The state of backends of these names.
    pub(crate) fn backends(names: &[&str]) -> BackendMap {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut plan = Plan::default();
        for name in names {
            let backend = PlanBackend::new(key(name), BackendProtocol::Unspecified);
            plan.backends.insert(key(name), Arc::new(backend));
        }
        Backends::new(runtime.handle().clone(), Arc::new(crate::observe::Metrics::new(1))).sync(&plan)
    }

    fn headers(name: &str, value: &str) -> HeaderEdit {
        HeaderEdit { set: vec![HeaderPair { name: name.into(), value: value.into() }], ..Default::default() }
    }

    const CONTEXT: MatchContext = MatchContext { prefix_len: None, port: 80 };

    fn redirect() -> F {
        F::Redirect(portway_plan::Redirect {
            scheme: Some("https".into()),
            hostname: None,
            path: None,
            port: RedirectPort::OfScheme,
            status: 301,
        })
    }

    #[test]
    fn in_order_and_back() {
        let list = [
            F::RequestHeaders(headers("a", "1")),
            F::ResponseHeaders(headers("b", "2")),
            F::ResponseHeaders(headers("b", "3")),
        ];
        let filters = Filters::compile(&list, &BackendMap::default(), &mut true);
        let mut head = request("GET", "http://h/");
        let mut effects = Effects::default();
        assert!(filters.on_request(0, &mut head, &CONTEXT, &mut effects).is_continue());
        assert_eq!(head.headers, Headers::from([("a", "1")]));
        let mut head = ResponseHead { status: StatusCode::OK, headers: Headers::default() };
        filters.on_response(&mut head, &effects);
        assert_eq!(head.headers, Headers::from([("b", "2")]));
    }

    #[test]
    fn a_redirect_can_be_read_across_origins_and_carries_response_headers() {
        let cors =
            portway_plan::Cors { allow_origins: vec![portway_plan::CorsOrigin::Any], ..Default::default() };
        let list = [F::Cors(cors), redirect(), F::ResponseHeaders(headers("x", "1"))];
        let filters = Filters::compile(&list, &BackendMap::default(), &mut true);
        let mut head = request("GET", "http://h/a");
        head.headers.append("origin", "https://o");
        let ControlFlow::Break(Stop::Answer(response)) =
            filters.on_request(0, &mut head, &CONTEXT, &mut Effects::default())
        else {
            panic!("a redirect")
        };
        let wanted =
            Headers::from([("location", "https://h/a"), ("x", "1"), ("access-control-allow-origin", "*")]);
        assert_eq!(response.head.headers, wanted);
    }

    #[test]
    fn what_cannot_be_honoured_is_a_500() {
        let broken = F::Broken { message: "no such filter".into() };
        for list in [[broken, redirect()], [F::RequestHeaders(headers("host", "a b")), redirect()]] {
            let filters = Filters::compile(&list, &BackendMap::default(), &mut true);
            let mut head = request("GET", "http://h/a");
            let answer = filters.on_request(0, &mut head, &CONTEXT, &mut Effects::default());
            assert!(matches!(answer, ControlFlow::Break(Stop::Fault(FaultKind::InvalidRoute))));
        }
    }

    fn mirror(target: PlanTarget, numerator: u32, denominator: u32) -> F {
        F::Mirror(portway_plan::Mirror { target, numerator, denominator })
    }

    #[test]
    fn mirrors_take_exactly_their_part() {
        let invalid = NoBackend { reason: "BackendNotFound".into(), message: "".into() };
        let invalid = PlanTarget::Invalid(Box::new(invalid));
        let list = [
            mirror(PlanTarget::Backend(key("all")), 1, 1),
            mirror(PlanTarget::Backend(key("some")), 20, 100),
            mirror(PlanTarget::Backend(key("none")), 0, 100),
            mirror(invalid, 1, 1),
        ];
        let filters = Filters::compile(&list, &backends(&["all", "some", "none"]), &mut true);
        let mut head = request("GET", "http://h/");
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..100 {
            let mut effects = Effects::default();
            assert!(filters.on_request(0, &mut head, &CONTEXT, &mut effects).is_continue());
            for backend in effects.mirrors {
                *counts.entry(backend.key().object.name.to_string()).or_insert(0) += 1;
            }
        }
        assert_eq!(counts, [("all".to_owned(), 100), ("some".to_owned(), 20)].into());
    }

    #[test]
    fn none_are_nothing() {
        let mut resolved = true;
        let filters = Filters::compile(&[], &BackendMap::default(), &mut resolved);
        assert!(filters.is_empty() && resolved);
        assert!(std::mem::size_of::<Filters>() <= 24);
    }
}
