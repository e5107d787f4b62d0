//! A translator that follows edits, in any order and of any kind, says what a translation from scratch says.

mod common;

use portway_api::gateway::GatewayStatusAddress;
use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Change, Changes, Resources};
use portway_translate::{Fleet, Layout, Machine, Options, Translator, Trouble, TroubleReason, translate};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Small random choices from one number, so that equal seeds make equal objects.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn of<'v>(&mut self, values: &[&'v str]) -> &'v str {
        values[self.roll(values.len())]
    }

    fn some(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> Value) -> Value {
        (0..self.roll(most + 1)).map(|_| make(self)).collect()
    }
}

const HOSTS: &[&str] =
    &["a.example.com", "*.example.com", "b.example.com", "*.a.example.com", "example.net", "-bad-"];
const NAMESPACES: &[&str] = &["infra", "one", "two"];

fn metadata(dice: &mut Dice, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({"namespace": namespace, "name": name, "generation": dice.roll(3)});
    match dice.roll(3) {
        0 => {}
        age => metadata["creationTimestamp"] = json!(format!("2026-01-0{age}T00:00:00Z")),
    }
    metadata
}

fn listener(dice: &mut Dice, nth: usize) -> Value {
    let mut listener = json!({
        "name": format!("l{nth}"),
        "port": ([80, 81, 443, 444, 445, 446, 0][dice.roll(7)]),
        "protocol": dice.of(&["HTTP", "HTTP", "HTTPS", "TLS", "TLS", "TCP", "UDP", "x.example/y"]),
    });
    if dice.roll(2) == 0 {
        listener["hostname"] = json!(dice.of(HOSTS));
    }
    if matches!(listener["protocol"].as_str(), Some("HTTPS" | "TLS")) {
        listener["tls"] = json!({"certificateRefs": dice.some(2, |dice| json!({
            "name": dice.of(&["cert", "cert", "missing"]), "namespace": dice.of(NAMESPACES),
        }))});
        if dice.roll(3) == 0 {
            listener["tls"]["mode"] = json!("Passthrough");
        }
    }
    if dice.roll(4) == 0 {
        listener["filters"] = json!({"requests": dice.some(2, external_auth)});
    }
    match dice.roll(4) {
        0 => {}
        1 => listener["allowedRoutes"] = json!({"namespaces": {"from": "All"}}),
        2 => {
            listener["allowedRoutes"] = json!({"namespaces": {"from": "All"}, "kinds": [{"kind": dice.of(&["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "Other"])}]})
        }
        _ => {
            let selector = json!({"matchLabels": {"team": dice.of(&["a", "b"])}});
            listener["allowedRoutes"] = json!({"namespaces": {"from": "Selector", "selector": selector}});
        }
    }
    listener
}

fn listeners(dice: &mut Dice) -> Value {
    (0..=dice.roll(3)).map(|nth| listener(dice, nth)).collect()
}

fn backend(dice: &mut Dice) -> Value {
    if dice.roll(5) == 0 {
        let group = "gateway.networking.x-k8s.io";
        return json!({"group": group, "kind": "XBackend", "name": "x", "namespace": dice.of(&["one", "two"])});
    }
    json!({
        "name": dice.of(&["s", "s", "t", "missing"]),
        "namespace": dice.of(&["one", "one", "two", "infra"]),
        "port": ([8080, 8080, 9090][dice.roll(3)]),
        "weight": dice.roll(3),
    })
}

fn external_auth(dice: &mut Dice) -> Value {
    let size = [0, 10, 1 << 30][dice.roll(3)];
    let settings = json!({"protocol": "HTTP", "http": {}, "backendRef": backend(dice), "forwardBody": {"maxSize": size}});
    json!({"type": "ExternalAuth", "externalAuth": settings})
}

fn parents(dice: &mut Dice) -> Value {
    (0..=dice.roll(2))
        .map(|_| {
            let mut parent = match dice.roll(4) {
                0 => json!({"kind": "ListenerSet", "name": dice.of(&["x", "y"]), "namespace": dice.of(&["infra", "one"])}),
                _ => json!({"name": dice.of(&["g", "h", "missing"]), "namespace": "infra"}),
            };
            if dice.roll(3) == 0 {
                parent["sectionName"] = json!(dice.of(&["l0", "l1"]));
            }
            parent
        })
        .collect()
}

fn header(dice: &mut Dice) -> Value {
    json!({"name": dice.of(&["x", "y"]), "value": dice.of(&["1", "("]), "type": dice.of(&["Exact", "Exact", "RegularExpression"])})
}

fn http_rule(dice: &mut Dice) -> Value {
    let matched = |dice: &mut Dice| {
        json!({
            "path": {"type": dice.of(&["Exact", "PathPrefix", "RegularExpression"]), "value": dice.of(&["/", "/a", "/a/b", "/("])},
            "headers": dice.some(2, header),
        })
    };
    json!({
        "matches": dice.some(2, matched),
        "backendRefs": dice.some(2, backend),
        "filters": dice.some(1, |dice| match dice.roll(4) {
            3 => external_auth(dice),
            0 => json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend(dice)}}),
            1 => json!({"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}}),
            _ => json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}),
        }),
    })
}

/// The objects that edits come and go with: kind, namespace, name.
const SLOTS: &[(KindId, &str, &str)] = &[
    (KindId::GatewayClass, "", "portway"),
    (KindId::Gateway, "infra", "g"),
    (KindId::Gateway, "infra", "h"),
    (KindId::ListenerSet, "infra", "x"),
    (KindId::ListenerSet, "one", "y"),
    (KindId::HTTPRoute, "one", "a"),
    (KindId::HTTPRoute, "one", "b"),
    (KindId::HTTPRoute, "two", "c"),
    (KindId::HTTPRoute, "infra", "d"),
    (KindId::GRPCRoute, "one", "a"),
    (KindId::GRPCRoute, "infra", "e"),
    (KindId::TLSRoute, "infra", "f"),
    (KindId::TLSRoute, "one", "f"),
    (KindId::TCPRoute, "infra", "f"),
    (KindId::TCPRoute, "one", "f"),
    (KindId::UDPRoute, "infra", "f"),
    (KindId::UDPRoute, "one", "f"),
    (KindId::XBackend, "one", "x"),
    (KindId::Pod, "one", "p"),
    (KindId::Pod, "one", "q"),
    (KindId::Service, "one", "s"),
    (KindId::Service, "two", "s"),
    (KindId::Service, "infra", "t"),
    (KindId::EndpointSlice, "one", "s-1"),
    (KindId::EndpointSlice, "one", "s-2"),
    (KindId::ReferenceGrant, "one", "g"),
    (KindId::ReferenceGrant, "two", "g"),
    (KindId::Namespace, "", "one"),
    (KindId::Secret, "infra", "cert"),
    (KindId::Secret, "one", "cert"),
    (KindId::ConfigMap, "one", "ca"),
    (KindId::ConfigMap, "infra", "ca"),
    (KindId::ClusterTrustBundle, "", "ca"),
    (KindId::BackendTLSPolicy, "one", "p"),
    (KindId::BackendTLSPolicy, "one", "q"),
    (KindId::BackendTLSPolicy, "one", "r"),
    (KindId::BackendTLSPolicy, "infra", "p"),
];

/// A reference to certificate authorities.
fn authority(dice: &mut Dice) -> Value {
    match dice.roll(6) {
        0 => json!({"group": "certificates.k8s.io", "kind": "ClusterTrustBundle", "name": "ca"}),
        1 => json!({"group": "", "kind": "Secret", "name": "cert"}),
        2 => json!({"group": "", "kind": "Service", "name": "s"}),
        _ => json!({"group": "", "kind": "ConfigMap", "name": dice.of(&["ca", "ca", "missing"])}),
    }
}

/// What a Gateway says about certificates of clients, and of itself to backends.
fn gateway_tls(dice: &mut Dice) -> Value {
    fn validation(dice: &mut Dice) -> Value {
        let mut references: Vec<Value> = (0..=dice.roll(2)).map(|_| authority(dice)).collect();
        if dice.roll(2) == 0 {
            references[0] = json!({"group": "", "kind": "ConfigMap", "name": "ca", "namespace": "one"});
        }
        json!({"validation": {
            "caCertificateRefs": references,
            "mode": dice.of(&["AllowValidOnly", "AllowInsecureFallback"]),
        }})
    }
    let mut tls = json!({});
    if dice.roll(3) == 0 {
        tls["backend"] = json!({"clientCertificateRef": {"name": "cert", "namespace": dice.of(NAMESPACES)}});
    }
    if dice.roll(3) == 0 {
        let default = if dice.roll(2) == 0 { json!({}) } else { validation(dice) };
        tls["frontend"] = json!({
            "default": default,
            "perPort": dice.some(1, |dice| json!({"port": 443, "tls": validation(dice)})),
        });
    }
    tls
}

fn object(kind: KindId, namespace: &str, name: &str, seed: u32, pair: &(String, String)) -> AnyObject {
    let mut dice = Dice(u64::from(seed));
    let dice = &mut dice;
    let metadata = metadata(dice, namespace, name);
    let value = match kind {
        KindId::GatewayClass => json!({"metadata": metadata, "spec": {
            "controllerName": if dice.roll(8) == 0 { "example.com/other" } else { "portway.dev/gateway-controller" },
        }}),
        KindId::Gateway => json!({"metadata": metadata, "spec": {
            "gatewayClassName": if dice.roll(8) == 0 { "other" } else { "portway" },
            "addresses": dice.some(1, |dice| json!({"type": "IPAddress", "value": dice.of(&["127.0.0.1", "127.0.0.1", "10.9.9.9"])})),
            "allowedListeners": {"namespaces": {"from": dice.of(&["All", "Same", "None"])}},
            "listeners": listeners(dice),
            "tls": gateway_tls(dice),
        }}),
        KindId::ListenerSet => json!({"metadata": metadata, "spec": {
            "parentRef": {"name": dice.of(&["g", "h", "missing"]), "namespace": "infra"},
            "listeners": listeners(dice),
        }}),
        KindId::HTTPRoute => json!({"metadata": metadata, "spec": {
            "parentRefs": parents(dice),
            "hostnames": dice.some(2, |dice| json!(dice.of(HOSTS))),
            "rules": dice.some(3, http_rule),
        }}),
        KindId::GRPCRoute => json!({"metadata": metadata, "spec": {
            "parentRefs": parents(dice),
            "hostnames": dice.some(2, |dice| json!(dice.of(HOSTS))),
            "rules": dice.some(2, |dice| json!({
                "matches": dice.some(2, |dice| json!({"method": {"service": dice.of(&["a", "b"]), "method": dice.of(&["", "m"])}})),
                "backendRefs": dice.some(2, backend),
            })),
        }}),
        KindId::TLSRoute => json!({"metadata": metadata, "spec": {
            "parentRefs": parents(dice),
            "hostnames": [dice.of(HOSTS)],
            "rules": [{"backendRefs": [backend(dice)]}],
        }}),
        KindId::TCPRoute | KindId::UDPRoute => json!({"metadata": metadata, "spec": {
            "parentRefs": parents(dice),
            "rules": [{"backendRefs": [backend(dice), backend(dice)]}],
        }}),
        KindId::XBackend => {
            let mut spec = json!({
                "type": "EndpointSelector",
                "endpointSelector": {"matchLabels": {"app": dice.of(&["a", "b"])}},
                "port": {"number": ([80, 81, 0][dice.roll(3)])},
                "protocol": dice.of(&["HTTP", "H2C", "TCP"]),
            });
            if dice.roll(2) == 0 {
                let reference =
                    json!({"group": "", "kind": "ConfigMap", "name": dice.of(&["ca", "missing"])});
                let validation = json!({"hostname": "x.example.com", "caCertificateRefs": [reference]});
                spec["tls"] = json!({"mode": "ServerOnly", "validation": validation});
                if dice.roll(2) == 0 {
                    let certificate =
                        json!({"name": dice.of(&["cert", "missing"]), "namespace": dice.of(NAMESPACES)});
                    spec["tls"]["mode"] = json!("ClientAndServer");
                    spec["tls"]["clientCertificateRef"] = certificate;
                }
            }
            json!({"metadata": metadata, "spec": spec})
        }
        KindId::Pod => {
            let mut metadata = metadata;
            metadata["labels"] = json!({"app": dice.of(&["a", "b"])});
            json!({"metadata": metadata, "status": {
                "podIP": dice.of(&["10.1.0.1", "10.1.0.2", ""]),
                "conditions": [{"type": "Ready", "status": dice.of(&["True", "True", "False"])}],
            }})
        }
        KindId::Service => json!({"metadata": metadata, "spec": {"ports": [
            {"port": 8080, "name": "web", "appProtocol": dice.of(&["http", "kubernetes.io/h2c", "https", "", ""])},
            {"port": ([8080, 9090][dice.roll(2)]), "name": "datagrams", "protocol": "UDP"},
        ]}}),
        KindId::EndpointSlice => {
            let mut metadata = metadata;
            metadata["labels"] = json!({"kubernetes.io/service-name": dice.of(&["s", "s", "t"])});
            json!({
                "metadata": metadata,
                "addressType": "IPv4",
                "ports": [
                    {"name": dice.of(&["web", "web", "other"]), "port": 80},
                    {"name": "datagrams", "port": 81, "protocol": "UDP"},
                ],
                "endpoints": dice.some(3, |dice| json!({
                    "addresses": [format!("10.0.0.{}", dice.roll(4))],
                    "conditions": {"ready": dice.roll(2) == 0, "serving": dice.roll(2) == 0, "terminating": dice.roll(2) == 0},
                })),
            })
        }
        KindId::ReferenceGrant => json!({"metadata": metadata, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": dice.of(&["HTTPRoute", "GRPCRoute", "TCPRoute", "UDPRoute", "Gateway"]), "namespace": dice.of(NAMESPACES)}],
            "to": [
                {"group": "", "kind": dice.of(&["Service", "Secret", "ConfigMap"])},
                {"group": "gateway.networking.x-k8s.io", "kind": "XBackend"},
            ],
        }}),
        KindId::Namespace => {
            let mut metadata = metadata;
            metadata["labels"] = json!({"team": dice.of(&["a", "b"])});
            json!({"metadata": metadata})
        }
        KindId::Secret => {
            let (chain, key) = pair;
            let key = if dice.roll(3) == 0 { "garbage" } else { key };
            json!({"metadata": metadata, "type": "kubernetes.io/tls", "stringData": {"tls.crt": chain, "tls.key": key, "ca.crt": chain}})
        }
        KindId::ConfigMap => {
            let ca = if dice.roll(4) == 0 { "garbage" } else { &pair.0 };
            json!({"metadata": metadata, "data": {dice.of(&["ca.crt", "ca.crt", "other"]): ca}})
        }
        KindId::ClusterTrustBundle => {
            let ca = if dice.roll(4) == 0 { "garbage" } else { &pair.0 };
            json!({"metadata": metadata, "spec": {"trustBundle": ca}})
        }
        KindId::BackendTLSPolicy => {
            let target = |dice: &mut Dice| {
                json!({
                    "group": "", "kind": dice.of(&["Service", "Service", "Service", "Other"]),
                    "name": dice.of(&["s", "s", "t"]), "sectionName": dice.of(&["", "", "web", "missing"]),
                })
            };
            let mut validation = json!({"hostname": dice.of(&["x", "x.example.com", "-bad-"])});
            match dice.roll(4) {
                0 => validation["wellKnownCACertificates"] = json!(dice.of(&["System", "example.com/other"])),
                _ => validation["caCertificateRefs"] = (0..=dice.roll(2)).map(|_| authority(dice)).collect(),
            }
            json!({"metadata": metadata, "spec": {
                "targetRefs": (0..=dice.roll(2)).map(|_| target(dice)).collect::<Value>(),
                "validation": validation,
            }})
        }
        other => unreachable!("{other} has no slot"),
    };
    let mut value = value;
    value["apiVersion"] = json!(kind.info().api_version());
    value["kind"] = json!(kind.as_str());
    AnyObject::read(kind, value, None, |_| {}).unwrap()
}

/// One machine for all, or what a die says of each Gateway's proxies.
fn options(fleets: Option<u32>) -> Options {
    let mut options = common::options();
    options.layout = match fleets {
        None => {
            let local_addresses = Some(["127.0.0.1".parse().unwrap()].into());
            Layout::Shared(Machine { local_addresses, ..Machine::default() })
        }
        Some(seed) => {
            let mut dice = Dice(u64::from(seed));
            let fleet = |name| Some((ObjectKey::new(KindId::Gateway, "infra", name), fleet(&mut dice)?));
            Layout::PerGateway(["g", "h"].into_iter().filter_map(fleet).collect())
        }
    };
    options
}

fn fleet(dice: &mut Dice) -> Option<Fleet> {
    let address = GatewayStatusAddress { value: "10.1.1.1".to_owned(), ..GatewayStatusAddress::default() };
    let trouble = |reason| {
        let (path, message) = ("spec.addresses[0]".to_owned(), "no".to_owned());
        Some(Fleet { addresses: Vec::new(), trouble: Some(Trouble { reason, path, message }) })
    };
    match dice.roll(6) {
        0 => None,
        1 => trouble(TroubleReason::UnsupportedAddress),
        2 => trouble(TroubleReason::AddressNotUsable),
        _ => Some(Fleet { addresses: vec![address], trouble: None }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn following_edits_is_translating_anew(
        world in prop::collection::vec(any::<u32>(), SLOTS.len()),
        edits in prop::collection::vec(
            prop::collection::vec((0..SLOTS.len(), prop::option::weighted(0.8, any::<u32>())), 1..4),
            1..12,
        ),
        per_gateway in any::<bool>(),
        fleets in prop::collection::vec(any::<u32>(), 14),
    ) {
        let generated = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
        let pair = (generated.cert.pem(), generated.signing_key.serialize_pem());
        let mut resources = Resources::default();
        let mut translator = Translator::new();
        // The fleets change now and then, among edits.
        let options = |turn: usize| options(per_gateway.then(|| fleets[turn / 2]));
        translator.update(&resources, &Changes::default(), &options(0));
        let world = world.into_iter().enumerate().map(|(slot, seed)| (slot, Some(seed))).collect();
        for (turn, batch) in [world].into_iter().chain(edits).enumerate() {
            let mut changes = Changes::default();
            for (slot, seed) in batch {
                let (kind, namespace, name) = SLOTS[slot];
                let key = ObjectKey::new(kind, namespace, name);
                match seed {
                    Some(seed) => {
                        let before = resources.insert(object(kind, namespace, name, seed, &pair));
                        changes.record(key, if before.is_some() { Change::Changed } else { Change::Added });
                    }
                    None => {
                        if resources.remove(&key).is_some() {
                            changes.record(key, Change::Removed);
                        }
                    }
                }
            }
            let followed = translator.update(&resources, &changes, &options(turn));
            let anew = translate(&resources, &options(turn));
            prop_assert_eq!(common::readable(&followed), common::readable(&anew));
            prop_assert_eq!(followed, anew);
        }
    }
}

/// What did not change is shared, by pointer, with the plan before.
#[test]
fn an_untouched_host_is_shared() {
    let route = |name: &str, path: &str| {
        let value = json!({
            "metadata": {"namespace": "infra", "name": name},
            "spec": {
                "parentRefs": [{"name": "g"}],
                "hostnames": [format!("{name}.example.com")],
                "rules": [{"matches": [{"path": {"value": path}}]}],
            },
        });
        AnyObject::read(KindId::HTTPRoute, value, None, |_| {}).unwrap()
    };
    let text = common::goldens().into_iter().find(|(path, _)| path.ends_with("http/simple.yaml")).unwrap().1;
    let mut resources = common::resources("simple.yaml", common::input(&text));
    let gateway = json!({"metadata": {"namespace": "infra", "name": "g"}, "spec": {
        "gatewayClassName": "portway",
        "listeners": [
            {"name": "l", "port": 81, "protocol": "HTTP"}, {"name": "m", "port": 82, "protocol": "HTTP"},
        ],
    }});
    resources.insert(AnyObject::read(KindId::Gateway, gateway, None, |_| {}).unwrap());
    resources.insert(route("a", "/1"));
    resources.insert(route("b", "/1"));
    let mut translator = Translator::new();
    let before = translator.update(&resources, &Changes::default(), &common::options()).plan;
    resources.insert(route("b", "/2"));
    let mut changes = Changes::default();
    changes.record(ObjectKey::new(KindId::HTTPRoute, "infra", "b"), Change::Changed);
    let after = translator.update(&resources, &changes, &common::options()).plan;
    assert!(std::sync::Arc::ptr_eq(&before.ports[0], &after.ports[0]), "another port");
    let hosts = |plan: &portway_plan::Plan| {
        let [l, m] = [1, 2].map(|port: usize| plan.ports[port].listeners[0].hosts.clone());
        let same = l.iter().zip(&m).all(|(of_l, of_m)| std::sync::Arc::ptr_eq(of_l, of_m));
        assert!(same, "listeners with the same routes");
        l
    };
    let (before, after) = (hosts(&before), hosts(&after));
    assert!(std::sync::Arc::ptr_eq(&before[1], &after[1]), "another host of the same listener");
    // One that comes later, ahead of the others.
    let gateway = json!({"metadata": {"namespace": "infra", "name": "g"}, "spec": {
        "gatewayClassName": "portway",
        "listeners": [
            {"name": "a", "port": 83, "protocol": "HTTP"},
            {"name": "l", "port": 81, "protocol": "HTTP"}, {"name": "m", "port": 82, "protocol": "HTTP"},
        ],
    }});
    resources.insert(AnyObject::read(KindId::Gateway, gateway, None, |_| {}).unwrap());
    let mut changes = Changes::default();
    changes.record(ObjectKey::new(KindId::Gateway, "infra", "g"), Change::Changed);
    let with_a = translator.update(&resources, &changes, &common::options()).plan;
    let hosts_of_a = &with_a.ports[3].listeners[0].hosts;
    assert!(
        after.iter().zip(hosts_of_a).all(|(old, new)| std::sync::Arc::ptr_eq(old, new)),
        "a new listener"
    );
    assert_ne!(before[0], after[0]);
}

/// Each object of each golden goes and comes back.
#[test]
fn any_object_may_go_and_come_back() {
    for (path, text) in common::goldens() {
        let options = common::options_of(&text);
        let mut resources = common::resources(&path.to_string_lossy(), common::input(&text));
        let whole = translate(&resources, &options);
        let mut translator = Translator::new();
        translator.update(&resources, &Changes::default(), &options);
        let keys: Vec<_> = KindId::ALL.iter().flat_map(|kind| resources.keys(*kind)).collect();
        for key in keys {
            let object = resources.remove(&key).unwrap();
            let mut changes = Changes::default();
            changes.record(key.clone(), Change::Removed);
            let followed = translator.update(&resources, &changes, &options);
            assert_eq!(followed, translate(&resources, &options), "{} without {key}", path.display());
            resources.insert(object);
            let mut changes = Changes::default();
            changes.record(key.clone(), Change::Added);
            let followed = translator.update(&resources, &changes, &options);
            assert_eq!(followed, whole, "{} with {key} again", path.display());
        }
    }
}

/// A ListenerSet that moves to another Gateway takes the backends of its routes along.
#[test]
fn a_set_moves_from_plan_to_plan() {
    let text =
        common::goldens().into_iter().find(|(path, _)| path.ends_with("pergateway/apart.yaml")).unwrap().1;
    let (options, mut resources) =
        (common::options_of(&text), common::resources("apart", common::input(&text)));
    let mut translator = Translator::new();
    let before = translator.update(&resources, &Changes::default(), &options);
    let key = |kind, name| ObjectKey::new(kind, "infra", name);
    let Some(AnyObject::ListenerSet(set)) = resources.any(&key(KindId::ListenerSet, "more")) else {
        panic!()
    };
    let mut set = (*set).clone();
    set.object.spec.parent_ref.name = "younger".to_owned();
    resources.insert(AnyObject::ListenerSet(set.into()));
    let AnyObject::Gateway(younger) = resources.any(&key(KindId::Gateway, "younger")).unwrap() else {
        panic!()
    };
    let AnyObject::Gateway(older) = resources.any(&key(KindId::Gateway, "older")).unwrap() else { panic!() };
    let mut younger = (*younger).clone();
    younger.object.spec.allowed_listeners.clone_from(&older.spec.allowed_listeners);
    resources.insert(AnyObject::Gateway(younger.into()));
    let mut changes = Changes::default();
    changes.record(key(KindId::ListenerSet, "more"), Change::Changed);
    changes.record(key(KindId::Gateway, "younger"), Change::Changed);
    let after = translator.update(&resources, &changes, &options);
    let sends_to_cart = |translation: &portway_translate::Translation, gateway| {
        let plan = &translation.plans[&key(KindId::Gateway, gateway)];
        plan.backends.keys().any(|backend| &*backend.object.name == "cart")
    };
    assert!(sends_to_cart(&before, "older") && !sends_to_cart(&before, "younger"));
    assert!(!sends_to_cart(&after, "older") && sends_to_cart(&after, "younger"));
    assert_eq!(after, translate(&resources, &options));
}

/// What changes for one Gateway leaves the plans of the others as they are, by pointer.
#[test]
fn a_plan_that_does_not_change_is_shared() {
    let text =
        common::goldens().into_iter().find(|(path, _)| path.ends_with("pergateway/apart.yaml")).unwrap().1;
    let (options, mut resources) =
        (common::options_of(&text), common::resources("apart", common::input(&text)));
    let mut translator = Translator::new();
    let before = translator.update(&resources, &Changes::default(), &options).plans;
    for key in
        [ObjectKey::new(KindId::HTTPRoute, "infra", "one"), ObjectKey::new(KindId::Gateway, "infra", "older")]
    {
        resources.remove(&key).unwrap();
        let mut changes = Changes::default();
        changes.record(key, Change::Removed);
        let after = translator.update(&resources, &changes, &options).plans;
        for name in ["younger", "fresh"] {
            let gateway = ObjectKey::new(KindId::Gateway, "infra", name);
            assert!(std::sync::Arc::ptr_eq(&before[&gateway], &after[&gateway]), "{name}");
        }
    }
}
