use std::sync::Mutex;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::fake::{self, Answer, Asked};

/// An API server with one Lease.
#[derive(Debug, Default)]
struct Server {
    lease: Mutex<Value>,
    version: Mutex<u64>,
    away: Mutex<bool>,
}

impl Server {
    fn answer(&self, asked: &Asked) -> Answer {
        let mut lease = self.lease.lock().unwrap();
        let mut version = self.version.lock().unwrap();
        let stale = || asked.body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"];
        match asked.method {
            _ if *self.away.lock().unwrap() => return fake::refusal(StatusCode::SERVICE_UNAVAILABLE),
            Method::GET if lease.is_null() => return fake::refusal(StatusCode::NOT_FOUND),
            Method::GET => {}
            Method::POST if !lease.is_null() => return fake::refusal(StatusCode::CONFLICT),
            Method::PUT if stale() => return fake::refusal(StatusCode::CONFLICT),
            _ => {
                *version += 1;
                *lease = asked.body.clone();
                lease["metadata"]["resourceVersion"] = json!(version.to_string());
            }
        }
        fake::json_answer(StatusCode::OK, &lease)
    }

    fn holder(&self) -> String {
        self.lease.lock().unwrap()["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

/// A candidate that runs.
struct Running {
    leader: watch::Receiver<bool>,
    end: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn new(server: &Arc<Server>, identity: &str) -> Self {
        let server = Arc::clone(server);
        let client = fake::client(move |asked| std::future::ready(server.answer(&asked)));
        let outages = Arc::default();
        let candidate =
            Candidate::new(client, "portway-system", "portway", identity, Times::default(), outages);
        let (sender, leader) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(candidate.run(sender, async {
            let _ = ended.await;
        }));
        Self { leader, end: Some(end), task }
    }

    async fn becomes(&mut self, leader: bool) -> Duration {
        let began = Instant::now();
        let becomes = self.leader.wait_for(|is| *is == leader);
        tokio::time::timeout(Duration::from_secs(600), becomes).await.unwrap().unwrap();
        began.elapsed()
    }

    fn leads(&self) -> bool {
        *self.leader.borrow()
    }

    async fn end(mut self) {
        drop(self.end.take());
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_hands_over_at_once_when_it_ends() {
    let server = Arc::<Server>::default();
    let mut a = Running::new(&server, "a");
    a.becomes(true).await;
    let mut b = Running::new(&server, "b");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(a.leads() && !b.leads());
    assert_eq!(server.holder(), "a");
    a.end().await;
    assert_eq!(server.holder(), "");
    assert!(b.becomes(true).await <= Times::default().retry);
    assert_eq!(server.holder(), "b");
    assert_eq!(server.lease.lock().unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_holder_dies_the_other_waits_for_the_lease_to_run_out() {
    let server = Arc::<Server>::default();
    let mut a = Running::new(&server, "a");
    a.becomes(true).await;
    let mut b = Running::new(&server, "b");
    tokio::time::sleep(Duration::from_secs(5)).await;
    a.task.abort();
    let took = b.becomes(true).await;
    let times = Times::default();
    assert!(took >= times.duration - times.retry && took <= times.duration + 2 * times.retry, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_takes_the_lease_from_nobody() {
    let server = Arc::<Server>::default();
    // By its times it ran out long ago; but it is renewed all the time.
    let renewed = |minute: u32| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "portway", "resourceVersion": format!("x{minute}")},
            "spec": {"holderIdentity": "slow", "leaseDurationSeconds": 15, "renewTime": format!("2001-01-01T00:{minute:02}:00.000000Z")}})
    };
    *server.lease.lock().unwrap() = renewed(0);
    let b = Running::new(&server, "b");
    for minute in 1..10 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!b.leads());
        *server.lease.lock().unwrap() = renewed(minute);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_to_lead_before_others_may_begin() {
    let server = Arc::<Server>::default();
    let mut a = Running::new(&server, "a");
    a.becomes(true).await;
    *server.away.lock().unwrap() = true;
    let took = a.becomes(false).await;
    let times = Times::default();
    assert!(took <= times.renew && took >= times.renew - times.retry, "{took:?}");
    *server.away.lock().unwrap() = false;
    a.becomes(true).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_write_at_once_one_has_it() {
    let server = Arc::<Server>::default();
    let running: Vec<_> = ["a", "b", "c"].iter().map(|identity| Running::new(&server, identity)).collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(running.iter().filter(|candidate| candidate.leads()).count(), 1);
}
