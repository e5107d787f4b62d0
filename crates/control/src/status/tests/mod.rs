mod cluster;

use std::time::Duration;

use portway_api::object::{KindId, ObjectKey};
use portway_plan::{ObjectRef, Source, Transport};
use serde_json::{Value, json};

use super::{Proxies, Replica};
use cluster::Scene;

const OURS: &str = "portway.dev/gateway-controller";
const GROUP: &str = "gateway.networking.k8s.io";

fn class() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "portway", "generation": 1}, "spec": {"controllerName": OURS},
    })
}

fn gateway() -> Value {
    let listener = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "infra", "name": "g", "generation": 1},
        "spec": {
            "gatewayClassName": "portway",
            "allowedListeners": {"namespaces": {"from": "All"}},
            "listeners": [listener("web", 80), listener("alt", 81)],
        },
    })
}

fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "store", "name": name, "generation": 1},
        "spec": {"parentRefs": [{"group": GROUP, "kind": "Gateway", "namespace": "infra", "name": "g"}], "rules": []},
    })
}

fn g() -> ObjectKey {
    ObjectKey::new(KindId::Gateway, "infra", "g")
}

fn r(name: &str) -> ObjectKey {
    ObjectKey::new(KindId::HTTPRoute, "store", name)
}

/// An entry of another controller, with a field that no version of the API that Portway knows has.
fn foreign(message: &str) -> Value {
    json!({
        "parentRef": {"group": "", "kind": "Service", "name": "mesh"},
        "controllerName": "example.com/mesh",
        "hint": {"of": ["a", "later", "version"]},
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": message,
            "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1,
        }],
    })
}

fn condition<'v>(list: &'v Value, type_: &str) -> &'v Value {
    list["conditions"].as_array().unwrap().iter().find(|it| it["type"] == type_).unwrap_or(&Value::Null)
}

/// `status reason generation`, and the message where it is not `True`.
fn told(list: &Value, type_: &str) -> String {
    let it = condition(list, type_);
    let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
    let short = format!("{} {} {}", text("status"), text("reason"), it["observedGeneration"]);
    if it["status"] == "True" { short } else { format!("{short}: {}", text("message")) }
}

fn programmed(scene: &Scene) -> String {
    told(&scene.get(&g())["status"], "Programmed")
}

fn listener(scene: &Scene, name: &str) -> Value {
    let status = scene.get(&g())["status"].clone();
    status["listeners"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone()
}

fn proxies(published: u64, replicas: &[(&str, Replica)]) -> Proxies {
    let replicas = replicas.iter().map(|(name, replica)| ((*name).into(), replica.clone()));
    Proxies { published, replicas: replicas.collect() }
}

fn took(revision: u64) -> Replica {
    Replica { acknowledged: revision, ..Replica::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_already_is_not_written() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
    let route = &scene.get(&r("a"))["status"]["parents"][0];
    assert_eq!(told(route, "Accepted"), "True Accepted 1");
    assert_eq!(
        (route["controllerName"].as_str(), route["parentRef"]["name"].as_str()),
        (Some(OURS), Some("g"))
    );
    let kinds = [KindId::GatewayClass, KindId::Gateway, KindId::HTTPRoute];
    assert_eq!(kinds.map(|kind| scene.writes(kind)), [1, 1, 1], "one write each");
    let before = scene.requests();
    // An object comes again though nothing of Portway's in it is another.
    scene.objects(|objects| objects.edit(&r("a"), |route| route["metadata"]["labels"] = json!({"a": "b"})));
    scene.settle().await;
    assert_eq!(scene.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn entries_of_others_stay_byte_for_byte_also_when_both_write_at_once() {
    let mut object = route("a");
    object["status"] = json!({"parents": [foreign("first")]});
    let mut scene = Scene::new([class(), gateway(), object]);
    scene.meddle(|objects| {
        objects.edit(&r("a"), |route| {
            route["status"]["parents"] = json!([foreign("second"), foreign("third")]);
        });
    });
    scene.settle().await;
    let parents = scene.get(&r("a"))["status"]["parents"].clone();
    assert_eq!(parents.as_array().unwrap().len(), 3);
    assert_eq!((&parents[0], &parents[1]), (&foreign("second"), &foreign("third")));
    assert_eq!(parents[0].to_string(), foreign("second").to_string());
    assert_eq!(told(&parents[2], "Accepted"), "True Accepted 1");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_others_got_ahead_of_is_done_again() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.settle().await;
    scene.objects(|objects| objects.edit(&r("a"), |route| route["metadata"]["generation"] = json!(2)));
    scene.meddle(|objects| {
        objects.edit(&r("a"), |route| {
            route["status"]["parents"].as_array_mut().unwrap().insert(0, foreign("sudden"));
        });
    });
    scene.settle().await;
    let parents = scene.get(&r("a"))["status"]["parents"].clone();
    assert_eq!(parents[0], foreign("sudden"));
    assert_eq!(told(&parents[1], "Accepted"), "True Accepted 2");
    assert_eq!(scene.writer.counts().conflicts, 1);
    assert_eq!(scene.writer.counts().errors, 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_goes_when_the_route_leaves_and_others_stay() {
    let mut object = route("a");
    object["status"] = json!({"parents": [foreign("stays")]});
    let mut scene = Scene::new([class(), gateway(), object]);
    scene.settle().await;
    assert_eq!(scene.get(&r("a"))["status"]["parents"].as_array().unwrap().len(), 2);
    scene.objects(|objects| objects.edit(&r("a"), |route| route["spec"]["parentRefs"] = json!([])));
    scene.settle().await;
    assert_eq!(scene.get(&r("a"))["status"]["parents"], json!([foreign("stays")]));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_others_removed_or_spoilt_comes_back() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.settle().await;
    let was = scene.get(&r("a"))["status"].clone();
    let spoilt = json!([{"controllerName": OURS, "parentRef": {"name": "g"}, "conditions": []}]);
    for parents in [json!([]), spoilt] {
        let status = json!({"parents": parents});
        scene.objects(|objects| objects.edit(&r("a"), |route| route["status"] = status));
        scene.settle().await;
        assert_eq!(scene.get(&r("a"))["status"], was);
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_on_gateways_and_listeners_stay() {
    let extra = |type_: &str| {
        json!({
            "type": type_, "status": "False", "reason": "Because", "message": "m",
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        })
    };
    let mut scene = Scene::new([class(), gateway()]);
    scene.settle().await;
    scene.objects(|objects| {
        objects.edit(&g(), |gateway| {
            let status = &mut gateway["status"];
            status["conditions"].as_array_mut().unwrap().insert(0, extra("example.com/Seen"));
            status["listeners"][1]["conditions"].as_array_mut().unwrap().push(extra("example.com/Heard"));
            gateway["metadata"]["generation"] = json!(2);
        });
    });
    scene.settle().await;
    let status = &scene.get(&g())["status"];
    assert_eq!(*condition(status, "example.com/Seen"), extra("example.com/Seen"));
    assert_eq!(*condition(&listener(&scene, "alt"), "example.com/Heard"), extra("example.com/Heard"));
    assert_eq!(told(status, "Accepted"), "True Accepted 2");
    assert_eq!(told(&listener(&scene, "alt"), "Accepted"), "True Accepted 2");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_routes_are_tens_of_gateway_writes() {
    let mut scene = Scene::new([class(), gateway()]);
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    let before = scene.writes(KindId::Gateway);
    for i in 0..1000 {
        scene.objects(|objects| objects.put(route(&format!("r{i}"))));
        if i % 20 == 0 {
            scene.turn();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.turn();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(listener(&scene, "web")["attachedRoutes"], 1000, "within three seconds");
    assert!(scene.writes(KindId::Gateway) - before <= 20, "{}", scene.writes(KindId::Gateway) - before);
    assert_eq!(scene.writes(KindId::HTTPRoute), 1000, "each once");
}

#[tokio::test(start_paused = true)]
async fn programmed_waits_for_every_replica() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Pending 1: nothing is known of the Gateway's proxies yet");
    assert_eq!(told(&scene.get(&g())["status"], "Accepted"), "True Accepted 1", "which waits for nobody");
    assert_eq!(told(&scene.get(&r("a"))["status"]["parents"][0], "Accepted"), "True Accepted 1");
    scene.proxies.insert(g(), proxies(1, &[]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Pending 1: no proxy of the Gateway is running");
    scene.proxies.insert(g(), proxies(1, &[("one", took(1)), ("two", Replica::default())]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Pending 1: 1 of 2 proxies have taken the configuration");
    assert_eq!(
        told(&listener(&scene, "web"), "Programmed"),
        "False Pending 1: 1 of 2 proxies have taken the configuration"
    );
    scene.proxies.insert(g(), proxies(1, &[("one", took(1)), ("two", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
    assert_eq!(told(&listener(&scene, "web"), "Programmed"), "True Programmed 1");
    let since = condition(&scene.get(&g())["status"], "Programmed")["lastTransitionTime"].clone();

    scene.objects(|objects| {
        objects.edit(&g(), |gateway| {
            gateway["metadata"]["generation"] = json!(2);
            gateway["spec"]["listeners"][1]["port"] = json!(82);
        });
    });
    scene.proxies.insert(g(), proxies(2, &[("one", took(2)), ("two", took(1))]));
    scene.settle().await;
    assert_eq!(told(&scene.get(&g())["status"], "Accepted"), "True Accepted 2");
    assert_eq!(programmed(&scene), "True Programmed 1", "as it was");
    // The plan goes on changing for other reasons; what has to be acknowledged is what holds the generation.
    scene.proxies.insert(g(), proxies(7, &[("one", took(6)), ("two", took(2))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 2");
    assert_eq!(condition(&scene.get(&g())["status"], "Programmed")["lastTransitionTime"], since);
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_cannot_do_is_told() {
    let mut scene = Scene::new([class(), gateway()]);
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    let failed = |name: &str| {
        let object = ObjectRef { kind: "Gateway".into(), namespace: "infra".into(), name: "g".into() };
        Source { object: object.into(), path: "spec.listeners[1]".into(), section: Some(name.into()) }
    };
    let alt = Replica { failed: [(failed("alt"), "no memory".to_owned())].into(), ..took(1) };
    scene.proxies.insert(g(), proxies(1, &[("one", took(1)), ("two", alt.clone())]));
    scene.settle().await;
    assert_eq!(told(&listener(&scene, "alt"), "Programmed"), "False Invalid 1: on two: no memory");
    assert_eq!(told(&listener(&scene, "web"), "Programmed"), "True Programmed 1");
    assert_eq!(programmed(&scene), "True Programmed 1");
    let none = Replica { unavailable: [((80, Transport::Tcp), "in use".to_owned())].into(), ..alt };
    scene.proxies.insert(g(), proxies(1, &[("one", took(1)), ("two", none)]));
    scene.settle().await;
    let why = "False Invalid 1: on two: port 80 could not be opened: in use";
    assert_eq!(told(&listener(&scene, "web"), "Programmed"), why);
    assert_eq!(programmed(&scene), why);
    let rejecting = Replica { rejected: Some((1, "too large".to_owned())), ..Replica::default() };
    scene.proxies.insert(g(), proxies(1, &[("one", rejecting)]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Invalid 1: one rejects the configuration: too large");
    scene.proxies.insert(g(), proxies(2, &[("one", took(2))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_a_new_one_goes_on_from_what_is_there() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.leader.send(false).unwrap();
    scene.settle().await;
    assert_eq!(scene.requests(), 0);
    scene.leader.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.writes(KindId::HTTPRoute), 1, "what was told before is not lost");
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
    // Another leader: its proxies have acknowledged nothing to it yet, and serve all the same.
    scene.leader.send(false).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = scene.requests();
    scene.proxies.insert(g(), proxies(1, &[("one", Replica::default())]));
    scene.leader.send(true).unwrap();
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
    assert_eq!(scene.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_until_it_works() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.away(true);
    scene.turn();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let errors = scene.writer.counts().errors;
    assert!((3 * 6..=3 * 15).contains(&errors), "{errors}: ever less often");
    scene.away(false);
    scene.settle().await;
    assert_eq!(told(&scene.get(&r("a"))["status"]["parents"][0], "Accepted"), "True Accepted 1");
    assert_eq!(scene.writer.counts().writes[&KindId::HTTPRoute], 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_is_programmed_by_the_proxies_of_its_gateway() {
    let set = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": {"namespace": "store", "name": "s", "generation": 3},
        "spec": {
            "parentRef": {"namespace": "infra", "name": "g"},
            "listeners": [{"name": "own", "port": 8080, "protocol": "HTTP"}],
        },
    });
    let key = ObjectKey::new(KindId::ListenerSet, "store", "s");
    let mut scene = Scene::new([class(), gateway(), set]);
    scene.proxies.insert(g(), proxies(4, &[("one", took(3))]));
    scene.settle().await;
    assert_eq!(
        told(&scene.get(&key)["status"], "Programmed"),
        "False Pending 3: 0 of 1 proxy has taken the configuration"
    );
    scene.proxies.insert(g(), proxies(4, &[("one", took(4))]));
    scene.settle().await;
    let status = scene.get(&key)["status"].clone();
    assert_eq!(told(&status, "Programmed"), "True Programmed 3");
    assert_eq!(told(&status["listeners"][0], "Programmed"), "True Programmed 3");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_to_one_object_is_told_of_that_object_until_it_is_gone() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.refuse("a");
    scene.turn();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.outages.failing(), 1);
    scene.objects(|objects| objects.put(route("b")));
    scene.turn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&scene.get(&r("b"))["status"]["parents"][0], "Accepted"), "True Accepted 1");
    assert_eq!(scene.outages.failing(), 1, "that others are taken says nothing of this one");
    scene.objects(|objects| objects.delete(&r("a")));
    scene.turn();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.outages.failing(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_write_has_no_outage_and_collects_nothing() {
    let mut scene = Scene::new([class(), gateway(), route("a")]);
    scene.away(true);
    scene.turn();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(scene.outages.failing() > 0);
    scene.leader.send(false).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.outages.failing(), 0, "another one writes now");
    for i in 0..100 {
        scene.objects(|objects| objects.put(route(&format!("r{i}"))));
        scene.turn();
    }
    assert_eq!(scene.writer.with(|told| told.touched.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_made_anew_is_not_programmed_by_what_its_name_was_before() {
    let named = |uid: &str| {
        let mut gateway = gateway();
        gateway["metadata"]["uid"] = json!(uid);
        gateway
    };
    let mut scene = Scene::new([class(), named("first")]);
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
    scene.objects(|objects| objects.put(named("second")));
    scene.proxies.insert(g(), proxies(2, &[("one", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Pending 1: 0 of 1 proxy has taken the configuration");
    scene.proxies.insert(g(), proxies(2, &[("one", took(2))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_revisions_are_counted_anew_is_programmed_by_those() {
    let mut scene = Scene::new([class(), gateway()]);
    scene.proxies.insert(g(), proxies(7, &[("one", took(6))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "False Pending 1: 0 of 1 proxy has taken the configuration");
    // Withdrawn and published again between two looks.
    scene.proxies.insert(g(), proxies(1, &[("one", took(1))]));
    scene.settle().await;
    assert_eq!(programmed(&scene), "True Programmed 1");
}
