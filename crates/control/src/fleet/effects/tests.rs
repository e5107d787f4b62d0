use std::time::Duration;

use http::{Method, StatusCode};
use portway_api::object::Time;
use portway_translate::{CONTROLLER_NAME, Layout, Options, translate};
use tokio::sync::mpsc;

use super::*;
use crate::fake::{self, Answer, Asked};
use crate::fleet::tests::settings;

const GATEWAYS: usize = 20;

/// Gateways, and their plans.
fn wanted() -> (Resources, Shards<ObjectKey, Arc<Plan>>) {
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: portway}\n\
                 spec: {controllerName: portway.dev/gateway-controller}\n";
    let gateway = |i| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g{i}, namespace: infra}}\n\
             spec: {{gatewayClassName: portway, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n"
        )
    };
    let documents: String = std::iter::once(class.to_owned()).chain((0..GATEWAYS).map(gateway)).collect();
    let resources = Resources::from_documents(&documents).unwrap();
    let mut options = Options::new(Time(time::OffsetDateTime::UNIX_EPOCH));
    options.layout = Layout::PerGateway(Shards::default());
    let plans = translate(&resources, &options).plans;
    (resources, plans)
}

/// An API server with nothing in it. It notes what is applied, and answers that when it is let.
#[derive(Debug, Default)]
struct Server {
    applied: Mutex<Vec<String>>,
    watches: Mutex<Vec<mpsc::UnboundedSender<Value>>>,
}

impl Server {
    async fn answer(&self, asked: Asked, mut lets: watch::Receiver<bool>) -> Answer {
        if asked.method == Method::PATCH {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = format!("{} {}", text(&asked.body["kind"]), text(&asked.body["metadata"]["name"]));
            self.applied.lock().unwrap().push(object);
            lets.wait_for(|lets| *lets).await.unwrap();
            return fake::json_answer(StatusCode::OK, &asked.body);
        }
        if asked.is_watch() {
            let (sender, lines) = mpsc::unbounded_channel();
            self.watches.lock().unwrap().push(sender);
            return fake::stream_answer(lines);
        }
        if asked.path.contains("/namespaces/") {
            return fake::refusal(StatusCode::NOT_FOUND);
        }
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
        fake::json_answer(StatusCode::OK, &list)
    }

    fn applied(&self) -> Vec<String> {
        self.applied.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn who_no_longer_leads_writes_no_more_and_who_leads_again_does_all() {
    let server = Arc::<Server>::default();
    let (lets, let_through) = watch::channel(false);
    let asked = Arc::clone(&server);
    let client = fake::client(move |request| {
        let (server, lets) = (Arc::clone(&asked), let_through.clone());
        async move { server.answer(request, lets).await }
    });
    let fleets = Fleets::new(settings());
    let (resources, plans) = wanted();
    fleets.tell(&resources, &plans, CONTROLLER_NAME);
    let (leader, leads) = watch::channel(true);
    let (_authority, authorities) = watch::channel("CA".to_owned());
    let running = tokio::spawn(fleets.run(client, leads, authorities, Arc::default()));
    while server.applied().len() < CONCURRENCY {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    leader.send(false).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    lets.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(server.applied().len(), CONCURRENCY, "only what was under way");

    leader.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let applied = server.applied();
    for i in 0..GATEWAYS {
        assert!(applied.contains(&format!("Deployment g{i}-portway")), "g{i}: {applied:?}");
    }
    running.abort();
}
