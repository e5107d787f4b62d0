use std::collections::BTreeMap;
use std::sync::Mutex;

use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::fake::{self, Answer, Asked};

/// An API server with some objects, by plural and name.
#[derive(Debug, Default)]
struct Cluster {
    objects: Mutex<BTreeMap<(String, String), Value>>,
    watches: Mutex<Vec<(String, mpsc::UnboundedSender<Value>)>>,
    version: Mutex<u64>,
    /// Nothing is answered.
    away: Mutex<bool>,
    /// It has just started, and tells of no CRDs' kinds.
    fresh: Mutex<bool>,
    /// Gets of single objects.
    gets: Mutex<Vec<String>>,
}

impl Cluster {
    fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.path.split('?').next().unwrap();
        let path = path.strip_prefix("http://localhost").unwrap_or(path);
        if *self.away.lock().unwrap() {
            return fake::refusal(StatusCode::SERVICE_UNAVAILABLE);
        }
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match *segments {
            ["apis"] if *self.fresh.lock().unwrap() => {
                answer(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))
            }
            ["apis"] => {
                let group = |name: &str, version: &str| {
                    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
                    json!({"name": name, "versions": [version]})
                };
                let groups = [
                    group("gateway.networking.k8s.io", "v1"),
                    group("gateway.networking.x-k8s.io", "v1alpha1"),
                ];
                answer(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            ["apis", _, _] => {
                let resource = |name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "", "verbs": []});
                let resources = ["gatewayclasses", "gateways", "httproutes", "xmeshes"].map(resource);
                answer(&json!({"kind": "APIResourceList", "groupVersion": "", "resources": resources}))
            }
            ["api", _, "namespaces", _, plural, name] => self.get(plural, name),
            ["api", _, plural] | ["apis", _, _, plural] if asked.is_watch() => {
                let (sender, lines) = mpsc::unbounded_channel();
                self.watches.lock().unwrap().push((plural.to_owned(), sender));
                fake::stream_answer(lines)
            }
            ["api", _, plural] | ["apis", _, _, plural] => self.list(plural),
            _ => fake::refusal(StatusCode::NOT_FOUND),
        }
    }

    fn get(&self, plural: &str, name: &str) -> Answer {
        self.gets.lock().unwrap().push(name.to_owned());
        match self.objects.lock().unwrap().get(&(plural.to_owned(), name.to_owned())) {
            Some(object) => answer(object),
            None => fake::refusal(StatusCode::NOT_FOUND),
        }
    }

    fn list(&self, plural: &str) -> Answer {
        let objects = self.objects.lock().unwrap();
        let items: Vec<_> =
            objects.iter().filter(|((of, _), _)| of == plural).map(|(_, object)| object).collect();
        let version = self.version.lock().unwrap().to_string();
        answer(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    /// Sets an object, without telling anyone.
    fn put(&self, plural: &str, name: &str, rest: Value) -> (&'static str, Value) {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        let mut object = rest;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("store");
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let before =
            self.objects.lock().unwrap().insert((plural.to_owned(), name.to_owned()), object.clone());
        (if before.is_some() { "MODIFIED" } else { "ADDED" }, object)
    }

    /// Sets an object and tells who watches.
    fn apply(&self, plural: &str, name: &str, rest: Value) {
        let (change, object) = self.put(plural, name, rest);
        self.tell(plural, &json!({"type": change, "object": object}));
    }

    fn tell(&self, plural: &str, event: &Value) {
        self.watches.lock().unwrap().retain(|(of, watch)| of != plural || watch.send(event.clone()).is_ok());
    }

    /// Ends all watches.
    fn hang_up(&self) {
        self.watches.lock().unwrap().clear();
    }

    async fn watched(&self, plural: &str) {
        while !self.watches.lock().unwrap().iter().any(|(of, _)| of == plural) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn answer(body: &Value) -> Answer {
    fake::json_answer(StatusCode::OK, body)
}

fn route(host: &str) -> Value {
    json!({"spec": {"hostnames": [host]}})
}

fn secret() -> Value {
    json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ=="}})
}

struct Fixture {
    cluster: Arc<Cluster>,
    source: Source,
    outages: Arc<Outages>,
}

fn watching(cluster: Cluster) -> Fixture {
    let cluster = Arc::new(cluster);
    let asked = Arc::clone(&cluster);
    let client = fake::client(move |request| std::future::ready(asked.answer(&request)));
    let outages = Arc::<Outages>::default();
    let source = Source::start(&client, &outages, &Handle::current());
    Fixture { cluster, source, outages }
}

impl Fixture {
    async fn next(&mut self) -> Batch {
        tokio::time::timeout(Duration::from_secs(120), self.source.next()).await.expect("no batch").unwrap()
    }
}

/// What changed, as `Added cart`.
fn changes(batch: &Batch) -> Vec<String> {
    batch.changes.iter().map(|(key, change)| format!("{change:?} {}", key.name)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_has_all_that_there_is() {
    let cluster = Cluster::default();
    let annotations = json!({"gateway.networking.k8s.io/bundle-version": "v1.6.0", "gateway.networking.k8s.io/channel": "standard"});
    let crd = "gatewayclasses.gateway.networking.k8s.io";
    cluster.put("customresourcedefinitions", crd, json!({"metadata": {"annotations": annotations}}));
    cluster.put("httproutes", "cart", route("cart.example"));
    cluster.put("services", "cart", json!({"spec": {}}));
    let mut fixture = watching(cluster);
    let batch = fixture.next().await;
    assert_eq!(changes(&batch), ["Added cart", "Added cart"]);
    let crds = batch.crds.unwrap();
    assert_eq!((&*crds.bundle_version, &*crds.channel), ("v1.6.0", "standard"));
    assert_eq!(batch.served.get(&KindId::HTTPRoute), Some(&"v1"));
    assert!(!batch.served.contains_key(&KindId::TCPRoute), "the cluster does not serve it");
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_batch_and_a_status_is_no_change() {
    let mut fixture = watching(Cluster::default());
    fixture.next().await;
    fixture.cluster.watched("httproutes").await;
    for i in 0..100 {
        fixture.cluster.apply("httproutes", &format!("r{i}"), route("a.example"));
    }
    assert_eq!(fixture.next().await.changes.len(), 100);
    let mut restated = route("a.example");
    restated["status"] = json!({"parents": []});
    fixture.cluster.apply("httproutes", "r1", restated);
    let batch = fixture.next().await;
    assert!(batch.changes.is_empty());
    assert_eq!(batch.restated.iter().map(|key| &*key.name).collect::<Vec<_>>(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_relist_notices_what_went_while_nobody_looked() {
    let cluster = Cluster::default();
    cluster.put("httproutes", "cart", route("cart.example"));
    cluster.put("httproutes", "shop", route("shop.example"));
    let mut fixture = watching(cluster);
    fixture.next().await;
    fixture.cluster.watched("httproutes").await;
    fixture.cluster.objects.lock().unwrap().remove(&("httproutes".to_owned(), "cart".to_owned()));
    fixture.cluster.put("httproutes", "shop", route("new.example"));
    let expired = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"});
    fixture.cluster.tell("httproutes", &json!({"type": "ERROR", "object": expired}));
    let mut all = Vec::new();
    while all.len() < 2 {
        all.extend(changes(&fixture.next().await));
    }
    all.sort();
    assert_eq!(all, ["Changed shop", "Removed cart"]);
    assert_eq!(fixture.outages.failing(), 0, "that is no outage");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_minutes_takes_nothing_away() {
    let cluster = Cluster::default();
    cluster.put("httproutes", "cart", route("cart.example"));
    let mut fixture = watching(cluster);
    fixture.next().await;
    fixture.cluster.watched("httproutes").await;
    *fixture.cluster.away.lock().unwrap() = true;
    fixture.cluster.hang_up();
    let quiet = tokio::time::timeout(Duration::from_secs(300), fixture.source.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(fixture.outages.failing() > 0 && fixture.outages.errors() < 1000);
    *fixture.cluster.away.lock().unwrap() = false;
    fixture.cluster.watched("httproutes").await;
    fixture.cluster.apply("httproutes", "shop", route("shop.example"));
    let batch = fixture.next().await;
    assert_eq!(changes(&batch), ["Added shop"]);
    assert_eq!(batch.resources.count(KindId::HTTPRoute), 2);
}

#[tokio::test(start_paused = true)]
async fn only_secrets_that_are_wanted_are_read() {
    let cluster = Cluster::default();
    cluster.put("secrets", "cart", secret());
    cluster.put("secrets", "other", secret());
    let mut fixture = watching(cluster);
    fixture.next().await;
    let key = |name| ObjectKey::new(KindId::Secret, "store", name);
    let wanted: BTreeSet<_> = [key("cart"), key("missing")].into();
    assert!(!fixture.source.want(&wanted), "nothing has been looked up yet");
    let mut batch = fixture.next().await;
    while !fixture.source.want(&wanted) {
        batch = fixture.next().await;
    }
    assert_eq!(batch.resources.keys(KindId::Secret), [key("cart")]);
    assert!(!fixture.cluster.gets.lock().unwrap().contains(&"other".to_owned()));

    fixture.cluster.watched("secrets").await;
    fixture.cluster.apply("secrets", "missing", secret());
    assert_eq!(changes(&fixture.next().await), ["Added missing"]);
    fixture.source.want(&BTreeSet::from([key("missing")]));
    assert_eq!(changes(&fixture.next().await), ["Removed cart"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_again_at_once_is_looked_up_again() {
    let cluster = Cluster::default();
    cluster.put("secrets", "cart", secret());
    let mut fixture = watching(cluster);
    fixture.next().await;
    let key = ObjectKey::new(KindId::Secret, "store", "cart");
    let wanted = BTreeSet::from([key.clone()]);
    while !fixture.source.want(&wanted) {
        fixture.next().await;
    }
    // Whoever looks up does not run in between.
    fixture.source.want(&BTreeSet::new());
    let mut batch = None;
    while !fixture.source.want(&wanted) {
        batch = Some(fixture.next().await);
    }
    assert_eq!(batch.unwrap().resources.keys(KindId::Secret), [key]);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_failed_and_is_no_longer_wanted_is_no_outage() {
    let mut fixture = watching(Cluster::default());
    fixture.next().await;
    let wanted = BTreeSet::from([ObjectKey::new(KindId::Secret, "store", "cart")]);
    *fixture.cluster.away.lock().unwrap() = true;
    while !fixture.source.want(&wanted) {
        fixture.next().await;
    }
    assert!(fixture.outages.failing() > 0);
    fixture.source.want(&BTreeSet::new());
    *fixture.cluster.away.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.outages.failing(), 0);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_nothing_reads_are_not_watched() {
    let mut fixture = watching(Cluster::default());
    let served = fixture.next().await.served;
    assert!(served.contains_key(&KindId::HTTPRoute));
    assert!(!served.contains_key(&KindId::XMesh));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_has_just_started_takes_nothing_away() {
    let cluster = Cluster::default();
    for plural in ["gateways", "gatewayclasses", "httproutes"] {
        let name = format!("{plural}.gateway.networking.k8s.io");
        cluster.put("customresourcedefinitions", &name, json!({}));
    }
    cluster.put("httproutes", "cart", route("cart.example"));
    let mut fixture = watching(cluster);
    fixture.next().await;
    fixture.cluster.watched("customresourcedefinitions").await;
    let expired = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"});
    *fixture.cluster.fresh.lock().unwrap() = true;
    fixture.cluster.tell("customresourcedefinitions", &json!({"type": "ERROR", "object": expired}));
    let quiet = tokio::time::timeout(Duration::from_secs(5), fixture.source.next()).await;
    assert!(quiet.is_err(), "{:?}", quiet.map(|batch| changes(&batch.unwrap())));
    *fixture.cluster.fresh.lock().unwrap() = false;
    fixture.cluster.apply("httproutes", "shop", route("shop.example"));
    assert_eq!(changes(&fixture.next().await), ["Added shop"]);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_an_api_server_told_of_late_are_watched_soon() {
    let cluster = Cluster::default();
    cluster.put("httproutes", "cart", route("cart.example"));
    *cluster.fresh.lock().unwrap() = true;
    let mut fixture = watching(cluster);
    assert!(!fixture.next().await.served.contains_key(&KindId::HTTPRoute));
    *fixture.cluster.fresh.lock().unwrap() = false;
    let began = Instant::now();
    while changes(&fixture.next().await).is_empty() {}
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_an_overloaded_api_server_refuses_at_first_is_waited_for() {
    let cluster = Cluster::default();
    cluster.put("secrets", "cart", secret());
    let mut fixture = watching(cluster);
    fixture.next().await;
    let key = ObjectKey::new(KindId::Secret, "store", "cart");
    let wanted = BTreeSet::from([key.clone()]);
    *fixture.cluster.away.lock().unwrap() = true;
    assert!(!fixture.source.want(&wanted));
    let waited = tokio::time::timeout(Duration::from_secs(1), fixture.source.next()).await;
    assert!(waited.is_err(), "nothing is said of it yet");
    *fixture.cluster.away.lock().unwrap() = false;
    let batch = fixture.next().await;
    assert!(fixture.source.want(&wanted));
    assert_eq!(batch.resources.keys(KindId::Secret), [key]);
}
