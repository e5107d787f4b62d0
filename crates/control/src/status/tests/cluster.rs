//! A cluster that is a map: objects by their paths, resourceVersions, and what is asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Method, StatusCode};
use portway_api::gateway::GatewayStatusAddress;
use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::Shards;
use portway_store::{AnyObject, Resources};
use portway_translate::{Fleet, Layout, Options, Translator};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::{Proxies, Round, Settings, StatusWriter};
use crate::Outages;
use crate::fake::{self, Answer, Asked};
use crate::source::object::resource;

/// Something that happens in the cluster just before a write is looked at.
type Meddling = Box<dyn FnOnce(&mut Objects) + Send>;

/// The objects, by the path that they have in the API.
#[derive(Default)]
pub(super) struct Objects {
    by_path: BTreeMap<String, (ObjectKey, Value)>,
    version: u64,
}

impl Objects {
    /// Sets an object, as anyone might.
    pub(super) fn put(&mut self, mut object: Value) {
        let (group, version) = {
            let api = object["apiVersion"].as_str().unwrap();
            api.split_once('/').unwrap_or(("", api))
        };
        let kind = KindId::find(group, object["kind"].as_str().unwrap()).unwrap();
        let resource = resource(kind, version);
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let root = if group.is_empty() { "/api" } else { "/apis" };
        let within = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let path = format!("{root}/{}{within}/{}/{name}", resource.api_version, resource.plural);
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.by_path.insert(path, (ObjectKey::new(kind, &namespace, &name), object));
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Value {
        self.by_path.values().find(|(known, _)| known == key).unwrap().1.clone()
    }

    /// Changes an object.
    pub(super) fn edit(&mut self, key: &ObjectKey, edit: impl FnOnce(&mut Value)) {
        let mut object = self.get(key);
        edit(&mut object);
        self.put(object);
    }

    /// Deletes an object.
    pub(super) fn delete(&mut self, key: &ObjectKey) {
        self.by_path.retain(|_, (known, _)| known != key);
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let path = asked.path.split('?').next().unwrap();
        let target = path.strip_suffix("/status").unwrap_or(path);
        let Some((_, object)) = self.by_path.get_mut(target) else {
            return fake::refusal(StatusCode::NOT_FOUND);
        };
        if asked.method == Method::GET {
            return fake::json_answer(StatusCode::OK, object);
        }
        assert_eq!((&asked.method, path.ends_with("/status")), (&Method::PATCH, true), "{path}");
        if asked.body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return fake::refusal(StatusCode::CONFLICT);
        }
        let mut status = object["status"].take();
        if !status.is_object() {
            status = json!({});
        }
        for (field, value) in asked.body["status"].as_object().unwrap() {
            if value.is_null() {
                status.as_object_mut().unwrap().remove(field);
            } else {
                status[field] = value.clone();
            }
        }
        object["status"] = status;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        fake::json_answer(StatusCode::OK, object)
    }
}

#[derive(Default)]
struct Cluster {
    objects: Objects,
    asked: Vec<(Method, String)>,
    meddling: Option<Meddling>,
    away: bool,
    /// The object of which no status is taken.
    refused: Option<String>,
}

/// A cluster, a controller loop as far as statuses go, and the writer.
pub(super) struct Scene {
    cluster: Arc<Mutex<Cluster>>,
    translator: Translator,
    resources: Resources,
    versions: BTreeMap<ObjectKey, String>,
    pub(super) proxies: BTreeMap<ObjectKey, Proxies>,
    pub(super) writer: StatusWriter,
    pub(super) leader: watch::Sender<bool>,
    pub(super) outages: Arc<Outages>,
    task: JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    /// With these objects; the writer leads.
    pub(super) fn new(objects: impl IntoIterator<Item = Value>) -> Self {
        let cluster = Arc::new(Mutex::new(Cluster::default()));
        for object in objects {
            cluster.lock().unwrap().objects.put(object);
        }
        let server = Arc::clone(&cluster);
        let client = fake::client(move |asked| std::future::ready(answer(&server, &asked)));
        let writer = StatusWriter::new(Settings::default());
        let (leader, leads) = watch::channel(true);
        let outages = Arc::<Outages>::default();
        let task = tokio::spawn(writer.clone().run(client, Arc::clone(&outages), leads));
        Self {
            cluster,
            translator: Translator::new(),
            resources: Resources::default(),
            versions: BTreeMap::new(),
            proxies: BTreeMap::new(),
            writer,
            leader,
            outages,
            task,
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    pub(super) fn objects<T>(&self, then: impl FnOnce(&mut Objects) -> T) -> T {
        then(&mut self.cluster().objects)
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Value {
        self.objects(|objects| objects.get(key))
    }

    /// Does something just before the next write comes in.
    pub(super) fn meddle(&self, meddling: impl FnOnce(&mut Objects) + Send + 'static) {
        self.cluster().meddling = Some(Box::new(meddling));
    }

    /// Answers nothing but 503, or answers again.
    pub(super) fn away(&self, away: bool) {
        self.cluster().away = away;
    }

    /// Takes no status of the object of this name.
    pub(super) fn refuse(&self, name: &str) {
        self.cluster().refused = Some(format!("/{name}/status"));
    }

    /// How many writes of objects of a kind came in.
    pub(super) fn writes(&self, kind: KindId) -> usize {
        let plural = format!("/{}/", kind.info().plural);
        let cluster = self.cluster();
        let writes =
            cluster.asked.iter().filter(|(method, path)| *method == Method::PATCH && path.contains(&plural));
        writes.count()
    }

    /// How many requests of any kind came in.
    pub(super) fn requests(&self) -> usize {
        self.cluster().asked.len()
    }

    /// One turn of the controller's loop: what the watches bring is translated, and the writer is told.
    pub(super) fn turn(&mut self) {
        let mut resources = Resources::default();
        let mut versions = BTreeMap::new();
        for (key, object) in self.cluster().objects.by_path.values() {
            let version = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
            versions.insert(key.clone(), version);
            resources.insert(AnyObject::read(key.kind, object.clone(), None, |_| {}).unwrap());
        }
        let touched: Vec<ObjectKey> = versions
            .iter()
            .filter(|(key, it)| self.versions.get(key) != Some(it))
            .map(|(key, _)| key.clone())
            .collect();
        let changes = resources.changes_since(&self.resources);
        let now = Time(OffsetDateTime::from_unix_timestamp(1_795_392_000).unwrap());
        let options = Options { layout: Layout::PerGateway(fleets(&resources)), ..Options::new(now) };
        let statuses = self.translator.update(&resources, &changes, &options).statuses;
        let served = KindId::ALL.iter().map(|kind| (*kind, kind.info().versions[0])).collect();
        (self.resources, self.versions) = (resources.clone(), versions);
        let proxies = Arc::new(self.proxies.clone());
        self.writer.tell(Round { resources, statuses, proxies, served: Arc::new(served) }, touched);
    }

    /// Turns until nothing more happens.
    pub(super) async fn settle(&mut self) {
        loop {
            let before = self.requests();
            self.turn();
            // Time is not real here: it goes on when nothing else does.
            tokio::time::sleep(Duration::from_secs(30)).await;
            if self.requests() == before {
                return;
            }
        }
    }
}

fn answer(cluster: &Mutex<Cluster>, asked: &Asked) -> Answer {
    let mut cluster = cluster.lock().unwrap();
    cluster.asked.push((asked.method.clone(), asked.path.clone()));
    if cluster.away {
        return fake::refusal(StatusCode::SERVICE_UNAVAILABLE);
    }
    let path = asked.path.split('?').next().unwrap();
    if cluster.refused.as_ref().is_some_and(|refused| path.ends_with(refused)) {
        return fake::refusal(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if asked.method == Method::PATCH
        && let Some(meddling) = cluster.meddling.take()
    {
        meddling(&mut cluster.objects);
    }
    cluster.objects.answer(asked)
}

/// Every Gateway has an address.
fn fleets(resources: &Resources) -> Shards<ObjectKey, Fleet> {
    let address = GatewayStatusAddress { value: "10.96.0.1".to_owned(), ..GatewayStatusAddress::default() };
    let fleet = Fleet { addresses: vec![address], trouble: None };
    resources.keys(KindId::Gateway).into_iter().map(|key| (key, fleet.clone())).collect()
}
