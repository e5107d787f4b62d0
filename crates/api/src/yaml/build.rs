//! Parser events → documents.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Value};

use super::{Document, Limits, Node, Source, Span, nth_child, saturate, scalar};
use crate::diagnostic::Diagnostic;

pub(super) fn build(source: &Arc<Source>, limits: &Limits) -> (Vec<Document>, Vec<Diagnostic>) {
    let mut options = granit_parser::options! {
        // The scanner runs ahead of the events, so either its guard or `open`'s may be first to see a nest.
        flow_nesting_limit: limits.depth + 1,
        block_nesting_limit: limits.depth + 1,
    };
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(source.text(), options);
    let mut builder = Builder {
        source,
        limits,
        documents: Vec::new(),
        diagnostics: Vec::new(),
        nodes: Vec::new(),
        stack: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        failed: false,
        secret: Cell::new(None),
        total_nodes: 0,
        alias_nodes: 0,
        alias_bytes: 0,
    };
    loop {
        let step = match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((event, span))) => builder.event(event, byte_span(&span)),
            Some(Err(error)) => Err(builder.syntax(&error)),
        };
        match step {
            Ok(()) => {}
            Err(Stop::File(diagnostic)) => {
                builder.diagnostics.push(*diagnostic);
                break;
            }
            Err(Stop::Document(diagnostic)) => {
                builder.diagnostics.push(*diagnostic);
                builder.reset();
                // One that has as many bad documents as this is not YAML.
                if builder.diagnostics.len() >= super::MAX_DIAGNOSTICS
                    || !matches!(parser.proceed_next_document(), Ok(true))
                {
                    break;
                }
            }
        }
    }
    (builder.documents, builder.diagnostics)
}

/// What ends early: a document, or the reading of the file.
enum Stop {
    Document(Box<Diagnostic>),
    File(Box<Diagnostic>),
}

impl Stop {
    fn document(why: Diagnostic) -> Self {
        Self::Document(Box::new(why))
    }

    fn file(why: Diagnostic) -> Self {
        Self::File(Box::new(why))
    }
}

type Step = Result<(), Stop>;

struct Builder<'a> {
    source: &'a Arc<Source>,
    limits: &'a Limits,
    documents: Vec<Document>,
    diagnostics: Vec<Diagnostic>,
    nodes: Vec<Node>,
    stack: Vec<Open>,
    root: Option<Value>,
    anchors: HashMap<usize, Anchored>,
    /// The document has an error that does not hinder reading on, such as a duplicate key.
    failed: bool,
    /// Whether the document may be a Secret, once that was asked.
    secret: Cell<Option<bool>>,
    total_nodes: usize,
    alias_nodes: usize,
    alias_bytes: usize,
}

/// A list or map whose end has not come yet.
struct Open {
    node: usize,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Value>),
    Map {
        entries: Map<String, Value>,
        /// The key whose value comes next, with its place.
        key: Option<(String, Span)>,
        /// The next value is that of a merge key.
        merging: bool,
        merged: Vec<(Value, Vec<Node>)>,
    },
}

#[derive(Clone)]
struct Anchored {
    value: Value,
    nodes: Vec<Node>,
    bytes: usize,
}

fn byte_span(span: &granit_parser::Span) -> Span {
    span.byte_range().map_or_else(Span::default, |r| Span { start: saturate(r.start), end: saturate(r.end) })
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Step {
        match event {
            Event::DocumentStart(..) => {
                self.reset();
                if self.documents.len() >= self.limits.documents {
                    let most = self.limits.documents;
                    return Err(Stop::file(self.at(span, format!("more than {most} documents in one file"))));
                }
                Ok(())
            }
            Event::DocumentEnd => {
                self.end_document();
                Ok(())
            }
            Event::Alias(id) => self.alias(id, span),
            Event::UnresolvedAlias(name) => {
                Err(Stop::document(self.at(span, format!("alias *{name} names no anchor before it"))))
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    if matches!(style, ScalarStyle::Plain) && text == "<<" && tag.is_none() {
                        return self.merge_key(span);
                    }
                    self.keep_scalar_anchor(anchor, || Value::String(text.to_string()), span)?;
                    return self.key(text.into_owned(), span);
                }
                let plain = matches!(style, ScalarStyle::Plain);
                let value = self.scalar(text, plain, tag.as_deref(), span)?;
                let node = self.open_node(span)?;
                self.finish(value, node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", span)?;
                self.open(anchor, Inside::List(Vec::new()), span)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", span)?;
                let inside =
                    Inside::Map { entries: Map::new(), key: None, merging: false, merged: Vec::new() };
                self.open(anchor, inside, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            _ => Ok(()),
        }
    }

    fn reset(&mut self) {
        self.nodes.clear();
        self.stack.clear();
        self.anchors.clear();
        self.root = None;
        self.failed = false;
        self.secret.set(None);
    }

    fn end_document(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        if let Some(value) = self.root.take()
            && !self.failed
            // A document of comments only is none.
            && !value.is_null()
        {
            self.documents.push(Document { source: Arc::clone(self.source), value, nodes });
        }
        self.reset();
    }

    fn at(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        let secret = self.secret.get().unwrap_or_else(|| self.source.may_be_secret(span.start));
        self.secret.set(Some(secret));
        Diagnostic::error(message).at(self.source, span, !secret)
    }

    fn syntax(&self, error: &ScanError) -> Stop {
        let start = saturate(error.marker().byte_offset().unwrap_or(0));
        if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
            return self.too_deep(Span { start, end: start });
        }
        let message = format!("not valid YAML: {}", error.info());
        if message.contains("tab") {
            // The parser names the place where it began to look ahead, which may be a line before.
            let ahead =
                self.source.text().get(start as usize..).and_then(|text| text.find('\t')).unwrap_or(0);
            let start = start.saturating_add(saturate(ahead));
            let diagnostic = self.at(Span { start, end: start }, message);
            return Stop::document(diagnostic.hint("indent with spaces: YAML does not allow tabs there"));
        }
        let diagnostic = self.at(Span { start, end: start }, message);
        // As kubectl takes it: one after the other.
        let follows = self.source.text().get(start as usize..).is_some_and(|text| {
            text.starts_with('{') && self.source.text()[..start as usize].trim_end().ends_with('}')
        });
        Stop::document(if follows {
            diagnostic
                .hint("put a line of --- between two documents of JSON, or make them the items of a List")
        } else {
            diagnostic
        })
    }

    fn too_deep(&self, span: Span) -> Stop {
        let most = self.limits.depth;
        Stop::document(self.at(span, format!("more than {most} lists and maps inside one another")))
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open { inside: Inside::Map { key: None, merging: false, .. }, .. }))
    }

    fn key(&mut self, text: String, span: Span) -> Step {
        let Some(Open { node, inside: Inside::Map { entries, key, .. }, .. }) = self.stack.last_mut() else {
            return Ok(());
        };
        if entries.contains_key(&text) {
            let nth = entries.keys().position(|key| *key == text).unwrap_or_default();
            let first = self.nodes.get(nth_child(&self.nodes, *node, nth)).map_or(span, |node| node.key);
            *key = Some((text.clone(), span));
            self.failed = true;
            let first = self.source.position(first.start);
            let diagnostic = self
                .at(span, format!("duplicate key {text:?}: the first is at {}:{}", first.line, first.column));
            if self.diagnostics.len() < super::MAX_DIAGNOSTICS {
                self.diagnostics.push(diagnostic.hint("keep one of the two"));
            }
            return Ok(());
        }
        *key = Some((text, span));
        Ok(())
    }

    fn merge_key(&mut self, span: Span) -> Step {
        match self.stack.last_mut() {
            Some(Open { inside: Inside::Map { merging, .. }, .. }) => {
                *merging = true;
                Ok(())
            }
            _ => Err(Stop::document(self.at(span, "merge key outside a map"))),
        }
    }

    fn scalar(
        &self,
        text: std::borrow::Cow<'_, str>,
        plain: bool,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<Value, Stop> {
        let wrong = |message: String| Stop::document(self.at(span, message));
        let resolve = |text: &str| {
            scalar::resolve(text).ok_or_else(|| {
                wrong(format!("{text} is a number that JSON, and so Kubernetes, cannot express"))
            })
        };
        let Some(tag) = tag else {
            return if plain { resolve(&text) } else { Ok(Value::String(text.into_owned())) };
        };
        let value = match tag.core_suffix() {
            Some("str") => return Ok(Value::String(text.into_owned())),
            _ if tag.suffix() == "!" || tag.original() == "!" => return Ok(Value::String(text.into_owned())),
            Some("int" | "float" | "bool" | "null") => resolve(&text)?,
            _ => return Err(wrong(format!("tag {} has no meaning in Kubernetes YAML", tag.original()))),
        };
        let fits = match tag.core_suffix() {
            Some("int") => value.is_i64() || value.is_u64(),
            Some("float") => value.is_number(),
            Some("bool") => value.is_boolean(),
            _ => value.is_null(),
        };
        if fits { Ok(value) } else { Err(wrong(format!("{text:?} is no {}", tag.original()))) }
    }

    fn collection_tag(&self, tag: Option<&Tag>, allowed: &str, span: Span) -> Step {
        match tag {
            Some(tag) if tag.core_suffix() != Some(allowed) => Err(Stop::document(
                self.at(span, format!("tag {} has no meaning in Kubernetes YAML", tag.original())),
            )),
            _ => Ok(()),
        }
    }

    /// Takes a place in the table for a value that begins at `span`.
    fn open_node(&mut self, span: Span) -> Result<usize, Stop> {
        self.count(1, span)?;
        let key = match self.stack.last() {
            Some(Open { inside: Inside::Map { key: Some((_, key)), .. }, .. }) => *key,
            _ => Span::default(),
        };
        self.nodes.push(Node { span, key, size: 1 });
        Ok(self.nodes.len() - 1)
    }

    fn count(&mut self, nodes: usize, span: Span) -> Step {
        self.total_nodes = self.total_nodes.saturating_add(nodes);
        if self.total_nodes > self.limits.nodes {
            let most = self.limits.nodes;
            return Err(Stop::file(
                self.at(span, format!("more than {most} values in one file"))
                    .hint("split it into several files"),
            ));
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, inside: Inside, span: Span) -> Step {
        if self.wants_key() {
            return Err(Stop::document(self.at(span, "a key must be a string, not a list or map")));
        }
        if self.stack.len() >= self.limits.depth {
            return Err(self.too_deep(span));
        }
        let node = self.open_node(span)?;
        self.stack.push(Open { node, anchor, inside });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Step {
        let Some(Open { node, anchor, inside }) = self.stack.pop() else { return Ok(()) };
        self.nodes[node].span.end = span.end.max(self.nodes[node].span.start);
        let value = match inside {
            Inside::List(items) => Value::Array(items),
            Inside::Map { mut entries, merged, .. } => {
                for (value, nodes) in merged {
                    self.merge(&mut entries, value, &nodes);
                }
                Value::Object(entries)
            }
        };
        self.finish(value, node, anchor)
    }

    /// YAML 1.1's merge key: the entries of `value` that the map does not have itself.
    fn merge(&mut self, entries: &mut Map<String, Value>, value: Value, nodes: &[Node]) {
        let mut at = 1;
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let size = nodes[at].size as usize;
                    if !entries.contains_key(&key) {
                        self.nodes.extend_from_slice(&nodes[at..at + size]);
                        entries.insert(key, value);
                    }
                    at += size;
                }
            }
            Value::Array(items) => {
                for item in items {
                    let size = nodes[at].size as usize;
                    self.merge(entries, item, &nodes[at..at + size]);
                    at += size;
                }
            }
            _ => {}
        }
    }

    /// Gives a finished value to its anchor and its parent.
    fn finish(&mut self, value: Value, node: usize, anchor: usize) -> Step {
        self.nodes[node].size = saturate(self.nodes.len() - node);
        if anchor != 0 {
            let nodes = self.nodes[node..].to_vec();
            let bytes = text_bytes(&value);
            self.count_alias(nodes.len(), bytes, self.nodes[node].span)?;
            self.anchors.insert(anchor, Anchored { value: value.clone(), nodes, bytes });
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        match &mut parent.inside {
            Inside::List(items) => items.push(value),
            Inside::Map { merging, merged, .. } if *merging => {
                *merging = false;
                let mergeable = value.is_object()
                    || value.as_array().is_some_and(|items| items.iter().all(Value::is_object));
                let nodes = self.nodes.split_off(node);
                if !mergeable {
                    return Err(Stop::document(self.at(
                        nodes[0].span,
                        "the value of a merge key (<<) must be a map or a list of maps",
                    )));
                }
                merged.push((value, nodes));
            }
            Inside::Map { entries, key, .. } => {
                let Some((key, _)) = key.take() else { return Ok(()) };
                if entries.contains_key(&key) {
                    // A duplicate, reported already: the table must keep in step with the map.
                    self.nodes.truncate(node);
                } else {
                    entries.insert(key, value);
                }
            }
        }
        Ok(())
    }

    fn keep_scalar_anchor(&mut self, anchor: usize, value: impl FnOnce() -> Value, span: Span) -> Step {
        if anchor == 0 {
            return Ok(());
        }
        let value = value();
        let bytes = text_bytes(&value);
        self.count_alias(1, bytes, span)?;
        let nodes = vec![Node { span, key: Span::default(), size: 1 }];
        self.anchors.insert(anchor, Anchored { value, nodes, bytes });
        Ok(())
    }

    fn count_alias(&mut self, nodes: usize, bytes: usize, span: Span) -> Step {
        self.alias_nodes = self.alias_nodes.saturating_add(nodes);
        self.alias_bytes = self.alias_bytes.saturating_add(bytes);
        if self.alias_nodes > self.limits.alias_nodes || self.alias_bytes > self.limits.alias_bytes {
            return Err(Stop::file(self.at(
                span,
                format!(
                    "anchors and aliases expand to more than {} values or {} bytes",
                    self.limits.alias_nodes, self.limits.alias_bytes
                ),
            )));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Step {
        let Some(target) = self.anchors.get(&id) else {
            return Err(Stop::document(self.at(span, "this alias refers to the value that it is part of")));
        };
        let (count, bytes) = (target.nodes.len(), target.bytes);
        // Counted before it is copied.
        self.count_alias(count, bytes, span)?;
        let Some(Anchored { value, nodes, .. }) = self.anchors.get(&id).cloned() else { return Ok(()) };
        if self.wants_key() {
            return match value {
                Value::String(text) => self.key(text, span),
                _ => Err(Stop::document(self.at(span, "a key must be a string"))),
            };
        }
        if self.stack.len() + depth(&value) > self.limits.depth {
            return Err(self.too_deep(span));
        }
        self.count(count - 1, span)?;
        let node = self.open_node(span)?;
        // The place of the whole is where it is used; those of its parts are where they are written.
        self.nodes.extend_from_slice(&nodes[1..]);
        self.finish(value, node, 0)
    }
}

/// Bounded by the depth limit, which `value` has passed.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        _ => 0,
    }
}
