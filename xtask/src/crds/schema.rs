//! From OpenAPI schemas to named types.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::names;

/// The type of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    String,
    I32,
    I64,
    Bool,
    Time,
    /// Whatever the user wrote (`x-kubernetes-preserve-unknown-fields`, `x-kubernetes-int-or-string`, passed on).
    Any,
    /// A map from strings to strings.
    Map,
    List(Box<Type>),
    Named(String),
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) json: String,
    pub(super) doc: String,
    pub(super) of: Type,
    pub(super) required: bool,
}

#[derive(Debug)]
pub(super) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<String>),
}

#[derive(Debug)]
pub(super) struct Definition {
    pub(super) doc: String,
    pub(super) shape: Shape,
    /// The kinds that use it; a type of several kinds goes into `shared.rs`.
    pub(super) kinds: BTreeSet<String>,
    /// Where it was first seen, for messages.
    path: String,
}

/// One kind of object.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) kind: String,
    pub(super) group: String,
    pub(super) plural: String,
    pub(super) short_names: Vec<String>,
    pub(super) namespaced: bool,
    /// The served versions, the one that the types are made from first.
    pub(super) versions: Vec<String>,
    pub(super) doc: String,
    pub(super) spec: String,
    pub(super) status: Option<String>,
}

/// All kinds, and all types that their schemas need.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub(super) kinds: Vec<Kind>,
    pub(super) definitions: BTreeMap<String, Definition>,
}

impl Types {
    pub(super) fn add_crd(&mut self, crd: &Value) -> anyhow::Result<()> {
        let spec = &crd["spec"];
        let kind = text(&spec["names"]["kind"])?;
        let mut served: Vec<&Value> =
            array(&spec["versions"])?.iter().filter(|v| v["served"] == true).collect();
        // ReferenceGrant still stores v1beta1, with the very schema of v1.
        served.sort_by_key(|version| (version["name"] != "v1", version["storage"] != true));
        let schema = &served.first().context("no version is served")?["schema"]["openAPIV3Schema"];
        let properties = schema["properties"].as_object().context("no properties")?;
        let mut parts = BTreeMap::new();
        for (name, part) in properties {
            match name.as_str() {
                "apiVersion" | "kind" | "metadata" => {}
                "spec" | "status" => {
                    let Type::Named(part) = self.add(&kind, &format!("{kind}.{name}"), part)? else {
                        bail!("{kind}.{name} is no object");
                    };
                    parts.insert(name.as_str(), part);
                }
                _ => bail!("{kind} has the field {name} beside spec and status"),
            }
        }
        self.kinds.push(Kind {
            group: text(&spec["group"])?,
            plural: text(&spec["names"]["plural"])?,
            short_names: match spec["names"].get("shortNames") {
                Some(names) => array(names)?.iter().map(text).collect::<Result<_, _>>()?,
                None => Vec::new(),
            },
            namespaced: spec["scope"] == "Namespaced",
            versions: served.iter().map(|version| text(&version["name"])).collect::<Result<_, _>>()?,
            doc: doc(schema),
            spec: parts.remove("spec").context("no spec")?,
            status: parts.remove("status"),
            kind,
        });
        Ok(())
    }

    /// The type of the schema at `path`, whose named types are added.
    fn add(&mut self, kind: &str, path: &str, schema: &Value) -> anyhow::Result<Type> {
        let flag = |name: &str| schema.get(name).is_some_and(|value| value == true);
        let any = flag("x-kubernetes-preserve-unknown-fields") || flag("x-kubernetes-int-or-string");
        if any || names::is_passed_on(path) {
            return Ok(Type::Any);
        }
        let format = schema["format"].as_str().unwrap_or_default();
        Ok(match schema["type"].as_str().with_context(|| format!("{path} has no type"))? {
            "boolean" => Type::Bool,
            "integer" if format == "int32" || schema.get("enum").is_some() => Type::I32,
            "integer" => Type::I64,
            "string" if format == "date-time" => Type::Time,
            "string" => match schema.get("enum") {
                Some(values) => {
                    let values = array(values)?.iter().map(text).collect::<Result<_, _>>()?;
                    self.define(kind, path, schema, Shape::Enum(values))?
                }
                None => Type::String,
            },
            "array" => Type::List(Box::new(self.add(kind, &format!("{path}[]"), &schema["items"])?)),
            "object" => match schema.get("properties") {
                Some(properties) => {
                    let required: BTreeSet<&str> = match schema.get("required") {
                        Some(names) => array(names)?.iter().filter_map(Value::as_str).collect(),
                        None => BTreeSet::new(),
                    };
                    let mut fields = Vec::new();
                    for (name, schema) in properties.as_object().context("properties is no object")? {
                        fields.push(Field {
                            json: name.clone(),
                            doc: doc(schema),
                            of: self.add(kind, &format!("{path}.{name}"), schema)?,
                            required: required.contains(name.as_str()),
                        });
                    }
                    self.define(kind, path, schema, Shape::Struct(fields))?
                }
                None => {
                    ensure!(
                        schema["additionalProperties"]["type"] == "string",
                        "{path} is an object without properties that is no map of strings"
                    );
                    Type::Map
                }
            },
            other => bail!("{path} is of type {other}"),
        })
    }

    /// Adds a named type, or finds it: what has one name must be alike.
    fn define(&mut self, kind: &str, path: &str, schema: &Value, shape: Shape) -> anyhow::Result<Type> {
        let name = names::type_name(path);
        match self.definitions.get_mut(&name) {
            None => {
                let kinds = BTreeSet::from([kind.to_owned()]);
                let definition = Definition { doc: doc(schema), shape, kinds, path: path.to_owned() };
                self.definitions.insert(name.clone(), definition);
            }
            Some(known) => {
                known.kinds.insert(kind.to_owned());
                match (&mut known.shape, shape) {
                    (Shape::Struct(a), Shape::Struct(b)) => ensure!(
                        alike(a, &b),
                        "{path} and {} differ, and both would be named {name}",
                        known.path
                    ),
                    // One Go type, of which some places allow fewer values: FromNamespaces.
                    (Shape::Enum(known), Shape::Enum(values)) => {
                        known.extend(
                            values.into_iter().filter(|value| !known.contains(value)).collect::<Vec<_>>(),
                        );
                    }
                    _ => bail!("{path} and {} differ, and both would be named {name}", known.path),
                }
            }
        }
        Ok(Type::Named(name))
    }

    /// Bytes that a value of this type takes in its parent, roughly: what decides whether it is boxed.
    pub(super) fn size(&self, of: &Type) -> usize {
        match of {
            Type::String | Type::Map | Type::List(_) => 24,
            Type::Any => 32,
            Type::I32 | Type::Bool => 8,
            Type::I64 | Type::Time => 16,
            Type::Named(name) => match self.definitions.get(name).map(|definition| &definition.shape) {
                Some(Shape::Struct(fields)) => {
                    fields.iter().map(|field| if self.boxed(field) { 8 } else { self.size(&field.of) }).sum()
                }
                Some(Shape::Enum(_)) | None => 16,
            },
        }
    }

    /// Whether a field is boxed: a large struct that is mostly absent would cost its size in every parent.
    pub(super) fn boxed(&self, field: &Field) -> bool {
        !field.required && matches!(field.of, Type::Named(_)) && self.size(&field.of) > 40
    }

    /// Whether the type can derive `Default`: no required field without a value to begin with.
    pub(super) fn has_default(&self, of: &Type) -> bool {
        match of {
            Type::Time => false,
            Type::Named(name) => match self.definitions.get(name).map(|definition| &definition.shape) {
                Some(Shape::Struct(fields)) => {
                    fields.iter().all(|field| !field.required || self.has_default(&field.of))
                }
                Some(Shape::Enum(_)) | None => false,
            },
            _ => true,
        }
    }
}

fn alike(a: &[Field], b: &[Field]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.json == b.json && a.of == b.of && a.required == b.required)
}

/// The first paragraph of a schema's description, on one line.
fn doc(schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    let lines = description.lines().map(str::trim);
    let paragraph =
        lines.skip_while(|line| line.is_empty() || is_marker(line)).take_while(|line| !line.is_empty());
    paragraph.filter(|line| !is_marker(line)).collect::<Vec<_>>().join(" ")
}

/// Whether a line is for the generators of the Go API: `<gateway:experimental>`, `+optional`.
fn is_marker(line: &str) -> bool {
    line.starts_with("<gateway:") || line.starts_with('+')
}

fn text(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no string"))
}

fn array(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}
