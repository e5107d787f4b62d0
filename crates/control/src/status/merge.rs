//! Own entries into what an object carries; all else in it stays as it is.

use portway_api::object::KindId;
use portway_translate::{Status, is_own_condition};
use serde_json::{Map, Value};

/// The API's bounds on the entries in a list, whoever's they are.
const PARENTS: usize = 32;
const ANCESTORS: usize = 16;

/// Where in the status of a kind the own entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Entries of many controllers in one list: its name, and that of the field that tells them apart.
    Entries(&'static str, &'static str),
    /// The object is Portway's; these are the fields that it writes.
    Whole(&'static [&'static str]),
}

fn shape(kind: KindId) -> Option<Shape> {
    Some(match kind {
        KindId::GatewayClass => Shape::Whole(&["conditions", "supportedFeatures"]),
        KindId::Gateway => Shape::Whole(&["addresses", "attachedListenerSets", "conditions", "listeners"]),
        KindId::ListenerSet => Shape::Whole(&["conditions", "listeners"]),
        KindId::HTTPRoute | KindId::GRPCRoute | KindId::TLSRoute | KindId::TCPRoute | KindId::UDPRoute => {
            Shape::Entries("parents", "parentRef")
        }
        KindId::BackendTLSPolicy | KindId::XBackend => Shape::Entries("ancestors", "ancestorRef"),
        _ => return None,
    })
}

/// What of a status has to be another: a merge patch of `status`, and whether it leaves something in place that
/// is not Portway's, and so must be read from the object itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Patch {
    /// The fields to set; `null` removes one.
    pub(super) fields: Map<String, Value>,
    /// A list that is set has entries or conditions of others.
    pub(super) has_foreign: bool,
}

/// What has to change in the status that an object carries, so that Portway's entries are as desired; `None` if
/// they are. Without a desired status, its entries among those of others are removed.
pub(super) fn patch(
    kind: KindId,
    carried: Option<&Value>,
    desired: Option<&Status>,
    controller_name: &str,
) -> Option<Patch> {
    let desired = desired.map(|status| serde_json::to_value(status).unwrap_or_default());
    let list = |status: Option<&Value>, field: &str| match status.and_then(|status| status.get(field)) {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let mut patch = Patch { fields: Map::new(), has_foreign: false };
    match shape(kind)? {
        Shape::Entries(field, reference) => {
            let carried = list(carried, field);
            let desired = list(desired.as_ref(), field);
            let merged = entries(&carried, desired, (field, reference), controller_name);
            if merged != carried {
                patch.has_foreign = carried.iter().any(|entry| !is_own(entry, controller_name));
                patch.fields.insert(field.to_owned(), merged.into());
            }
        }
        Shape::Whole(fields) => {
            // Of an object that is no longer Portway's, the status is someone else's business.
            let desired = desired?;
            for &field in fields {
                let before = carried.and_then(|carried| carried.get(field));
                let after = match field {
                    "conditions" => {
                        Value::from(conditions(&list(carried, field), list(Some(&desired), field)))
                    }
                    "listeners" => listeners(&list(carried, field), list(Some(&desired), field)).into(),
                    _ => desired.get(field).cloned().unwrap_or_default(),
                };
                let is_empty = match &after {
                    Value::Null => true,
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                let same = match before {
                    Some(before) => *before == after,
                    None => is_empty,
                };
                if !same {
                    patch.has_foreign |= has_foreign_conditions(&after);
                    patch.fields.insert(field.to_owned(), after);
                }
            }
        }
    }
    (!patch.fields.is_empty()).then_some(patch)
}

fn is_own(entry: &Value, controller_name: &str) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(controller_name)
}

/// The entries of others where they are, Portway's in their places, and new ones after them.
fn entries(
    carried: &[Value],
    desired: Vec<Value>,
    (field, reference): (&str, &str),
    controller_name: &str,
) -> Vec<Value> {
    let mut desired: Vec<Value> =
        desired.into_iter().filter(|entry| is_own(entry, controller_name)).collect();
    let mut merged = Vec::with_capacity(carried.len() + desired.len());
    for entry in carried {
        if !is_own(entry, controller_name) {
            merged.push(entry.clone());
        } else if let Some(at) = desired.iter().position(|new| new.get(reference) == entry.get(reference)) {
            let mut new = desired.remove(at);
            merge_conditions(entry, &mut new);
            merged.push(new);
        }
    }
    merged.append(&mut desired);
    let most = if field == "ancestors" { ANCESTORS } else { PARENTS };
    if merged.len() > most {
        let foreign = merged.iter().filter(|entry| !is_own(entry, controller_name)).count();
        let mut room = most.saturating_sub(foreign);
        merged.retain(|entry| {
            let own = is_own(entry, controller_name);
            let stays = !own || room > 0;
            room = room.saturating_sub(usize::from(own));
            stays
        });
    }
    merged
}

/// Keeps the conditions of others that an entry, or a listener, carries.
fn merge_conditions(carried: &Value, desired: &mut Value) {
    let list = |value: &Value| match value.get("conditions") {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let merged = conditions(&list(carried), list(desired));
    if let Some(fields) = desired.as_object_mut() {
        fields.insert("conditions".to_owned(), merged.into());
    }
}

fn type_of(condition: &Value) -> &str {
    condition.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Conditions in the order in which they are carried: those of others as they are, Portway's as desired.
fn conditions(carried: &[Value], desired: Vec<Value>) -> Vec<Value> {
    let mut desired: Vec<Value> =
        desired.into_iter().filter(|condition| is_own_condition(type_of(condition))).collect();
    let mut merged = Vec::with_capacity(carried.len() + desired.len());
    for condition in carried {
        if !is_own_condition(type_of(condition)) {
            merged.push(condition.clone());
        } else if let Some(at) = desired.iter().position(|new| type_of(new) == type_of(condition)) {
            merged.push(desired.remove(at));
        }
    }
    merged.append(&mut desired);
    merged
}

fn listeners(carried: &[Value], desired: Vec<Value>) -> Vec<Value> {
    let with_carried = |mut listener: Value| {
        if let Some(before) = carried.iter().find(|before| before.get("name") == listener.get("name")) {
            merge_conditions(before, &mut listener);
        }
        listener
    };
    desired.into_iter().map(with_carried).collect()
}

/// Whether there are conditions of others in a list of conditions or of listeners.
fn has_foreign_conditions(list: &Value) -> bool {
    let foreign = |condition: &Value| !is_own_condition(type_of(condition));
    list.as_array().into_iter().flatten().any(|item| match item.get("conditions") {
        Some(inner) => inner.as_array().into_iter().flatten().any(foreign),
        None => item.get("type").is_some() && item.get("status").is_some() && foreign(item),
    })
}
