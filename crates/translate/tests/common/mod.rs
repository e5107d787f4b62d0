//! What the tests of this crate share: goldens' inputs, and a readable form of translations.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use portway_api::gateway::{Condition, GatewayStatusAddress, ListenerStatus};
use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::{Entry, ObjectRef, PathMatch, Plan, Regex, Source, StringMatch, Transport};
use portway_store::{AnyObject, Loaded, Resources};
use portway_translate::{Crds, Fleet, Layout, Machine, Options, Status, Translation, Trouble, TroubleReason};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// The line between a golden's input and what is expected of it.
pub(crate) const MARK: &str = "# --- expected\n";

/// A fixed moment: 2026-11-23T00:00:00Z.
pub(crate) fn options() -> Options {
    Options::new(Time(OffsetDateTime::from_unix_timestamp(1_795_392_000).unwrap()))
}

/// All goldens, by path.
pub(crate) fn goldens() -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/translate");
    let mut found = Vec::new();
    for feature in std::fs::read_dir(&root).unwrap() {
        for case in std::fs::read_dir(feature.unwrap().path()).unwrap() {
            let path = case.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// The input of a golden.
pub(crate) fn input(text: &str) -> &str {
    text.split(MARK).next().unwrap()
}

/// Options that a golden sets in lines `# option NAME: VALUE`.
pub(crate) fn options_of(text: &str) -> Options {
    let mut options = options();
    let mut machine = Machine::default();
    let mut fleets = BTreeMap::new();
    let mut per_gateway = false;
    let settings = text.lines().filter_map(|line| line.strip_prefix("# option ")?.split_once(": "));
    for (name, value) in settings {
        match name {
            "addresses" => machine.addresses = value.split(' ').map(|ip| ip.parse().unwrap()).collect(),
            "localAddresses" => {
                machine.local_addresses = Some(value.split(' ').map(|ip| ip.parse().unwrap()).collect());
            }
            "unavailable" => {
                let (port, why) = value.split_once(' ').unwrap();
                let (port, transport) = match port.strip_suffix("/UDP") {
                    Some(port) => (port, Transport::Udp),
                    None => (port, Transport::Tcp),
                };
                machine.unavailable.insert((None, port.parse().unwrap(), transport), why.to_owned());
            }
            "failed" => {
                let (listener, why) = value.split_once("): ").unwrap();
                let (place, section) = listener.split_once(" (").unwrap();
                let [kind, key, path] = place.split(' ').collect::<Vec<_>>()[..] else { panic!("{place}") };
                let (namespace, name) = key.split_once('/').unwrap();
                let object = ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() };
                let source =
                    Source { object: object.into(), path: path.into(), section: Some(section.into()) };
                machine.failed.insert(source, why.to_owned());
            }
            // `infra/g 10.0.0.1`: its Service has this address. `infra/g Reason path: message`: it has a fault.
            "fleet" => {
                let (gateway, rest) = value.split_once(' ').unwrap();
                let (namespace, name) = gateway.split_once('/').unwrap();
                fleets.insert(ObjectKey::new(KindId::Gateway, namespace, name), fleet(rest));
            }
            // Proxies per Gateway, whether anything is known of them or not.
            "layout" => per_gateway = value == "PerGateway",
            "crds" => {
                let (bundle_version, channel) = value.split_once(' ').unwrap();
                let (bundle_version, channel) = (bundle_version.to_owned(), channel.to_owned());
                options.crds = Some(Crds { bundle_version, channel });
            }
            "unvalidated" => {}
            other => panic!("no option {other}"),
        }
    }
    options.layout = if per_gateway { Layout::PerGateway(fleets.into()) } else { Layout::Shared(machine) };
    options
}

fn fleet(text: &str) -> Fleet {
    let Some((reason, rest)) = text.split_once(' ') else {
        let address = GatewayStatusAddress {
            routability: None,
            type_: Some("IPAddress".to_owned()),
            value: text.to_owned(),
        };
        return Fleet { addresses: vec![address], trouble: None };
    };
    let reasons = [
        TroubleReason::UnsupportedAddress,
        TroubleReason::InvalidParameters,
        TroubleReason::AddressNotAssigned,
        TroubleReason::AddressNotUsable,
        TroubleReason::NoResources,
        TroubleReason::Invalid,
    ];
    let reason = reasons.into_iter().find(|known| known.as_str() == reason).unwrap();
    let (path, message) = rest.split_once(": ").unwrap_or(("", rest));
    let trouble = Trouble { reason, path: path.to_owned(), message: message.to_owned() };
    Fleet { addresses: Vec::new(), trouble: Some(trouble) }
}

/// Reads documents; all of them must be valid, unless they say `# option unvalidated: yes`.
pub(crate) fn resources(name: &str, text: &str) -> Resources {
    if text.contains("# option unvalidated: yes") {
        return unvalidated(text);
    }
    let loaded = Loaded::from_documents(name, text);
    let errors: Vec<_> = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    loaded.resources
}

fn unvalidated(text: &str) -> Resources {
    let mut resources = Resources::default();
    for document in text.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(document).unwrap();
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = KindId::find(group, text("kind")).unwrap();
        resources.insert(AnyObject::read(kind, value, None, |_| {}).unwrap());
    }
    resources
}

/// Whether an entry of a plan matches a request, read naively.
pub(crate) fn takes(
    entry: &Entry,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    query: &[(&str, &str)],
) -> bool {
    let whole = |regex: &Regex, text: &str| regex::Regex::new(&regex.anchored()).unwrap().is_match(text);
    let is = |wanted: &StringMatch, value: &str| match wanted {
        StringMatch::Exact(exact) => **exact == *value,
        StringMatch::Regex(regex) => whole(regex, value),
    };
    let path = match &entry.path {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => whole(regex, path),
    };
    path && entry.method.as_deref().is_none_or(|wanted| wanted == method)
        && entry.headers.iter().all(|wanted| {
            let mut named = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&wanted.name));
            named.any(|(_, value)| is(&wanted.value, value))
        })
        && entry.query.iter().all(|wanted| {
            let mut named = query.iter().filter(|(name, _)| *name == &*wanted.name);
            named.any(|(_, value)| is(&wanted.value, value))
        })
}

/// A translation as people like to read it.
pub(crate) fn readable(translation: &Translation) -> String {
    let plans: Map<String, Value> =
        translation.plans.iter().map(|(gateway, plan)| (gateway.to_string(), readable_plan(plan))).collect();
    let statuses: Map<String, Value> =
        translation.statuses.iter().map(|(key, status)| (key.to_string(), readable_status(status))).collect();
    let mut problems = Map::new();
    for (key, problem) in translation.problems.iter() {
        let line = format!("{}: {}: {}", problem.path, problem.reason, problem.message);
        let list = problems.entry(key.to_string()).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(line.into());
    }
    let mut all = json!({
        "plan": readable_plan(&translation.plan),
        "plans": plans,
        "statuses": statuses,
        "problems": problems,
    });
    compact(&mut all);
    serde_saphyr::to_string(&all).unwrap()
}

fn readable_plan(plan: &Plan) -> Value {
    let mut plan = serde_json::to_value(plan).unwrap();
    if let Some(certificates) = plan["certificates"].as_object_mut() {
        for certificate in certificates.values_mut() {
            // The bytes of certificates tell nobody anything.
            certificate.as_object_mut().unwrap().retain(|key, _| key == "names" || key == "notAfter");
        }
    }
    if let Some(trust) = plan["trust"].as_object_mut() {
        for bundle in trust.values_mut() {
            let count = bundle["certificates"].as_array().map_or(0, Vec::len);
            *bundle = json!({"certificates": count});
        }
    }
    plan
}

fn readable_status(status: &Status) -> Value {
    let mut out = serde_json::to_value(status).unwrap();
    let listeners = |list: &[ListenerStatus]| -> Value {
        list.iter()
            .map(|listener| {
                json!({
                    "name": listener.name,
                    "attachedRoutes": listener.attached_routes,
                    "supportedKinds": listener.supported_kinds.iter().map(|kind| &kind.kind).collect::<Vec<_>>(),
                    "conditions": conditions(&listener.conditions),
                })
            })
            .collect()
    };
    match status {
        Status::GatewayClass(status) => {
            out["supportedFeatures"] = status.supported_features.len().into();
            out["conditions"] = conditions(&status.conditions);
        }
        Status::Gateway(_) | Status::ListenerSet(_) => {
            out["conditions"] = conditions(status.conditions());
            out["listeners"] = listeners(status.listeners());
        }
        Status::Policy(status) => {
            let ancestors = status.ancestors.iter().map(|ancestor| {
                let mut reference = serde_json::to_value(&ancestor.ancestor_ref).unwrap();
                reference.as_object_mut().unwrap().retain(|key, _| key != "group");
                json!({
                    "ancestorRef": reference,
                    "controllerName": ancestor.controller_name,
                    "conditions": conditions(&ancestor.conditions),
                })
            });
            out["ancestors"] = ancestors.collect();
        }
        Status::XBackend(status) => {
            let ancestors = status.ancestors.iter().map(|ancestor| {
                let mut reference = serde_json::to_value(&ancestor.ancestor_ref).unwrap();
                reference.as_object_mut().unwrap().retain(|key, _| key != "group");
                json!({
                    "ancestorRef": reference,
                    "controllerName": ancestor.controller_name,
                    "conditions": conditions(&ancestor.conditions),
                })
            });
            out["ancestors"] = ancestors.collect();
        }
        Status::Route(status) => {
            let parents = status.parents.iter().map(|parent| {
                let mut reference = serde_json::to_value(&parent.parent_ref).unwrap();
                reference.as_object_mut().unwrap().retain(|key, _| key != "group");
                json!({
                    "parentRef": reference,
                    "controllerName": parent.controller_name,
                    "conditions": conditions(&parent.conditions),
                })
            });
            out["parents"] = parents.collect();
        }
    }
    out
}

fn conditions(list: &[Condition]) -> Value {
    list.iter()
        .map(|condition| {
            let Condition { type_, status, reason, message, observed_generation, .. } = condition;
            let generation = observed_generation.unwrap_or_default();
            Value::from(format!("{type_}={status} {reason} (generation {generation}): {message}"))
        })
        .collect()
}

/// Drops what is empty, and writes sources on one line.
fn compact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let (Some(object), Some(path), true) = (map.get("object"), map.get("path"), map.len() == 3) {
                let section = map.get("section").and_then(Value::as_str);
                let section = section.map(|name| format!(" ({name})")).unwrap_or_default();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                *value = format!(
                    "{} {}/{} {}{section}",
                    text(&object["kind"]),
                    text(&object["namespace"]),
                    text(&object["name"]),
                    text(path)
                )
                .into();
                return;
            }
            map.values_mut().for_each(compact);
            map.retain(|_, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(compact),
        _ => {}
    }
}
