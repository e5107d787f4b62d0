//! A CRD's OpenAPI schema, compiled once and shared.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::cel::Rule;

/// One node of a compiled schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    /// Sorted by name.
    pub(super) properties: Vec<(Box<str>, Schema)>,
    /// The properties that have a default, by index.
    pub(super) defaulted: Vec<usize>,
    pub(super) required: Vec<Box<str>>,
    /// The values of a map whose keys are the user's own.
    pub(super) additional: Option<Box<Schema>>,
    /// Fields that the schema does not name are kept.
    pub(super) open: bool,
    pub(super) items: Option<Box<Schema>>,
    pub(super) list: ListType,
    pub(super) default: Option<Value>,
    pub(super) allowed: Vec<Value>,
    pub(super) pattern: Option<Arc<Regex>>,
    pub(super) format: Format,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) min_length: Option<usize>,
    pub(super) max_length: Option<usize>,
    pub(super) min_items: Option<usize>,
    pub(super) max_items: Option<usize>,
    pub(super) min_properties: Option<usize>,
    pub(super) max_properties: Option<usize>,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
    pub(super) rules: Vec<Rule>,
    /// Whether this node or one below it has rules; walks turn back where it is false.
    pub(super) has_rules: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer or string",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default)]
pub(super) enum ListType {
    #[default]
    Atomic,
    Set,
    /// Items are told apart by these fields.
    Map(Vec<Box<str>>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    None,
    Int32,
    DateTime,
    Ipv4,
    Ipv6,
    /// base64
    Byte,
}

impl Schema {
    pub(super) fn property(&self, name: &str) -> Option<&Schema> {
        let at = self.properties.binary_search_by(|(property, _)| (**property).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }
}

/// Compiles schemas, sharing the regular expressions that they repeat by the dozen.
#[derive(Default)]
pub(super) struct Compiler {
    patterns: HashMap<String, Arc<Regex>>,
    pub(super) programs: super::cel::Programs,
}

impl Compiler {
    /// Compiles a node and all below it. Fails for what this file does not implement, so that a new CRD cannot
    /// bring a check that is silently left out.
    pub(super) fn compile(&mut self, node: &Value) -> Result<Schema, String> {
        let Some(node) = node.as_object() else { return Err(format!("a schema must be a map, not {node}")) };
        let mut schema = Schema::default();
        for (keyword, value) in node {
            self.keyword(&mut schema, node, keyword, value).map_err(|error| format!("{keyword}: {error}"))?;
        }
        schema.properties.sort_by(|a, b| a.0.cmp(&b.0));
        schema.defaulted =
            (0..schema.properties.len()).filter(|&at| schema.properties[at].1.default.is_some()).collect();
        schema.has_rules = !schema.rules.is_empty()
            || schema.properties.iter().any(|(_, child)| child.has_rules)
            || schema.items.as_ref().is_some_and(|child| child.has_rules)
            || schema.additional.as_ref().is_some_and(|child| child.has_rules);
        Ok(schema)
    }

    fn keyword(
        &mut self,
        schema: &mut Schema,
        node: &Map<String, Value>,
        keyword: &str,
        value: &Value,
    ) -> Result<(), String> {
        match keyword {
            "type" => {
                // int-or-string nodes may carry a type as well; the extension says more.
                if schema.kind != Kind::IntOrString {
                    schema.kind = match value.as_str() {
                        Some("object") => Kind::Object,
                        Some("array") => Kind::Array,
                        Some("string") => Kind::String,
                        Some("integer") => Kind::Integer,
                        Some("number") => Kind::Number,
                        Some("boolean") => Kind::Boolean,
                        _ => return Err(format!("unknown type {value}")),
                    };
                }
            }
            "x-kubernetes-int-or-string" => schema.kind = Kind::IntOrString,
            "nullable" => schema.nullable = value == true,
            "properties" => {
                for (name, child) in value.as_object().into_iter().flatten() {
                    let child = self.compile(child).map_err(|error| format!("{name}: {error}"))?;
                    schema.properties.push((name.as_str().into(), child));
                }
            }
            "required" => schema.required = strings(value)?,
            "additionalProperties" => schema.additional = Some(Box::new(self.compile(value)?)),
            "x-kubernetes-preserve-unknown-fields" => schema.open = value == true,
            "items" => schema.items = Some(Box::new(self.compile(value)?)),
            "x-kubernetes-list-type" => {
                schema.list = match value.as_str() {
                    Some("atomic") => ListType::Atomic,
                    Some("set") => ListType::Set,
                    Some("map") => ListType::Map(strings(
                        node.get("x-kubernetes-list-map-keys").unwrap_or(&Value::Null),
                    )?),
                    _ => return Err(format!("unknown list type {value}")),
                }
            }
            "default" => schema.default = Some(value.clone()),
            "enum" => schema.allowed = value.as_array().cloned().unwrap_or_default(),
            "pattern" => schema.pattern = Some(self.pattern(value.as_str().unwrap_or_default())?),
            "format" => {
                schema.format = match value.as_str() {
                    Some("int32") => Format::Int32,
                    Some("int64") => Format::None,
                    Some("date-time") => Format::DateTime,
                    Some("ipv4") => Format::Ipv4,
                    Some("ipv6") => Format::Ipv6,
                    Some("byte") => Format::Byte,
                    _ => return Err(format!("unknown format {value}")),
                }
            }
            "minimum" => schema.minimum = value.as_f64(),
            "maximum" => schema.maximum = value.as_f64(),
            "minLength" => schema.min_length = size(value),
            "maxLength" => schema.max_length = size(value),
            "minItems" => schema.min_items = size(value),
            "maxItems" => schema.max_items = size(value),
            "minProperties" => schema.min_properties = size(value),
            "maxProperties" => schema.max_properties = size(value),
            "allOf" => schema.all_of = self.branches(value)?,
            "anyOf" => schema.any_of = self.branches(value)?,
            "oneOf" => schema.one_of = self.branches(value)?,
            "not" => schema.not = Some(Box::new(self.compile(value)?)),
            "x-kubernetes-validations" => {
                for rule in value.as_array().into_iter().flatten() {
                    schema.rules.push(Rule::compile(&mut self.programs, rule, node)?);
                }
            }
            // These say nothing about which values are valid.
            "description" | "title" | "example" | "x-kubernetes-list-map-keys" | "x-kubernetes-map-type" => {}
            _ => return Err("not supported".to_owned()),
        }
        Ok(())
    }

    fn branches(&mut self, value: &Value) -> Result<Vec<Schema>, String> {
        value.as_array().into_iter().flatten().map(|branch| self.compile(branch)).collect()
    }

    fn pattern(&mut self, text: &str) -> Result<Arc<Regex>, String> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(Arc::clone(known));
        }
        let regex = Arc::new(Regex::new(text).map_err(|error| error.to_string())?);
        self.patterns.insert(text.to_owned(), Arc::clone(&regex));
        Ok(regex)
    }
}

fn strings(value: &Value) -> Result<Vec<Box<str>>, String> {
    let item = |item: &Value| item.as_str().map(Into::into).ok_or_else(|| format!("{item} is not a string"));
    value.as_array().ok_or_else(|| format!("{value} is not a list"))?.iter().map(item).collect()
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}
