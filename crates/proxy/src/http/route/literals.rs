//! What all matches of an expression begin or end with.

use std::collections::{BTreeMap, HashMap};

use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use smallvec::SmallVec;

/// How many texts there may be of one expression.
const MOST: usize = 16;
/// How long such a text may be, in bytes; the rest of it is left to the expression.
const LONGEST: usize = 64;
/// Shorter ones tell nothing: every path begins with a slash.
const SHORTEST: usize = 2;

/// Expressions by the texts that their matches begin or end with.
#[derive(Debug, Default)]
pub(super) struct Affixes {
    /// Of each expression that is here, every match begins with just one of its texts.
    pub(super) prefixes: BTreeMap<Box<[u8]>, Vec<u32>>,
    /// The same of ends; the texts are written backwards.
    pub(super) suffixes: BTreeMap<Box<[u8]>, Vec<u32>>,
    /// Those that have neither.
    pub(super) rest: Vec<u32>,
}

impl Affixes {
    /// Of expressions in the order of their numbers; `None` for one that is in no such form.
    pub(super) fn of(expressions: impl Iterator<Item = Option<Hir>>) -> Self {
        let texts: Vec<[Vec<Box<[u8]>>; 2]> = expressions
            .map(|hir| match hir {
                Some(hir) => [ExtractKind::Prefix, ExtractKind::Suffix].map(|kind| texts(&hir, kind)),
                None => Default::default(),
            })
            .collect();
        let mut counts: [HashMap<&[u8], usize>; 2] = Default::default();
        for both in &texts {
            for (texts, counts) in both.iter().zip(&mut counts) {
                texts.iter().for_each(|text| *counts.entry(text).or_default() += 1);
            }
        }
        // How many share the text that most share.
        let company = |side: usize, both: &[Vec<Box<[u8]>>; 2]| {
            both[side].iter().filter_map(|text| counts[side].get(&**text)).max().copied()
        };
        let sides: Vec<Option<usize>> = texts
            .iter()
            .map(|both| {
                let sides = [0, 1].into_iter().filter_map(|side| Some((company(side, both)?, side)));
                sides.min().map(|(_, side)| side)
            })
            .collect();
        let mut all = Self::default();
        for (number, (both, side)) in (0..).zip(texts.into_iter().zip(sides)) {
            let Some(side) = side else {
                all.rest.push(number);
                continue;
            };
            let map = if side == 0 { &mut all.prefixes } else { &mut all.suffixes };
            let [prefixes, suffixes] = both;
            for text in if side == 0 { prefixes } else { suffixes } {
                map.entry(text).or_default().push(number);
            }
        }
        all
    }
}

/// The texts of which one begins, or ends, every match. None if that says nothing. No text begins with
/// another one; those of ends are written backwards.
fn texts(hir: &Hir, kind: ExtractKind) -> Vec<Box<[u8]>> {
    let backwards = matches!(kind, ExtractKind::Suffix);
    let mut extractor = Extractor::new();
    // Classes of more than a letter in both cases are not written out.
    extractor.kind(kind).limit_class(2).limit_repeat(2).limit_literal_len(LONGEST).limit_total(MOST);
    let sequence = extractor.extract(hir);
    let Some(literals) = sequence.literals() else { return Vec::new() };
    let mut texts: Vec<Box<[u8]>> = literals
        .iter()
        .map(|literal| {
            let text = literal.as_bytes().iter().copied();
            if backwards { text.rev().take(LONGEST).collect() } else { text.take(LONGEST).collect() }
        })
        .collect();
    texts.sort_unstable();
    texts.dedup_by(|text, before| text.starts_with(before));
    if texts.len() > MOST || texts.iter().any(|text| text.len() < SHORTEST) {
        return Vec::new();
    }
    texts
}

/// Values by texts, found by what begins with the texts, at a cost that does not grow with their number.
#[derive(Debug)]
pub(super) struct LiteralIndex<T>(Box<[Node<T>]>);

#[derive(Debug)]
struct Node<T> {
    text: Box<[u8]>,
    value: T,
    /// The place of the longest of the other texts that this one begins with; its own, if there is none.
    parent: u32,
}

impl<T> Default for LiteralIndex<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> LiteralIndex<T> {
    pub(super) fn new<V>(values: BTreeMap<Box<[u8]>, V>, mut value: impl FnMut(V) -> T) -> Self {
        let mut nodes: Vec<Node<T>> = Vec::with_capacity(values.len());
        // The places of the texts that the last one begins with, and its own.
        let mut stack: Vec<u32> = Vec::new();
        for (place, (text, of)) in (0..).zip(values) {
            while stack.last().is_some_and(|last| !text.starts_with(&nodes[*last as usize].text)) {
                stack.pop();
            }
            nodes.push(Node { parent: stack.last().copied().unwrap_or(place), text, value: value(of) });
            stack.push(place);
        }
        Self(nodes.into())
    }

    /// Calls back with the value of each text that this one begins with.
    pub(super) fn each_prefix(&self, of: &[u8], found: &mut impl FnMut(&T)) {
        // Of the texts in their order, the last that does not come after this one begins with all that this
        // one begins with.
        let after = self.0.partition_point(|node| *node.text <= *of);
        let mut at = after.checked_sub(1);
        while let Some(place) = at {
            let node = &self.0[place];
            if of.starts_with(&node.text) {
                found(&node.value);
            }
            let parent = node.parent as usize;
            at = (parent != place).then_some(parent);
        }
    }

    /// As `each_prefix`, of texts that are written backwards: calls back for each that this one ends with.
    pub(super) fn each_suffix(&self, of: &[u8], found: &mut impl FnMut(&T)) {
        if !self.0.is_empty() {
            let backwards: SmallVec<[u8; LONGEST]> = of.iter().rev().take(LONGEST).copied().collect();
            self.each_prefix(&backwards, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matches_begin_or_end_with() {
        let texts = |regex: &str, kind| -> Vec<String> {
            let hir = regex_syntax::Parser::new().parse(&format!("^(?:{regex})$")).unwrap();
            let texts = super::texts(&hir, kind);
            texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
        };
        for (regex, begins, ends) in [
            ("/team-5/(a|b)[0-9]+(/.*)?", &["/team-5/a", "/team-5/b"][..], &[][..]),
            ("/a|/ab.*", &["/a"], &[]),
            (r"/[^/]+/x\.json", &[], &["nosj.x/"]),
            ("/.*", &[], &[]),
            (".*", &[], &[]),
            ("", &[], &[]),
        ] {
            assert_eq!(texts(regex, ExtractKind::Prefix), begins, "{regex}");
            assert_eq!(texts(regex, ExtractKind::Suffix), ends, "{regex}");
        }
        let long = texts(&"x".repeat(1000), ExtractKind::Suffix);
        assert_eq!(long, ["x".repeat(LONGEST)]);
        assert!(texts("(?i)/some-longer-words", ExtractKind::Prefix).len() <= MOST);
    }

    proptest! {
        #[test]
        fn the_index_finds_every_text_that_begins_it(
            texts in prop::collection::btree_set("[ab]{1,4}", 0..20),
            of in "[ab]{0,6}",
        ) {
            let wanted: Vec<&String> = texts.iter().filter(|text| of.starts_with(*text)).collect();
            let boxed = |text: &String| (text.as_bytes().into(), text.clone());
            let index = LiteralIndex::new(texts.iter().map(boxed).collect(), |text| text);
            let mut found = Vec::new();
            index.each_prefix(of.as_bytes(), &mut |text: &String| found.push(text.clone()));
            found.sort();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), wanted);
        }
    }
}
