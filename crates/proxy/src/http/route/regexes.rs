//! Regular expressions of one host's paths, and of header and query values.

use std::collections::HashMap;
use std::sync::Arc;

use regex_automata::meta;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID, PatternSet};

/// A compiled expression, shared by all that were written alike.
pub(super) type Regex = Arc<meta::Regex>;

/// Compiles expressions, equal ones once.
#[derive(Default)]
pub(super) struct RegexCompiler {
    for_values: HashMap<Arc<str>, Option<Regex>>,
    for_paths: HashMap<Arc<str>, Option<Regex>>,
}

/// From how many expressions on one search over all of them goes ahead of the single ones.
const MANY: usize = 8;

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
        compile(&mut self.for_values, regex, |build| build(syntax()))
    }

    /// For paths. Normalised paths are ASCII, where classes without Unicode mean the same and take a tenth
    /// of the room; expressions that cannot do without it (`\p{L}`) are compiled with it.
    fn for_paths(&mut self, regex: &portway_plan::Regex) -> Option<Regex> {
        compile(&mut self.for_paths, regex, |build| {
            build(syntax().unicode(false)).or_else(|| build(syntax()))
        })
    }
}

fn compile(
    seen: &mut HashMap<Arc<str>, Option<Regex>>,
    regex: &portway_plan::Regex,
    how: impl FnOnce(&dyn Fn(syntax::Config) -> Option<meta::Regex>) -> Option<meta::Regex>,
) -> Option<Regex> {
    if let Some(found) = seen.get(&regex.0) {
        return found.clone();
    }
    let build = |syntax| {
        let config = config(portway_plan::Regex::SIZE_LIMIT);
        meta::Builder::new().configure(config).syntax(syntax).build(&regex.anchored()).ok()
    };
    let compiled = how(&build).map(Arc::new);
    seen.insert(regex.0.clone(), compiled.clone());
    compiled
}

/// Whether the whole value matches.
pub(super) fn matches(regex: &meta::Regex, value: &[u8]) -> bool {
    regex.is_match(Input::new(value).anchored(Anchored::Yes))
}

/// The regular expressions of one host's paths, each with the indices of its entries.
#[derive(Debug, Default)]
pub(super) struct PathRegexes {
    list: Box<[(Regex, Box<[u32]>)]>,
    /// All of `list` in one, where there are many.
    set: Option<Box<meta::Regex>>,
}

impl PathRegexes {
    /// Of entries and their expressions, in the order of entries.
    pub(super) fn new(entries: Vec<(u32, &portway_plan::Regex)>, compiler: &mut RegexCompiler) -> Self {
        if entries.is_empty() {
            return Self::default();
        }
        let mut places: HashMap<&portway_plan::Regex, usize> = HashMap::new();
        let mut groups: Vec<(&portway_plan::Regex, Regex, Vec<u32>)> = Vec::new();
        for (index, text) in entries {
            if let Some(place) = places.get(text) {
                groups[*place].2.push(index);
            } else if let Some(regex) = compiler.for_paths(text) {
                places.insert(text, groups.len());
                groups.push((text, regex, vec![index]));
            }
        }
        let set = (groups.len() >= MANY)
            .then(|| {
                let texts: Vec<String> = groups.iter().map(|(text, ..)| text.anchored()).collect();
                let config = config(SET_SIZE_LIMIT).match_kind(regex_automata::MatchKind::All);
                let build = |syntax| {
                    meta::Builder::new().configure(config.clone()).syntax(syntax).build_many(&texts).ok()
                };
                build(syntax().unicode(false)).or_else(|| build(syntax())).map(Box::new)
            })
            .flatten();
        Self { list: groups.into_iter().map(|(_, regex, indices)| (regex, indices.into())).collect(), set }
    }

    /// Calls back with the entries of each expression that matches the path. Expressions whose entries all
    /// come at `below` or later are not tried; the callback returns the new `below`.
    pub(super) fn each_match(&self, path: &str, mut below: u32, mut found: impl FnMut(&[u32]) -> u32) {
        if self.list.is_empty() {
            return;
        }
        let set = self.set.as_ref().map(|set| {
            let mut matched = PatternSet::new(set.pattern_len());
            set.which_overlapping_matches(&Input::new(path).anchored(Anchored::Yes), &mut matched);
            matched
        });
        for (place, (regex, indices)) in self.list.iter().enumerate() {
            let early = indices.first().is_some_and(|first| *first < below);
            let is_match = || match &set {
                Some(set) => PatternID::new(place).is_ok_and(|id| set.contains(id)),
                None => matches(regex, path.as_bytes()),
            };
            if early && is_match() {
                below = found(indices);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(regexes: &[&str], path: &str) -> Vec<u32> {
        let plan: Vec<_> = regexes.iter().map(|text| portway_plan::Regex((*text).into())).collect();
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
}
