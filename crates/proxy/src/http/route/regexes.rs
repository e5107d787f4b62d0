//! Regular expressions of one host's paths, and of header and query values.

use std::collections::HashMap;
use std::sync::Arc;

use regex_automata::meta;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID, PatternSet};
use regex_syntax::hir::Hir;

use super::literals::{Affixes, LiteralIndex};

/// A compiled expression, shared by all that were written alike.
pub(super) type Regex = Arc<meta::Regex>;

/// Compiles expressions, equal ones once.
#[derive(Default)]
pub(super) struct RegexCompiler {
    for_values: HashMap<Arc<str>, Option<Regex>>,
    for_paths: HashMap<Arc<str>, Option<Regex>>,
}

/// From how many expressions on it pays to look which of them can match, before they are tried.
const MANY: usize = 8;

/// How many expressions of which nothing is known one search looks for. With more of them, its automaton
/// outgrows the cache that it has.
const IN_ONE_SEARCH: usize = 64;

/// How much one search over many expressions may take.
const SET_SIZE_LIMIT: usize = 8 * portway_plan::Regex::SIZE_LIMIT;

fn config(size_limit: usize) -> meta::Config {
    meta::Config::new()
        .nfa_size_limit(Some(size_limit))
        // Per thread that searches at the same time; the default of 2 MiB is too much for thousands.
        .hybrid_cache_capacity(64 * 1024)
        .which_captures(regex_automata::nfa::thompson::WhichCaptures::None)
        .utf8_empty(false)
}

fn syntax() -> syntax::Config {
    syntax::Config::new().nest_limit(portway_plan::Regex::NEST_LIMIT).utf8(false)
}

impl RegexCompiler {
    /// For values of headers and query parameters. `None` when it does not compile, which translate has
    /// ruled out; then it matches nothing.
    pub(super) fn for_values(&mut self, regex: &portway_plan::Regex) -> Option<Regex> {
        let compile = || build(&parse(regex, true)?);
        self.for_values.entry(regex.0.clone()).or_insert_with(|| compile().map(Arc::new)).clone()
    }

    /// For paths. Normalised paths are ASCII, where classes without Unicode mean the same and take a tenth
    /// of the room; expressions that cannot do without it (`\p{L}`) are compiled with it.
    fn for_paths(&mut self, regex: &portway_plan::Regex) -> Option<Regex> {
        let compile = || path_syntax(regex).and_then(|hir| build(&hir));
        self.for_paths.entry(regex.0.clone()).or_insert_with(|| compile().map(Arc::new)).clone()
    }
}

fn parse(regex: &portway_plan::Regex, unicode: bool) -> Option<Hir> {
    syntax::parse_with(&regex.anchored(), &syntax().unicode(unicode)).ok()
}

fn path_syntax(regex: &portway_plan::Regex) -> Option<Hir> {
    parse(regex, false).or_else(|| parse(regex, true))
}

fn build(hir: &Hir) -> Option<meta::Regex> {
    meta::Builder::new().configure(config(portway_plan::Regex::SIZE_LIMIT)).build_from_hir(hir).ok()
}

/// Whether the whole value matches.
pub(super) fn matches(regex: &meta::Regex, value: &[u8]) -> bool {
    regex.is_match(Input::new(value).anchored(Anchored::Yes))
}

/// The regular expressions of one host's paths, each with the indices of its entries.
///
/// Where there are many, those that can match a path are found by what their matches begin or end with. Those
/// that have nothing of the kind, or share it with many others, are looked for together.
#[derive(Debug, Default)]
pub(super) struct PathRegexes {
    /// In the order of their first entries.
    list: Box<[(Regex, Box<[u32]>)]>,
    prefixes: LiteralIndex<Group>,
    suffixes: LiteralIndex<Group>,
    rest: Group,
}

/// Expressions that are tried together.
#[derive(Debug, Default)]
struct Group {
    /// Their places in the list, ascending.
    members: Box<[u32]>,
    /// One search for each [`IN_ONE_SEARCH`] of them, where they are many; none where that would take too
    /// much.
    searches: Box<[Option<meta::Regex>]>,
}

impl PathRegexes {
    /// Of entries and their expressions, in the order of entries.
    pub(super) fn new(entries: Vec<(u32, &portway_plan::Regex)>, compiler: &mut RegexCompiler) -> Self {
        if entries.is_empty() {
            return Self::default();
        }
        let mut places: HashMap<&portway_plan::Regex, usize> = HashMap::new();
        let mut list: Vec<(Regex, Vec<u32>)> = Vec::new();
        let mut texts = Vec::new();
        for (index, text) in entries {
            if let Some(place) = places.get(text) {
                list[*place].1.push(index);
            } else if let Some(regex) = compiler.for_paths(text) {
                places.insert(text, list.len());
                list.push((regex, vec![index]));
                texts.push(text);
            }
        }
        let affixes = if texts.len() < MANY {
            Affixes { rest: (0..).take(texts.len()).collect(), ..Affixes::default() }
        } else {
            Affixes::of(texts.iter().map(|text| path_syntax(text)))
        };
        let group = |members| Group::new(members, &texts);
        Self {
            prefixes: LiteralIndex::new(affixes.prefixes, group),
            suffixes: LiteralIndex::new(affixes.suffixes, group),
            rest: group(affixes.rest),
            list: list.into_iter().map(|(regex, indices)| (regex, indices.into())).collect(),
        }
    }

    /// Calls back with the entries of each expression that matches the path. Expressions whose entries all
    /// come at `below` or later are not tried; the callback returns the new `below`.
    pub(super) fn each_match(&self, path: &str, mut below: u32, mut found: impl FnMut(&[u32]) -> u32) {
        if self.list.is_empty() {
            return;
        }
        let mut attempt = |group: &Group| below = self.attempt(group, path, below, &mut found);
        self.prefixes.each_prefix(path.as_bytes(), &mut attempt);
        self.suffixes.each_suffix(path.as_bytes(), &mut attempt);
        attempt(&self.rest);
    }

    fn attempt(
        &self,
        group: &Group,
        path: &str,
        mut below: u32,
        found: &mut impl FnMut(&[u32]) -> u32,
    ) -> u32 {
        let mut searches = group.searches.iter();
        for members in group.members.chunks(IN_ONE_SEARCH) {
            let is_early = |place: &u32| self.list[*place as usize].1.first().is_some_and(|at| *at < below);
            if !members.first().is_some_and(is_early) {
                break;
            }
            let matched = searches.next().and_then(Option::as_ref).map(|search| {
                let mut matched = PatternSet::new(search.pattern_len());
                search.which_overlapping_matches(&Input::new(path).anchored(Anchored::Yes), &mut matched);
                matched
            });
            for (nth, place) in members.iter().enumerate() {
                let (regex, indices) = &self.list[*place as usize];
                if indices.first().is_none_or(|first| *first >= below) {
                    break;
                }
                let is_match = match &matched {
                    Some(matched) => PatternID::new(nth).is_ok_and(|id| matched.contains(id)),
                    None => matches(regex, path.as_bytes()),
                };
                if is_match {
                    below = found(indices);
                }
            }
        }
        below
    }
}

impl Group {
    fn new(members: Vec<u32>, texts: &[&portway_plan::Regex]) -> Self {
        let search = |members: &[u32]| {
            let all: Option<Vec<Hir>> =
                members.iter().map(|place| path_syntax(texts[*place as usize])).collect();
            let config = config(SET_SIZE_LIMIT).match_kind(regex_automata::MatchKind::All);
            meta::Builder::new().configure(config).build_many_from_hir(&all?).ok()
        };
        let searches = match members.len() {
            0..MANY => Box::default(),
            _ => members.chunks(IN_ONE_SEARCH).map(search).collect(),
        };
        Self { members: members.into(), searches }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(regexes: &[impl AsRef<str>], path: &str) -> Vec<u32> {
        let plan: Vec<_> = regexes.iter().map(|text| portway_plan::Regex(text.as_ref().into())).collect();
        let entries = plan.iter().enumerate().map(|(i, regex)| (i as u32, regex)).collect();
        let regexes = PathRegexes::new(entries, &mut RegexCompiler::default());
        let mut all = Vec::new();
        regexes.each_match(path, u32::MAX, |indices| {
            all.extend_from_slice(indices);
            u32::MAX
        });
        all.sort_unstable();
        all
    }

    #[test]
    fn whole_values_and_equal_expressions() {
        assert_eq!(found(&["/a.*", "/b", "/a.*", "a", "/[", "/abc|/x", r"/\p{L}+"], "/abc"), [0, 2, 5, 6]);
        assert!(found(&["/a"], "/ab").is_empty() && found(&["/a"], "/b/a").is_empty());
    }

    #[test]
    fn many_expressions_find_the_same() {
        let texts: Vec<String> = (0..40).map(|i| format!("/v[0-9]+/r{i}(/.*)?")).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.extend(["/v1/.*", "/v1/r3/x", "(?i)/V1/R3/x"]);
        assert_eq!(found(&texts, "/v1/r3/x"), [3, 40, 41, 42]);
        assert_eq!(found(&texts, "/v22/r39"), [39]);
    }

    #[test]
    fn many_that_nothing_tells_apart_find_the_same() {
        let texts: Vec<String> = (0..200).map(|i| format!("/v[0-9]+/r{i}/.*")).collect();
        assert_eq!(found(&texts, "/v1/r3/x"), [3]);
        assert_eq!(found(&texts, "/v22/r199/"), [199]);
        assert!(found(&texts, "/v22/r200/").is_empty());
    }

    fn an_expression() -> impl Strategy<Value = String> {
        let pieces = vec![
            "/a", "/b", "a", "ab", "/ab/", "[ab]", "[a-z]+", "(a|/b)", "(/.*)?", "a+", ".*", "(?i:Ab)", "/?",
            "(b|)", "(?:a{2})", "/a/b/a", "^", "$", "(/a|/b)*", "a*?",
        ];
        let sequence = prop::collection::vec(prop::sample::select(pieces), 0..5).prop_map(|p| p.concat());
        prop::collection::vec(sequence, 1..3).prop_map(|alternatives| alternatives.join("|"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_same_as_trying_each(
            texts in prop::collection::vec(an_expression(), 1..80),
            paths in prop::collection::vec("(/[ab]{0,3}){1,4}", 1..20),
        ) {
            let each: Vec<_> =
                texts.iter().map(|text| regex::Regex::new(&format!("^(?:{text})$")).unwrap()).collect();
            for path in paths {
                let wanted = (0..).zip(&each).filter(|(_, regex)| regex.is_match(&path)).map(|(i, _)| i);
                prop_assert_eq!(found(&texts, &path), wanted.collect::<Vec<u32>>(), "{}", path);
            }
        }
    }
}
