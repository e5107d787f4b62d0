//! Field paths: where in an object something is.

use std::fmt;

/// One step down into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A declared field: `.spec`.
    Field(String),
    /// An item of a list: `[2]`.
    Index(usize),
    /// An entry of a map whose keys are the user's own, such as a label: `[app]`.
    Key(String),
}

/// A place in an object, as the API server writes it: `spec.rules[0].matches[1].path.value`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// Reads `spec.rules[0].name` and `metadata.labels[app.kubernetes.io/name]`.
    ///
    /// A bracket that holds digits only is an index. Anything malformed is read as a field name, so that
    /// this never fails; such a path then leads nowhere.
    pub fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((inside, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
                steps.push(match inside.parse() {
                    Ok(index) => Step::Index(index),
                    Err(_) => Step::Key(inside.to_owned()),
                });
                rest = after;
                continue;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            // At least one byte is always taken, so that `..` and a stray `[` cannot loop for ever.
            let end = rest.char_indices().skip(1).find(|(_, c)| matches!(c, '.' | '[')).map(|(at, _)| at);
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            if !name.is_empty() {
                steps.push(Step::Field(name.to_owned()));
            }
            rest = after;
        }
        Self(steps)
    }

    /// This path, one field further.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// This path, one list item further.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// This path, one map entry further.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// A path that lives on the stack while a tree is walked, so that a walk that finds nothing allocates nothing.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Option<StepRef<'a>>,
}

#[derive(Clone, Copy)]
enum StepRef<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    pub(crate) const ROOT: At<'static> = At { parent: None, step: None };

    pub(crate) fn field(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), step: Some(StepRef::Field(name)) }
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Some(StepRef::Index(index)) }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Some(StepRef::Key(key)) }
    }

    pub(crate) fn to_path(self) -> FieldPath {
        let mut steps = Vec::new();
        let mut at = Some(&self);
        while let Some(here) = at {
            match here.step {
                Some(StepRef::Field(name)) => steps.push(Step::Field(name.to_owned())),
                Some(StepRef::Index(index)) => steps.push(Step::Index(index)),
                Some(StepRef::Key(key)) => steps.push(Step::Key(key.to_owned())),
                None => {}
            }
            at = here.parent;
        }
        steps.reverse();
        FieldPath(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back_as_they_are_written() {
        for text in [
            "",
            "spec",
            "spec.rules[0].matches[12].path.value",
            "metadata.labels[app.kubernetes.io/name]",
            "[3]",
        ] {
            assert_eq!(FieldPath::parse(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_paths_end() {
        for text in ["..", "a..b", "[", "a[", "a[0", "]", "é.ü[", "[[[[", ".[.["] {
            let _ = FieldPath::parse(text).to_string();
        }
    }

    #[test]
    fn the_path_on_the_stack_is_the_same_path() {
        let spec = At::ROOT.field("spec");
        let labels = spec.field("labels");
        let (app, rules) = (labels.key("app"), spec.field("rules"));
        assert_eq!(app.to_path().to_string(), "spec.labels[app]");
        assert_eq!(rules.index(7).to_path().to_string(), "spec.rules[7]");
    }
}
