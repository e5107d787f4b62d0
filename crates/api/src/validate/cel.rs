//! `x-kubernetes-validations`: rules in the Common Expression Language.
//!
//! kube-cel's parser reads the rules. Those that use only what [`lower`] knows, which is all of the Gateway
//! API's, are lowered to [`Expr`] and run on the JSON values as they are, with their regular expressions
//! compiled once; that is two orders of magnitude faster than converting every object, and thousands of routes
//! are validated at each start. Other rules are left to kube-cel's own interpreter. A test compares the two.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Program;
use serde_json::{Map, Value};

use super::findings::{Findings, Hint};
use super::schema::{ListType, Schema};
use crate::path::{At, FieldPath};

mod eval;
mod lower;
mod value;

use eval::Expr;

/// The programs of one or more schemas, each compiled once however often a schema repeats it.
#[derive(Default)]
pub(super) struct Programs(HashMap<String, Option<Arc<Expr>>>);

impl Programs {
    /// The lowered program; `None` for what needs kube-cel's interpreter.
    fn native(&mut self, text: &str) -> Result<Option<Arc<Expr>>, String> {
        if let Some(known) = self.0.get(text) {
            return Ok(known.clone());
        }
        let program = Program::compile(text).map_err(|error| format!("{text}: {error}"))?;
        let lowered = lower::lower(program.expression()).map(Arc::new);
        self.0.insert(text.to_owned(), lowered.clone());
        Ok(lowered)
    }
}

/// One rule of a schema node.
#[derive(Debug)]
pub(super) struct Rule {
    engine: Engine,
    text: Box<str>,
    message: Option<Box<str>>,
    message_expression: Option<Arc<Expr>>,
    reason: Option<Box<str>>,
    /// From the node that has the rule.
    field_path: Option<FieldPath>,
    /// Compares with the previous object, so it says nothing about a new one.
    transition: bool,
    optional_old_self: bool,
}

#[derive(Debug)]
enum Engine {
    Native(Arc<Expr>),
    KubeCel(Box<kube_cel::CompiledSchema>),
}

impl Rule {
    pub(super) fn compile(
        programs: &mut Programs,
        rule: &Value,
        node: &Map<String, Value>,
    ) -> Result<Self, String> {
        let field = |name: &str| rule.get(name).and_then(Value::as_str);
        let text = field("rule").ok_or("a rule has no text")?;
        let native = programs.native(text)?;
        let transition = match &native {
            Some(expr) => expr.uses_old_self(),
            None => text.contains("oldSelf"),
        };
        let engine = match native {
            Some(expr) => Engine::Native(expr),
            None => Engine::KubeCel(Box::new(interpreted(text, node)?)),
        };
        let message_expression = match field("messageExpression") {
            Some(text) => programs.native(text)?,
            None => None,
        };
        Ok(Self {
            engine,
            text: text.into(),
            message: field("message").map(Into::into),
            message_expression,
            reason: field("reason").map(Into::into),
            field_path: field("fieldPath").map(|path| FieldPath::parse(path.trim_start_matches('.'))),
            transition,
            optional_old_self: rule.get("optionalOldSelf") == Some(&Value::Bool(true)),
        })
    }

    /// The API server's words for a rule that does not hold; `None` if it holds.
    fn violation(&self, value: &Value, old: Option<&Value>) -> Option<String> {
        let verdict = match &self.engine {
            Engine::Native(expr) => eval::run(expr, value, old),
            Engine::KubeCel(schema) => interpret(schema, value, old),
        };
        let message = match verdict {
            Ok(true) => return None,
            Ok(false) => self.message(value, old),
            Err(error) => format!("rule evaluation error: {error}"),
        };
        let kind = match self.reason.as_deref() {
            Some("FieldValueForbidden") => "Forbidden",
            Some("FieldValueRequired") => "Required value",
            Some("FieldValueDuplicate") => "Duplicate value",
            _ => "Invalid value",
        };
        Some(format!("{kind}: {message}"))
    }

    fn message(&self, value: &Value, old: Option<&Value>) -> String {
        let computed = self.message_expression.as_ref().and_then(|expr| eval::text(expr, value, old));
        computed.or_else(|| self.message.as_deref().map(|message| message.trim().to_owned())).unwrap_or_else(
            || format!("failed rule: {}", self.text.split_whitespace().collect::<Vec<_>>().join(" ")),
        )
    }
}

/// Runs the rules of a schema on a value that passed its structure.
pub(super) fn check(schema: &Schema, value: &Value, old: Option<&Value>, at: At<'_>, out: &mut Findings) {
    if !schema.has_rules {
        return;
    }
    for rule in &schema.rules {
        if rule.transition && old.is_none() && !rule.optional_old_self {
            continue;
        }
        if let Some(message) = rule.violation(value, old) {
            match &rule.field_path {
                None => out.error(at, message, Hint::None),
                Some(below) => {
                    let mut path = at.to_path();
                    path.0.extend(below.0.iter().cloned());
                    out.push(crate::diagnostic::Severity::Error, path, message, Hint::None);
                }
            }
        }
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let old = old.and_then(|old| old.get(name));
                match (schema.property(name), &schema.additional) {
                    (Some(child), _) => check(child, value, old, at.field(name), out),
                    (None, Some(child)) => check(child, value, old, at.key(name), out),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                check(child, item, old_item(&schema.list, item, old), at.index(index), out);
            }
        }
        _ => {}
    }
}

/// The item's predecessor. Only the items of a list that is a map have one (KEP-2876).
fn old_item<'a>(list: &ListType, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let ListType::Map(keys) = list else { return None };
    old?.as_array()?.iter().find(|old| keys.iter().all(|key| old.get(&**key) == item.get(&**key)))
}

/// A schema for kube-cel that has this one rule, and of the rest only what decides how values are converted.
fn interpreted(text: &str, node: &Map<String, Value>) -> Result<kube_cel::CompiledSchema, String> {
    fn shape(node: &Value) -> Value {
        let Value::Object(map) = node else { return node.clone() };
        let unwanted = ["x-kubernetes-validations", "default", "description"];
        Value::Object(
            map.iter()
                .filter(|(key, value)| !unwanted.contains(&key.as_str()) || value.is_object())
                .map(|(key, value)| (key.clone(), shape(value)))
                .collect(),
        )
    }
    let mut schema = shape(&Value::Object(node.clone()));
    schema["x-kubernetes-validations"] = serde_json::json!([{ "rule": text, "optionalOldSelf": true }]);
    let compiled = kube_cel::compile_schema(&schema);
    match compiled.compilation_errors().first() {
        Some(error) => Err(error.to_string()),
        None => Ok(compiled),
    }
}

fn interpret(
    schema: &kube_cel::CompiledSchema,
    value: &Value,
    old: Option<&Value>,
) -> Result<bool, std::borrow::Cow<'static, str>> {
    match kube_cel::validate_compiled(schema, value, old) {
        Ok(()) => Ok(true),
        Err(errors) => match errors.iter().find(|error| error.kind != kube_cel::ErrorKind::ValidationFailure)
        {
            None => Ok(false),
            Some(error) => Err(error.message.clone().into()),
        },
    }
}

/// The rules of a schema that kube-cel's interpreter runs.
#[cfg(test)]
pub(super) fn interpreted_rules(schema: &Schema) -> Vec<&str> {
    let children = schema.properties.iter().map(|(_, child)| child);
    let children = children.chain(schema.items.as_deref()).chain(schema.additional.as_deref());
    let own = schema.rules.iter().filter(|rule| matches!(rule.engine, Engine::KubeCel(_)));
    own.map(|rule| &*rule.text).chain(children.flat_map(interpreted_rules)).collect()
}

#[cfg(test)]
mod tests;
