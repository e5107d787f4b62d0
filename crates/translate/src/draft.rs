//! A route by itself: its rules, before it is known which listeners they serve on.

use std::collections::BTreeSet;
use std::sync::Arc;

use portway_api::gateway::SessionPersistence;
use portway_api::object::{Metadata, ObjectKey};
use portway_plan::{
    BackendKey, Entry, Filter, ForwardRule, HeaderMatch, HostPattern, ObjectRef, PathMatch, QueryMatch, Rule,
    Session, Source, Target,
};

use crate::backend::{Dependency, Resolver};
use crate::condition::Finding;
use crate::precedence::Specificity;
use crate::session;

/// What became of a route's rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// The rules to serve, with their matches.
    pub(crate) rules: Vec<DraftRule>,
    /// What a TLSRoute, TCPRoute or UDPRoute does.
    pub(crate) forward: Option<Arc<ForwardRule>>,
    /// References that cannot be followed; the route's `ResolvedRefs`.
    pub(crate) faults: Vec<Finding>,
    /// Rules that cannot be honoured, in order.
    pub(crate) invalid: Vec<InvalidRule>,
    /// How many rules the route has.
    pub(crate) total: usize,
    /// Field paths that are read past.
    pub(crate) ignored: Vec<String>,
    pub(crate) dependencies: BTreeSet<Dependency>,
    /// The backends of all rules to serve.
    pub(crate) backends: BTreeSet<BackendKey>,
}

impl Draft {
    /// The first invalid rule, when there is no valid one beside.
    pub(crate) fn refusal(&self) -> Option<&InvalidRule> {
        self.invalid.first().filter(|_| self.invalid.len() == self.total)
    }
}

/// A rule and its matches.
#[derive(Clone, Debug)]
pub(crate) struct DraftRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) index: u16,
    pub(crate) matches: Vec<DraftMatch>,
}

/// One match of a rule.
#[derive(Clone, Debug)]
pub(crate) struct DraftMatch {
    pub(crate) index: u16,
    pub(crate) specificity: Specificity,
    pub(crate) path: PathMatch,
    pub(crate) method: Option<Arc<str>>,
    pub(crate) headers: Vec<HeaderMatch>,
    pub(crate) query: Vec<QueryMatch>,
}

impl DraftMatch {
    pub(crate) fn entry(&self, rule: &Arc<Rule>, route_hostname: &HostPattern) -> Entry {
        Entry {
            path: self.path.clone(),
            method: self.method.clone(),
            headers: self.headers.clone(),
            query: self.query.clone(),
            match_index: self.index,
            route_hostname: route_hostname.clone(),
            rule: Arc::clone(rule),
        }
    }
}

/// Why a rule cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidRule {
    /// The field path of what is wrong.
    pub(crate) path: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The rule is served all the same and answers 500, because it has a filter that may not be skipped.
    pub(crate) answers: bool,
}

impl InvalidRule {
    pub(crate) fn unsupported(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason: "UnsupportedValue", message: message.into(), answers: false }
    }
}

/// What the translation of one rule works with.
pub(crate) struct RuleContext<'r, 'a> {
    pub(crate) resolver: &'r mut Resolver<'a>,
    /// Set by a filter that is not supported: why the rule, though served, counts as invalid.
    pub(crate) invalid: Option<InvalidRule>,
    /// Whether every match of the rule is a path prefix, which prefix rewrites need.
    pub(crate) prefixes_only: bool,
}

impl RuleContext<'_, '_> {
    /// A filter that answers 500 and makes the rule invalid (the first reason stays).
    pub(crate) fn unsupported_filter(&mut self, path: &str, message: String) -> Filter {
        let broken = Filter::Broken { message: format!("{path}: {message}").into() };
        self.invalid.get_or_insert(InvalidRule { answers: true, ..InvalidRule::unsupported(path, message) });
        broken
    }
}

/// The most regular expressions of one route. Each is compiled when the route is translated, and within the
/// API's other limits there could be thousands, which would hold up everyone else's changes for seconds.
pub(crate) const EXPRESSIONS_LIMIT: usize = 256;

/// Gathers rules into a draft.
pub(crate) struct Drafting<'a> {
    pub(crate) object: Arc<ObjectRef>,
    pub(crate) resolver: Resolver<'a>,
    draft: Draft,
    /// Regular expressions of the rules so far.
    expressions: usize,
}

impl<'a> Drafting<'a> {
    pub(crate) fn new(resolver: Resolver<'a>, route: &ObjectKey) -> Self {
        Self { object: Arc::new(object_ref(route)), resolver, draft: Draft::default(), expressions: 0 }
    }

    pub(crate) fn source(&self, path: String, section: Option<&str>) -> Source {
        Source { object: Arc::clone(&self.object), path: path.into(), section: section.map(Arc::from) }
    }

    /// Notes a field that is read past.
    pub(crate) fn ignore(&mut self, path: String) {
        self.draft.ignored.push(path);
    }

    /// Counts the regular expressions of a rule; those of a rule that is too much do not count.
    pub(crate) fn admit_expressions(&mut self, count: usize, path: &str) -> Result<(), InvalidRule> {
        if self.expressions + count > EXPRESSIONS_LIMIT {
            let message = format!("the route has more than {EXPRESSIONS_LIMIT} regular expressions");
            return Err(InvalidRule::unsupported(format!("{path}.matches"), message));
        }
        self.expressions += count;
        Ok(())
    }

    /// Adds one rule of the route: what to serve, and what makes it invalid, if anything.
    pub(crate) fn add(
        &mut self,
        index: usize,
        rule: Result<(Rule, Vec<DraftMatch>), InvalidRule>,
        invalid: Option<InvalidRule>,
    ) {
        self.draft.total += 1;
        match rule {
            Ok((rule, matches)) => {
                self.draft.invalid.extend(invalid);
                let index = u16::try_from(index).unwrap_or(u16::MAX);
                self.draft.rules.push(DraftRule { rule: Arc::new(rule), index, matches });
            }
            Err(invalid) => self.draft.invalid.push(invalid),
        }
    }

    /// Sets what a route without matches does with all that comes.
    pub(crate) fn forward(&mut self, rule: Arc<ForwardRule>) {
        self.draft.forward = Some(rule);
    }

    pub(crate) fn finish(self) -> Draft {
        let Resolver { faults, dependencies, .. } = self.resolver;
        let forwards = self.draft.forward.iter().flat_map(|rule| &rule.backends).map(|share| &share.target);
        let backends = self.draft.rules.iter().flat_map(|rule| targets(&rule.rule));
        let backends = backends.chain(forwards.filter_map(backend_of)).cloned().collect();
        Draft { faults, dependencies, backends, ..self.draft }
    }
}

/// The sessions of a rule.
pub(crate) fn session(
    spec: &SessionPersistence,
    path: &str,
    key: &ObjectKey,
    metadata: &Metadata,
    source: &Source,
) -> Result<Arc<Session>, InvalidRule> {
    // A rule's name stays its own when rules come and go before it.
    let part = source.section.as_ref().unwrap_or(&source.path);
    session::translate(spec, &format!("{path}.sessionPersistence"), key, metadata, part)
        .map_err(|fault| InvalidRule::unsupported(fault.path, fault.message))
}

/// The backends that a rule and its filters send to.
fn targets(rule: &Rule) -> impl Iterator<Item = &BackendKey> {
    let filters = rule.filters.iter().chain(rule.backends.iter().flat_map(|share| &share.filters));
    let shares = rule.backends.iter().map(|share| &share.target);
    shares.chain(filters.filter_map(filter_target)).filter_map(backend_of)
}

/// Where a filter sends something.
pub(crate) fn filter_target(filter: &Filter) -> Option<&Target> {
    match filter {
        Filter::Mirror(mirror) => Some(&mirror.target),
        Filter::ExternalAuth(auth) => Some(&auth.target),
        _ => None,
    }
}

/// The backend of a target that has one.
pub(crate) fn backend_of(target: &Target) -> Option<&BackendKey> {
    match target {
        Target::Backend(key) => Some(key),
        Target::Invalid(_) => None,
    }
}

/// The plan's name for an object.
pub(crate) fn object_ref(key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: key.kind.as_str().into(),
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
    }
}
