use super::*;
use portway_plan::ObjectRef;
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn key() -> BackendKey {
    let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: "b".into() };
    BackendKey::tcp(object, 80)
}

fn endpoints(list: &[(&str, u16, EndpointState)]) -> Arc<Endpoints> {
    let list = list
        .iter()
        .map(|(address, port, state)| portway_plan::Endpoint {
            address: match address.parse() {
                Ok(ip) => EndpointAddress::Ip(ip),
                Err(_) => EndpointAddress::Name((*address).into()),
            },
            port: *port,
            state: *state,
            zone: None,
        })
        .collect();
    Arc::new(Endpoints { list })
}

use EndpointState::{Active, Terminating};

fn backend(list: &[(&str, u16, EndpointState)]) -> Arc<Backend> {
    let backend = Arc::new(Backend::new(
        key(),
        BackendProtocol::Unspecified,
        BackendMetrics::detached(key()),
        Departures::default(),
    ));
    backend.swap_endpoints(endpoints(list));
    backend
}

fn chosen(backend: &Backend, tried: Option<EndpointId>) -> Arc<Endpoint> {
    let mut rng = SmallRng::seed_from_u64(rand::random());
    backend.endpoints().choose(&mut rng, tried).expect("an endpoint").clone()
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_active() {
    let backend = backend(&[("10.0.0.1", 1, Terminating), ("10.0.0.2", 1, Active)]);
    for _ in 0..20 {
        assert_eq!(chosen(&backend, None).address().to_string(), "10.0.0.2:1");
    }
    backend.swap_endpoints(endpoints(&[("10.0.0.1", 1, Terminating), ("10.0.0.2", 1, Terminating)]));
    let seen: std::collections::BTreeSet<_> = (0..100).map(|_| chosen(&backend, None).address()).collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn what_stays_keeps_its_counters_and_what_leaves_is_marked() {
    let backend = backend(&[("10.0.0.1", 1, Active), ("10.0.0.2", 1, Active)]);
    let before: Vec<_> = backend.endpoints().all().cloned().collect();
    let request = InFlight::new(backend.clone(), before[0].clone());
    backend.swap_endpoints(endpoints(&[("10.0.0.1", 1, Terminating), ("10.0.0.3", 1, Active)]));
    let kept = backend.endpoints().all().find(|e| e.id() == before[0].id()).cloned();
    assert_eq!(kept.map(|e| e.in_flight()), Some(1));
    assert!(before[1].is_removed() && !before[0].is_removed());
    drop(request);
    assert_eq!((before[0].in_flight(), backend.in_flight()), (0, 0));
}

#[test]
fn the_less_busy_of_two_gets_it() {
    let backend = backend(&[("10.0.0.1", 1, Active), ("10.0.0.2", 1, Active)]);
    let busy = backend.endpoints().candidates()[0].clone();
    let _requests: Vec<_> = (0..3).map(|_| InFlight::new(backend.clone(), busy.clone())).collect();
    for _ in 0..50 {
        assert_ne!(chosen(&backend, None).id(), busy.id());
    }
}

#[test]
fn least_request_evens_out() {
    let backend = backend(&[("10.0.0.1", 1, Active), ("10.0.0.2", 1, Active), ("10.0.0.3", 1, Active)]);
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(InFlight::new(backend.clone(), chosen(&backend, None)));
    }
    for endpoint in backend.endpoints().all() {
        assert!((95..=105).contains(&endpoint.in_flight()), "{}", endpoint.in_flight());
    }
}

#[test]
fn failed_endpoints_are_put_aside_unless_all_are() {
    let backend = backend(&[("10.0.0.1", 1, Active), ("10.0.0.2", 1, Active), ("10.0.0.3", 1, Active)]);
    let all: Vec<_> = backend.endpoints().all().cloned().collect();
    all[0].connect_failed(now_ms());
    for _ in 0..50 {
        assert_ne!(chosen(&backend, None).id(), all[0].id());
        assert_eq!(chosen(&backend, Some(all[1].id())).id(), all[2].id());
    }
    all[1].connect_failed(now_ms());
    all[2].connect_failed(now_ms());
    assert_ne!(chosen(&backend, Some(all[0].id())).id(), all[0].id());
    all[0].connected();
    assert_eq!(chosen(&backend, None).id(), all[0].id());
}

#[test]
fn aside_for_growing_times() {
    let endpoint = Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 80)));
    let mut times = Vec::new();
    let mut now = 0;
    for _ in 0..8 {
        endpoint.connect_failed(now);
        // A hundred requests that met the same outage.
        (0..100).for_each(|_| endpoint.connect_failed(now));
        let until = endpoint.aside_until.load(Ordering::Relaxed);
        times.push(until - now);
        now = until;
    }
    assert_eq!(times, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
}

#[test]
fn names_become_endpoints_once_resolved() {
    let backend = backend(&[("db.example.com", 5432, Active)]);
    assert!(backend.is_unresolved());
    let name: Arc<str> = "db.example.com".into();
    backend.resolved(&name, vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
    let seen: Vec<_> = backend.endpoints().all().map(|e| e.address().to_string()).collect();
    assert_eq!(seen, ["10.0.0.1:5432", "[fd00::1]:5432"]);
    assert!(!backend.is_unresolved());
    backend.resolved(&"other.example.com".into(), vec!["10.0.0.9".parse().unwrap()]);
    assert_eq!(backend.endpoints().all().count(), 2);
}

#[test]
fn the_retry_budget_ends() {
    let backend = backend(&[("10.0.0.1", 1, Active)]);
    let endpoint = backend.endpoints().candidates()[0].clone();
    let mut retries: Vec<_> = (0..10).filter_map(|_| backend.take_retry(20)).collect();
    assert_eq!(retries.len(), 10);
    assert!(backend.take_retry(20).is_none());
    let _busy: Vec<_> = (0..100).map(|_| InFlight::new(backend.clone(), endpoint.clone())).collect();
    retries.extend((0..20).filter_map(|_| backend.take_retry(20)));
    assert_eq!(retries.len(), 20);
    retries.clear();
    assert!(backend.take_retry(20).is_some());
}
