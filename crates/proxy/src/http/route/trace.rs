//! How a request found its rule, for people.

use portway_plan::{Entry, PathMatch, RuleKind};

use super::conditions::Failure;
use super::host::HostTable;
use super::{ListenerTable, Matched, PortTable};
use crate::fault::FaultKind;
use crate::http::{RequestHead, TlsInfo};

/// Watches the matcher. The hot path's watcher is `()`, which costs nothing.
pub(super) trait Observer<'a> {
    /// Whether the matcher goes on when it has found the winner, to show what else would match. It never
    /// changes the winner.
    const EXHAUSTIVE: bool;

    /// The entries of a host are tried.
    fn host(&mut self, host: &'a HostTable);

    /// An entry, whose path matches, was tried.
    fn entry(&mut self, host: &'a HostTable, index: usize, result: Result<(), Failure>);
}

impl<'a> Observer<'a> for () {
    const EXHAUSTIVE: bool = false;

    #[inline(always)]
    fn host(&mut self, _: &'a HostTable) {}

    #[inline(always)]
    fn entry(&mut self, _: &'a HostTable, _: usize, _: Result<(), Failure>) {}
}

/// How a request found its rule, or why it found none.
#[derive(Debug)]
pub struct Trace<'a> {
    /// The listeners of the request's protocol whose hostname matches the request's host. The first in
    /// precedence is the one that gets it; no other's routes are tried.
    pub listeners: Vec<&'a ListenerTable>,
    /// With TLS: the listener whose certificate was shown.
    pub shown: Option<&'a ListenerTable>,
    /// The hosts that were tried, from the most specific to the least. With a winner, the less specific
    /// ones were tried for the story only.
    pub hosts: Vec<&'a HostTable>,
    /// The entries that were tried: first those whose path matches, then the others; each part in the order
    /// of precedence. At most [`Trace::MOST_ENTRIES`].
    pub entries: Vec<EntryTrace<'a>>,
    /// How many entries were left out.
    pub omitted: usize,
    /// What [`PortTable::route`] says.
    pub outcome: Result<Matched<'a>, FaultKind>,
}

/// One entry that was tried.
#[derive(Clone, Copy, Debug)]
pub struct EntryTrace<'a> {
    /// The host it is on.
    pub host: &'a HostTable,
    /// The entry.
    pub entry: &'a Entry,
    /// Whether it matches, and if not, the first thing that is in the way.
    pub result: Result<(), Failure>,
    /// For entries that match and did not win: by what the winner goes first.
    pub lost_by: Option<Criterion>,
}

/// The rules of precedence, in their order (HTTPRoute `matches`, GRPCRoute `matches`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// The more specific hostname: of the virtual host, then of the route itself.
    Hostname,
    /// The type of the path match: exact before regular expressions before prefixes.
    PathType,
    /// The longer path; of GRPCRoutes the longer service, then the longer method.
    PathLength,
    /// A method match.
    Method,
    /// More header matches.
    Headers,
    /// More query parameter matches.
    QueryParams,
    /// The older route, or the first by namespace and name.
    Route,
    /// The earlier rule of the same route.
    Rule,
    /// The earlier match of the same rule.
    Match,
}

/// Takes the story down.
#[derive(Default)]
struct Story<'a> {
    hosts: Vec<&'a HostTable>,
    /// Host, index of the entry in it, result.
    entries: Vec<(&'a HostTable, usize, Result<(), Failure>)>,
}

impl<'a> Observer<'a> for Story<'a> {
    const EXHAUSTIVE: bool = true;

    fn host(&mut self, host: &'a HostTable) {
        self.hosts.push(host);
    }

    fn entry(&mut self, host: &'a HostTable, index: usize, result: Result<(), Failure>) {
        self.entries.push((host, index, result));
    }
}

impl<'a> Trace<'a> {
    /// The most entries that a trace holds.
    pub const MOST_ENTRIES: usize = 256;

    pub(super) fn new(port: &'a PortTable, head: &RequestHead, tls: Option<&TlsInfo>) -> Self {
        let mut story = Story::default();
        let outcome = port.search(head, tls, &mut story);
        let winner = outcome.as_ref().ok().map(|matched| (matched.host, matched.entry));
        // The tables find paths in their own order; people read in the order of precedence.
        let rank = |host: &HostTable| story.hosts.iter().position(|h| std::ptr::eq(*h, host));
        story.entries.sort_by_key(|(host, index, _)| (rank(host), *index));
        let all: usize = story.hosts.iter().map(|host| host.plan().entries.len()).sum();
        let tried = story.entries.iter().map(|(host, index, result)| (*host, *index, *result));
        let others = story.hosts.iter().flat_map(|host| {
            let untried =
                |index: &usize| !story.entries.iter().any(|(h, i, _)| std::ptr::eq(*h, *host) && i == index);
            (0..host.plan().entries.len()).filter(untried).map(|index| (*host, index, Err(Failure::Path)))
        });
        let entries: Vec<_> = tried
            .chain(others)
            .take(Self::MOST_ENTRIES)
            .map(|(host, index, result)| {
                let entry = &host.plan().entries[index];
                let lost_by = winner
                    .filter(|(_, won)| result.is_ok() && !std::ptr::eq(*won, entry))
                    .map(|(winner, won)| Criterion::between((winner, won), (host, entry)));
                EntryTrace { host, entry, result, lost_by }
            })
            .collect();
        let name = head.authority.host();
        let listeners = port.index(tls.is_some()).matching(name);
        Self {
            listeners: listeners.filter_map(|at| Some(port.listeners.get(at as usize)?.as_ref())).collect(),
            shown: tls.and_then(|tls| Some(port.shown_listener(tls)?.as_ref())),
            omitted: all - entries.len(),
            hosts: story.hosts,
            entries,
            outcome,
        }
    }
}

impl Criterion {
    /// By what the first goes before the second.
    fn between(winner: (&HostTable, &Entry), loser: (&HostTable, &Entry)) -> Self {
        let ((winner_host, winner), (loser_host, loser)) = (winner, loser);
        let grpc = winner.rule.kind == RuleKind::Grpc;
        let kind = |entry: &Entry| match &entry.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Regex(_) => 1,
            PathMatch::Prefix(_) => 2,
        };
        let length = |entry: &Entry| match &entry.path {
            PathMatch::Exact(text) | PathMatch::Prefix(text) => text.len(),
            PathMatch::Regex(regex) => regex.0.len(),
        };
        if winner_host.plan().hostname != loser_host.plan().hostname
            || winner.route_hostname != loser.route_hostname
        {
            Self::Hostname
        } else if !grpc && kind(winner) != kind(loser) {
            Self::PathType
        } else if (grpc && winner.path != loser.path) || length(winner) != length(loser) {
            Self::PathLength
        } else if winner.method.is_some() != loser.method.is_some() {
            Self::Method
        } else if winner.headers.len() != loser.headers.len() {
            Self::Headers
        } else if winner.query.len() != loser.query.len() {
            Self::QueryParams
        } else if winner.rule.source.object != loser.rule.source.object {
            Self::Route
        } else if winner.rule.source.path != loser.rule.source.path {
            Self::Rule
        } else {
            Self::Match
        }
    }
}
