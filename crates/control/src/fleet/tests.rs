//! What is done and said as the cluster changes, without a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::DynamicObject;
use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::Shards;
use portway_store::Resources;
use portway_translate::{CONTROLLER_NAME, Layout, Options, TroubleReason, translate};
use serde_json::{Value, json};

use super::Settings;
use super::live::{Id, OwnedKind, Seen};
use super::state::{State, Task};

const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
";

pub(super) fn settings() -> Settings {
    Settings {
        controller_name: CONTROLLER_NAME.into(),
        image: "portway:test".into(),
        controller: "portway.portway-system.svc:9910".into(),
        server_name: "portway.portway-system.svc".into(),
    }
}

fn key() -> ObjectKey {
    ObjectKey::new(KindId::Gateway, "infra", "edge")
}

/// A cluster whose objects are as they were applied.
struct Cluster {
    state: State,
    objects: Vec<Value>,
}

impl Cluster {
    fn new(gateway: &str) -> Self {
        let mut cluster = Self { state: State::default(), objects: Vec::new() };
        for kind in OwnedKind::ALL.map(Some).into_iter().chain([None]) {
            cluster.state.live.list(kind, &BTreeSet::new());
        }
        cluster.tell(gateway);
        cluster
    }

    /// The Gateway, with this spec, and what comes of it.
    fn tell(&mut self, gateway: &str) {
        let text = format!(
            "{CLASS}apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: edge, namespace: infra}}\nspec: {gateway}\n"
        );
        let resources = Resources::from_documents(&text).unwrap();
        let mut options = Options::new(Time(time::OffsetDateTime::UNIX_EPOCH));
        options.layout = Layout::PerGateway(Shards::default());
        let plans = translate(&resources, &options).plans;
        self.state.tell(&resources, &plans, CONTROLLER_NAME);
    }

    fn tasks(&self) -> Vec<(Id, Task)> {
        self.state.tasks(&key(), &settings(), "CA")
    }

    /// What is to be done, in few words.
    fn todo(&self) -> Vec<String> {
        let verb = |task: &Task| match task {
            Task::Apply { .. } => "apply",
            Task::Delete { .. } => "delete",
            Task::Foreign => "foreign",
        };
        self.tasks().iter().map(|(id, task)| format!("{} {}", verb(task), id.kind.as_str())).collect()
    }

    /// Does what is to be done.
    fn settle(&mut self) {
        for (id, task) in self.tasks() {
            match task {
                Task::Apply { object, .. } => {
                    let print = self.put(object.clone());
                    self.state.applied(&id, &object, print);
                    self.objects.push(object);
                }
                Task::Delete { .. } => {
                    let object = json!({"metadata": {"name": *id.name, "namespace": *id.namespace}});
                    self.state.deleted(&id);
                    self.state.live.take(Some(id.kind), &read(object));
                }
                Task::Foreign => {}
            }
        }
    }

    /// The watch says that an object is so.
    fn put(&mut self, object: Value) -> u64 {
        let kind = OwnedKind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
        let object = read(object);
        self.state.live.put(Some(kind), &object);
        Seen::of(&object).print
    }

    fn ready_pod(&mut self, name: &str, workload: &str) {
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "infra", "uid": name, "annotations": {super::GATEWAY: "edge"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": workload, "name": "w", "uid": "w"}],
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}], "hostIPs": [{"ip": "192.0.2.9"}],
            },
        });
        self.state.live.put(None, &read(pod));
    }

    fn applied(&self, kind: &str) -> Value {
        self.objects.iter().rev().find(|object| object["kind"] == kind).unwrap().clone()
    }

    fn fleet(&mut self) -> portway_translate::Fleet {
        self.state.update_report(&key());
        self.state.report().fleets[&key()].clone()
    }
}

fn read(object: Value) -> DynamicObject {
    serde_json::from_value(object).unwrap()
}

const PLAIN: &str = "{gatewayClassName: portway, listeners: [{name: http, port: 80, protocol: HTTP}]}";

#[test]
fn what_is_there_is_not_applied_again_until_someone_changes_it() {
    let mut cluster = Cluster::new(PLAIN);
    let all = ["ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget"];
    assert_eq!(cluster.todo(), all.map(|kind| format!("apply {kind}")));
    cluster.settle();
    assert_eq!(cluster.todo(), [""; 0]);

    let mut counted = cluster.applied("Deployment");
    counted["status"] = json!({"readyReplicas": 2});
    counted["metadata"]["resourceVersion"] = "7".into();
    counted["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "2".into();
    cluster.put(counted);
    assert_eq!(cluster.todo(), [""; 0], "statuses are not Portway's");

    let mut changed = cluster.applied("Deployment");
    changed["spec"]["replicas"] = 9.into();
    cluster.put(changed);
    assert_eq!(cluster.todo(), ["apply Deployment"]);
}

#[test]
fn an_object_of_another_is_left_alone() {
    let mut cluster = Cluster::new(PLAIN);
    cluster.settle();
    let mut foreign = cluster.applied("Service");
    foreign["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "another", "controller": true}]);
    cluster.put(foreign);
    assert_eq!(cluster.todo(), ["foreign Service"]);
}

#[test]
fn a_gateway_that_is_not_accepted_keeps_its_proxies_and_one_of_another_controller_loses_them() {
    let mut cluster = Cluster::new(PLAIN);
    cluster.settle();
    cluster.tell(
        "{gatewayClassName: portway, addresses: [{type: example.com/odd, value: x}], \
         listeners: [{name: http, port: 80, protocol: HTTP}]}",
    );
    assert_eq!(cluster.todo(), [""; 0]);
    cluster.tell("{gatewayClassName: gone, listeners: [{name: http, port: 80, protocol: HTTP}]}");
    assert_eq!(cluster.todo(), [""; 0], "a class that is missing may come back");
    cluster.tell("{gatewayClassName: other, listeners: [{name: http, port: 80, protocol: HTTP}]}");
    assert_eq!(cluster.todo().len(), 5);
    assert!(cluster.todo().iter().all(|task| task.starts_with("delete ")), "{:?}", cluster.todo());
}

#[test]
fn the_workload_of_before_goes_only_when_the_new_one_serves() {
    let mut cluster = Cluster::new(PLAIN);
    cluster.settle();
    let daemons = cluster.applied("Deployment");
    let mut old = daemons.clone();
    old["kind"] = "DaemonSet".into();
    old["apiVersion"] = "apps/v1".into();
    cluster.put(old);
    assert_eq!(cluster.todo(), [""; 0]);
    cluster.ready_pod("daemon", "DaemonSet");
    assert_eq!(cluster.todo(), [""; 0]);
    cluster.ready_pod("new", "ReplicaSet");
    assert_eq!(cluster.todo(), ["delete DaemonSet"]);
}

#[test]
fn addresses_are_those_that_were_given_and_what_was_not_is_told() {
    let mut cluster = Cluster::new(
        "{gatewayClassName: portway, addresses: [{value: 203.0.113.1}, {routability: Cluster}], \
         listeners: [{name: http, port: 80, protocol: HTTP}]}",
    );
    cluster.settle();
    let mut service = cluster.applied("Service");
    assert_eq!(service["spec"]["loadBalancerIP"], "203.0.113.1");
    service["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    cluster.put(service.clone());
    let fleet = cluster.fleet();
    let trouble = fleet.trouble.unwrap();
    assert_eq!((trouble.reason, &*trouble.path), (TroubleReason::AddressNotUsable, "spec.addresses[0]"));
    assert_eq!(fleet.addresses.len(), 1);
    assert_eq!(fleet.addresses[0].value, "10.96.0.9");
    assert_eq!(fleet.addresses[0].routability.as_deref(), Some("Cluster"));

    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    cluster.put(service);
    let fleet = cluster.fleet();
    assert_eq!(fleet.trouble, None);
    let values: Vec<&str> = fleet.addresses.iter().map(|address| &*address.value).collect();
    assert_eq!(values, ["203.0.113.1", "10.96.0.9"]);
}

#[test]
fn an_unknown_routability_is_told_and_mended() {
    let odd = "{gatewayClassName: portway, addresses: [{routability: example.com/x}], \
               listeners: [{name: http, port: 80, protocol: HTTP}]}";
    let mut cluster = Cluster::new(odd);
    assert_eq!(cluster.fleet().trouble.unwrap().reason, TroubleReason::AddressNotAssigned);
    cluster.tell(PLAIN);
    assert_eq!(cluster.fleet().trouble, None);
}

#[test]
fn pods_on_their_way_out_are_not_reported() {
    let mut cluster = Cluster::new(PLAIN);
    cluster.ready_pod("a", "ReplicaSet");
    cluster.state.update_report(&key());
    let pods = Arc::clone(&cluster.state.report().pods[&key()]);
    assert!(pods["a"].ready);
    let leaving = json!({
        "metadata": {
            "name": "a", "namespace": "infra", "annotations": {super::GATEWAY: "edge"},
            "deletionTimestamp": "2026-11-23T00:00:00Z",
        },
    });
    cluster.state.live.put(None, &read(leaving));
    cluster.state.update_report(&key());
    assert!(cluster.state.report().pods[&key()].is_empty());
}
