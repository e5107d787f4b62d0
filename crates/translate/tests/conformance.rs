//! The official conformance suite, as far as it can be judged without a network: its manifests, read from its
//! Go module at test time, and for each of its tests the statuses and the routing that it asserts, as the
//! tables in `conformance/` have them.

mod common;
#[path = "../../api/src/validate/tests/go_module.rs"]
mod go_module;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use portway_api::crds;
use portway_api::gateway::{Condition, Gateway, GatewayStatusAddress};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{
    Filter, HostPattern, ListenerProtocol, Plan, Port, Rule, Shards, Share, Target, Transport, TrustAnchors,
};
use portway_store::{Loaded, Resources};
use portway_translate::{
    CONTROLLER_NAME, Fleet, Layout, Machine, Options, Status, Translation, Translator, Trouble,
    TroubleReason, translate,
};
use serde_json::{Value, json};

/// What the suite expects; `gateway.txt` says how to read it.
const EXPECTED: [&str; 6] = [
    include_str!("conformance/gateway.txt"),
    include_str!("conformance/grpcroute.txt"),
    include_str!("conformance/httproute.txt"),
    include_str!("conformance/l4.txt"),
    include_str!("conformance/listenerset.txt"),
    include_str!("conformance/tls.txt"),
];
const NAMESPACE: &str = "gateway-conformance-infra";
const USABLE: &str = "127.0.0.9";
const UNUSABLE: &str = "192.0.2.1";

/// The Secrets that the suite makes by itself.
const SECRETS: [(&str, &str); 6] = [
    ("gateway-conformance-web-backend", "certificate"),
    (NAMESPACE, "tls-validity-checks-certificate"),
    (NAMESPACE, "tls-checks-certificate"),
    (NAMESPACE, "tls-passthrough-checks-certificate"),
    (NAMESPACE, "tls-terminate-checks-certificate"),
    (NAMESPACE, "tls-checks-client-certificate"),
];

/// The ConfigMaps with certificate authorities that the suite makes by itself.
const AUTHORITIES: [(&str, &str); 5] = [
    ("gateway-conformance-web-backend", "web-backend-cm"),
    (NAMESPACE, "tls-validity-checks-ca-certificate"),
    (NAMESPACE, "tls-validity-checks-per-port-ca-certificate"),
    (NAMESPACE, "tls-checks-ca-certificate"),
    (NAMESPACE, "mismatch-ca-certificate"),
];

/// The objects of one test, and what is made of them.
struct Scene {
    documents: Vec<Value>,
    resources: Resources,
    translator: Translator,
    translation: Translation,
    options: Options,
}

impl Scene {
    /// On one machine, or with proxies and an address for each Gateway.
    fn new(documents: Vec<Value>, per_gateway: bool) -> Self {
        let mut options = common::options();
        options.layout = if per_gateway {
            Layout::PerGateway(Shards::default())
        } else {
            // In a cluster every Gateway has its own address.
            let own = |n: u8| [127, 0, 1, n].into();
            Layout::Shared(Machine {
                addresses: vec![[127, 0, 0, 1].into()],
                local_addresses: Some((0..=255).map(own).chain([USABLE.parse().unwrap()]).collect()),
                ..Machine::default()
            })
        };
        let mut scene = Self {
            documents,
            resources: Resources::default(),
            translator: Translator::new(),
            translation: Translation::default(),
            options,
        };
        scene.update();
        scene
    }

    fn update(&mut self) {
        let texts: Vec<_> = self.documents.iter().map(Value::to_string).collect();
        let loaded = Loaded::from_documents("conformance", &texts.join("\n---\n"));
        let errors: Vec<_> = loaded.diagnostics.iter().filter(|found| found.is_error()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        let changes = loaded.resources.changes_since(&self.resources);
        self.resources = loaded.resources;
        if let Layout::PerGateway(fleets) = &mut self.options.layout {
            let gateways = self.resources.all::<Gateway>();
            *fleets = gateways.map(|gateway| (gateway.key.clone(), fleet(gateway))).collect();
        }
        self.translation = self.translator.update(&self.resources, &changes, &self.options);
        assert_eq!(self.translation, translate(&self.resources, &self.options));
    }

    fn create(&mut self, mut document: Value, created: &str) {
        document["metadata"]["creationTimestamp"] = created.into();
        let n = self.documents.len();
        let is_shared = matches!(self.options.layout, Layout::Shared(_));
        if is_shared && document["kind"] == "Gateway" && document["spec"]["addresses"].is_null() {
            document["spec"]["addresses"] = json!([{"value": format!("127.0.1.{n}")}]);
        }
        self.documents.push(document);
    }

    fn gateway(&mut self, name: &str, field: &str) -> &mut Vec<Value> {
        let gateway =
            self.documents.iter_mut().find(|it| it["kind"] == "Gateway" && it["metadata"]["name"] == name);
        gateway.unwrap()["spec"][field].as_array_mut().unwrap()
    }
}

/// What becomes of the addresses that a Gateway asks for.
fn fleet(gateway: &Gateway) -> Fleet {
    let asked = gateway.spec.addresses.iter().enumerate();
    let mut asked = asked.map(|(i, address)| (i, address.value.as_deref().unwrap_or_default()));
    let trouble = asked.find(|(_, value)| *value == UNUSABLE).map(|(i, value)| Trouble {
        reason: TroubleReason::AddressNotUsable,
        message: format!("{value} is in no pool"),
        path: format!("spec.addresses[{i}]"),
    });
    let address = GatewayStatusAddress { value: USABLE.to_owned(), ..GatewayStatusAddress::default() };
    Fleet { addresses: if trouble.is_some() { Vec::new() } else { vec![address] }, trouble }
}

/// Reads a manifest of the suite as the suite does.
fn manifest(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let text = text
        .replace("{GATEWAY_CLASS_NAME}", "portway")
        .replace("PLACEHOLDER_USABLE_ADDRS", USABLE)
        .replace("PLACEHOLDER_UNUSABLE_ADDRS", UNUSABLE);
    let parsed = portway_api::yaml::parse(&path.display().to_string(), text.as_bytes());
    assert_eq!(parsed.diagnostics, [], "{}", path.display());
    parsed.documents.into_iter().map(|document| document.value().clone()).collect()
}

fn setting() -> Vec<Value> {
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "portway"},
        "spec": {"controllerName": CONTROLLER_NAME},
    });
    let names = ["*", "*.org", "*.wildcard.org"].map(str::to_owned);
    let certified = rcgen::generate_simple_self_signed(names).unwrap();
    let secrets = SECRETS.map(|(namespace, name)| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"namespace": namespace, "name": name},
            "stringData": {"tls.crt": certified.cert.pem(), "tls.key": certified.signing_key.serialize_pem()},
        })
    });
    let authorities = AUTHORITIES.map(|(namespace, name)| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name},
            "data": {"ca.crt": certified.cert.pem()},
        })
    });
    [class].into_iter().chain(secrets).chain(authorities).collect()
}

fn key(kind: &str, name: &str) -> ObjectKey {
    let kind = KindId::find("gateway.networking.k8s.io", kind).or(KindId::find("", kind)).unwrap();
    let (namespace, name) = name.split_once('/').unwrap_or((NAMESPACE, name));
    ObjectKey::new(kind, namespace, name)
}

/// What of the `wanted` conditions, `TYPE=STATUS[/REASON]`, is not so.
fn unmet<'w>(wanted: impl Iterator<Item = &'w str>, found: &[Condition]) -> Vec<String> {
    let missing = wanted.filter(|wanted| {
        !found.iter().any(|found| {
            let short = format!("{}={}", found.type_, found.status);
            **wanted == short || **wanted == format!("{short}/{}", found.reason)
        })
    });
    missing.map(str::to_owned).collect()
}

fn listener_or_whole(scene: &Scene, words: &[&str]) -> Result<(), String> {
    let status = scene.translation.statuses.get(&key(words[0], words[1])).ok_or("it has no status")?;
    let rest = &words[2..];
    let (mut wanted, listener) = match rest.first() {
        Some(name) if !name.contains('=') => {
            let found = status.listeners().iter().find(|listener| listener.name == **name);
            (rest[1..].to_vec(), Some(found.ok_or("there is no such listener in its status")?))
        }
        _ => (rest.to_vec(), None),
    };
    let conditions = listener.map_or(status.conditions(), |listener| &listener.conditions);
    let mut faults = Vec::new();
    wanted.retain(|word| {
        let Some((name @ ("routes" | "sets" | "kinds"), value)) = word.split_once('=') else { return true };
        let right = match (name, listener, &**status) {
            ("routes", Some(listener), _) => listener.attached_routes.to_string() == value,
            ("sets", None, Status::Gateway(gateway)) => {
                gateway.attached_listener_sets.unwrap_or(0).to_string() == value
            }
            // More kinds may be supported than the test knows.
            ("kinds", Some(listener), _) if value.is_empty() => listener.supported_kinds.is_empty(),
            ("kinds", Some(listener), _) => listener.supported_kinds.iter().any(|kind| kind.kind == value),
            _ => false,
        };
        if !right {
            faults.push((*word).to_owned());
        }
        false
    });
    faults.extend(unmet(wanted.into_iter(), conditions));
    if faults.is_empty() { Ok(()) } else { Err(format!("not {}: {status:?}", faults.join(" "))) }
}

fn route(scene: &Scene, words: &[&str]) -> Result<(), String> {
    let own = key(words[0], words[1]);
    let status = scene.translation.statuses.get(&own).ok_or("it has no status")?;
    let (kind, name) = words[3].split_once('/').unwrap_or(("Gateway", words[3]));
    let parents = &status.route().unwrap().parents;
    let mut parents = parents.iter().filter(|parent| {
        parent.parent_ref.name == name && parent.parent_ref.kind.as_deref().unwrap_or("Gateway") == kind
    });
    let parent = parents.next().ok_or("its status does not have the parent")?;
    let faults = unmet(words[4..].iter().copied(), &parent.conditions);
    if faults.is_empty() { Ok(()) } else { Err(format!("not {}: {:?}", faults.join(" "), parent.conditions)) }
}

fn policy(scene: &Scene, words: &[&str]) -> Result<(), String> {
    let status = scene.translation.statuses.get(&key(words[0], words[1])).ok_or("it has no status")?;
    let ancestors = &status.policy().unwrap().ancestors;
    let mut ancestors = ancestors.iter().filter(|ancestor| ancestor.ancestor_ref.name == words[3]);
    let ancestor = ancestors.next().ok_or("its status does not have the ancestor")?;
    let faults = unmet(words[4..].iter().copied(), &ancestor.conditions);
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("not {}: {:?}", faults.join(" "), ancestor.conditions))
    }
}

/// What becomes of a request, by the plan: the status that Portway answers with, or the backends that it may
/// be sent to.
fn outcome(scene: &Scene, words: &[&str]) -> String {
    let (method, gateway) = (words[0], words[1]);
    let (gateway, port) = gateway.split_once(':').unwrap_or((gateway, "80"));
    let status = scene.translation.statuses.get(&key("Gateway", gateway)).unwrap();
    let Status::Gateway(status) = &**status else { unreachable!() };
    let address = status.addresses[0].value.parse().unwrap();
    let (plan, address) = match scene.translation.plans.get(&key("Gateway", gateway)) {
        Some(plan) => (plan, None),
        None => (&scene.translation.plan, Some(address)),
    };
    if let "TLS" | "TCP" | "UDP" = method {
        let transport = if method == "UDP" { Transport::Udp } else { Transport::Tcp };
        let socket = (address, port.parse().unwrap(), transport);
        return connection(plan, socket, words.get(2).copied());
    }
    let (host, target) = (words[2], words[3]);
    let headers: Vec<_> = words[4..].iter().filter_map(|word| word.split_once('=')).collect();
    match find(plan, (address, port.parse().unwrap()), method, host, target, &headers) {
        None => "404".to_owned(),
        Some(rule) => answer(plan, rule),
    }
}

fn find<'p>(
    plan: &'p Plan,
    (address, port): (Option<IpAddr>, u16),
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Option<&'p Rule> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: Vec<_> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let port = plan.ports.iter().find(|it| it.address == address && it.port == port)?;
    let listener = port.listeners.iter().find(|it| it.hostname.matches(host))?;
    let hosts = listener.hosts.iter().filter(|it| it.hostname.matches(host));
    let mut entries = hosts.flat_map(|host| &host.entries);
    entries.find(|entry| common::takes(entry, method, path, headers, &query)).map(|entry| &*entry.rule)
}

/// Where a connection goes, by the plan: `rejected`, or the backends and, for TLS, whether it ends here.
fn connection(plan: &Plan, socket: (Option<IpAddr>, u16, Transport), server_name: Option<&str>) -> String {
    let matches = |pattern: &HostPattern| match server_name {
        Some(name) => pattern.matches(name),
        None => *pattern == HostPattern::Any,
    };
    let (address, number, transport) = socket;
    let is_it = |port: &Port| (port.address, port.port, port.transport) == (address, number, transport);
    let forward = plan.ports.iter().find(|port| is_it(port)).and_then(|port| {
        let listener = port.listeners.iter().find(|listener| matches(&listener.hostname))?;
        Some((listener, listener.forwards.iter().find(|forward| matches(&forward.hostname))?))
    });
    let Some((listener, forward)) = forward else { return "rejected".to_owned() };
    let found = shares(plan, &forward.rule.backends, "rejected");
    match listener.protocol {
        ListenerProtocol::Tls(_) => format!("{found} terminated"),
        _ => found,
    }
}

fn answer(plan: &Plan, rule: &Rule) -> String {
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect.status.to_string()),
        Filter::Broken { .. } => Some("500".to_owned()),
        _ => None,
    });
    if let Some(status) = redirect {
        return status;
    }
    shares(plan, &rule.backends, "500")
}

/// The backends with their weights; `invalid` for those that are not, 502 for those whom nobody may trust.
fn shares(plan: &Plan, shares: &[Share], invalid: &str) -> String {
    let shares: Vec<_> = shares.iter().filter(|share| share.weight > 0).collect();
    let mut out = String::new();
    for share in &shares {
        let name = match &share.target {
            Target::Backend(key) => match plan.backends.get(key).and_then(|backend| backend.tls.as_deref()) {
                None => key.object.name.to_string(),
                Some(tls) if tls.trust == TrustAnchors::Of(Vec::new()) => "502".to_owned(),
                Some(tls) => format!("{} over-tls-to-{}", key.object.name, tls.server_name),
            },
            Target::Invalid(_) => invalid.to_owned(),
        };
        match shares.len() {
            1 => out.push_str(&name),
            _ => write!(out, "{}{name}*{}", if out.is_empty() { "" } else { " " }, share.weight).unwrap(),
        }
    }
    if out.is_empty() { invalid.to_owned() } else { out }
}

/// Does what a line of the table says: changes the scene, or compares.
fn step(scene: &mut Scene, line: &str) -> Result<(), String> {
    if line.starts_with('{') {
        scene.create(serde_json::from_str(line).unwrap(), "2026-01-01T00:00:01Z");
        scene.update();
        return Ok(());
    }
    let words: Vec<&str> = line.split(' ').collect();
    match words[0] {
        "Gateway" | "ListenerSet" => return listener_or_whole(scene, &words),
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute" => return route(scene, &words),
        "BackendTLSPolicy" => return policy(scene, &words),
        "parents" => {
            let status =
                scene.translation.statuses.get(&key(words[1], words[2])).ok_or("it has no status")?;
            let count = status.route().unwrap().parents.len();
            return if count.to_string() == words[3] { Ok(()) } else { Err(format!("there are {count}")) };
        }
        "delete" => {
            let key = key(words[1], words[2]);
            scene.documents.retain(|document| {
                let metadata = &document["metadata"];
                document["kind"] != words[1]
                    || metadata["name"] != *key.name
                    || metadata["namespace"] != *key.namespace
            });
        }
        "listeners" if words[2] == "+" => {
            let listener = line.split_once(" + ").unwrap().1;
            scene.gateway(words[1], "listeners").push(serde_json::from_str(listener).unwrap());
        }
        "listeners" => scene.gateway(words[1], "listeners").retain(|listener| listener["name"] != words[3]),
        "addresses" => {
            let value = line.split_once(" - ").unwrap().1;
            scene.gateway(words[1], "addresses").retain(|address| address["value"] != value);
        }
        _ => {
            let (request, wanted) = line.split_once(" => ").ok_or("no such step")?;
            let request: Vec<_> = request.split(' ').collect();
            let found = outcome(scene, &request);
            // 200: whatever backend answers.
            let answered = wanted == "200" && found.parse::<u16>().is_err();
            return if found == wanted || answered { Ok(()) } else { Err(format!("is {found}")) };
        }
    }
    scene.update();
    Ok(())
}

fn suite() -> PathBuf {
    go_module::folder(&format!("sigs.k8s.io/gateway-api/conformance@{}", crds::VERSION))
}

fn unlike_the_suite(per_gateway: bool) -> Vec<String> {
    let suite = suite();
    let setting: Vec<Value> =
        setting().into_iter().chain(manifest(&suite.join("base/manifests.yaml"))).collect();
    let mut failed = Vec::new();
    let blocks = EXPECTED.iter().flat_map(|table| table.split("\n\n")).filter(|block| block.starts_with('['));
    for block in blocks {
        let (head, steps) = block.split_once('\n').unwrap();
        let (tests, manifests) = head[1..].split_once("] ").unwrap();
        let mut scene = Scene::new(Vec::new(), per_gateway);
        let own = manifests.split(' ').flat_map(|name| manifest(&suite.join(format!("tests/{name}.yaml"))));
        for document in setting.iter().cloned().chain(own) {
            scene.create(document, "2026-01-01T00:00:00Z");
        }
        scene.update();
        for line in steps.lines() {
            if let Err(why) = step(&mut scene, line) {
                failed.push(format!("{tests}: {line}\n    {why}"));
            }
        }
    }
    failed
}

#[test]
fn statuses_and_routing_on_one_machine_are_what_the_official_suite_asserts() {
    let failed = unlike_the_suite(false);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn statuses_and_routing_with_proxies_per_gateway_are_what_the_official_suite_asserts() {
    let failed = unlike_the_suite(true);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Its only assertion is that `observedGeneration` follows; other tests see to that.
const LEFT_OUT: &str = "GatewayClassObservedGenerationBump";

#[test]
fn every_test_of_the_features_that_portway_claims_is_in_the_table() {
    let scene = Scene::new(setting(), true);
    let class = scene.translation.statuses.get(&ObjectKey::new(KindId::GatewayClass, "", "portway")).unwrap();
    let Status::GatewayClass(class) = &**class else { unreachable!() };
    let claimed: BTreeSet<_> = class.supported_features.iter().map(|feature| feature.name.clone()).collect();
    let known: BTreeSet<&str> = EXPECTED
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| line.strip_prefix('[')?.split_once(']'))
        .flat_map(|(names, _)| names.split(' '))
        .chain([LEFT_OUT])
        .collect();
    let mut count = 0;
    for file in fs::read_dir(suite().join("tests")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "go") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for test in text.split("ShortName:").skip(1) {
            let name = test.split('"').nth(1).unwrap();
            let wanted: BTreeSet<_> = test
                .split("features.Support")
                .skip(1)
                .map(|feature| feature.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned())
                .collect();
            if wanted.is_subset(&claimed) {
                count += 1;
                assert!(known.contains(name), "{name}");
            }
        }
    }
    assert!(count > 80, "{count}");
}
