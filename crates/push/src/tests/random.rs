//! Plans at random, one after the other.

use std::sync::Arc;

use portway_plan::{
    Backend, BackendProtocol, Certificate, CertificateKey, Endpoints, Entry, Host, HostPattern, Listener,
    ListenerProtocol, ObjectRef, PathMatch, Plan, Port, PrivateKey, Rule, RuleKind, Source, Transport,
};
use proptest::prelude::*;

use super::every_node::backend;
use super::{Pair, deliver};
use crate::assemble::{Assembly, Fault};

fn source(kind: &str, name: String) -> Source {
    let object = ObjectRef { kind: kind.into(), namespace: "n".into(), name: name.into() };
    Source { object: Arc::new(object), path: "".into(), section: None }
}

/// A small plan: some of three listeners, four hosts, five rules, three backends.
fn plan() -> impl Strategy<Value = Plan> {
    let host = proptest::collection::vec((0..5u8, 0..2u8), 1..3);
    let listener = proptest::collection::btree_map(0..4u8, host, 0..4);
    let listeners = proptest::collection::btree_map(0..3u8, listener, 0..3);
    let some = || proptest::collection::btree_map(0..3u8, 0..2u8, 0..3);
    (listeners, some(), some()).prop_map(|(listeners, backends, certificates)| {
        let ports = listeners.into_iter().map(|(number, hosts)| {
            let hosts = hosts.into_iter().map(|(name, entries)| {
                let hostname = HostPattern::parse(&format!("h{name}.example.com")).unwrap();
                let entries = entries.into_iter().map(|(rule, version)| Entry {
                    path: PathMatch::Prefix("/a".into()),
                    method: None,
                    headers: Vec::new(),
                    query: Vec::new(),
                    match_index: 0,
                    route_hostname: hostname.clone(),
                    rule: Arc::new(Rule {
                        source: source("HTTPRoute", format!("r{rule}")),
                        kind: if version == 0 { RuleKind::Http } else { RuleKind::Grpc },
                        filters: Box::default(),
                        backends: Box::default(),
                        timeouts: None,
                        retry: None,
                        session: None,
                    }),
                });
                Arc::new(Host { hostname: hostname.clone(), entries: entries.collect() })
            });
            let mut hosts: Vec<_> = hosts.collect();
            hosts.sort_by(|a, b| b.hostname.cmp(&a.hostname));
            let listener = Listener {
                source: source("Gateway", format!("l{number}")),
                hostname: HostPattern::Any,
                protocol: ListenerProtocol::Http,
                hosts,
                forwards: Vec::new(),
                filters: Vec::new(),
                client_certificate: None,
            };
            let port = 80 + u16::from(number) % 2;
            (port, Arc::new(listener))
        });
        let mut by_port = std::collections::BTreeMap::<u16, Vec<_>>::new();
        ports.for_each(|(port, listener)| by_port.entry(port).or_default().push(listener));
        let port =
            |(port, listeners)| Arc::new(Port { address: None, port, transport: Transport::Tcp, listeners });
        let protocol = |version| if version == 0 { BackendProtocol::Http1 } else { BackendProtocol::H2c };
        let key = |name: u8| backend(&format!("b{name}"));
        let certificate = |version: u8| Certificate {
            chain: vec![vec![version]],
            key: PrivateKey(vec![version]),
            names: Vec::new(),
            not_after: 0,
        };
        Plan {
            ports: by_port.into_iter().map(port).collect(),
            endpoints: backends.keys().map(|name| (key(*name), Arc::new(Endpoints::default()))).collect(),
            backends: backends
                .into_iter()
                .map(|(name, version)| (key(name), Arc::new(Backend::new(key(name), protocol(version)))))
                .collect(),
            certificates: certificates
                .into_iter()
                .map(|(name, version)| {
                    (CertificateKey(format!("n/c{name}").into()), Arc::new(certificate(version)))
                })
                .collect(),
            trust: portway_plan::Shards::default(),
        }
    })
}

proptest! {
    #[test]
    fn a_proxy_that_follows_has_each_plan(plans in proptest::collection::vec((plan(), any::<bool>()), 1..8)) {
        let mut pair = Pair::default();
        for (plan, arrives) in plans {
            pair.publish(&plan);
            // A slow proxy gets only some of them, each from what it had.
            if arrives {
                let (arrived, _) = pair.push();
                prop_assert_eq!(&*arrived, &plan);
                let (again, nothing) = pair.push();
                prop_assert_eq!(&*again, &plan);
                prop_assert_eq!((nothing.shards, nothing.removed), (0, 0));
                // A proxy that comes again and says what it has gets nothing either.
                pair.acknowledged = None;
            }
        }
    }

    #[test]
    fn garbage_is_a_fault_and_changes_nothing(
        (before, after) in (plan(), plan()),
        at in any::<proptest::sample::Index>(),
        bit in 0..8u32,
    ) {
        let mut pair = Pair::default();
        pair.follow(&before);
        pair.publish(&after);
        let revision = pair.newest.clone().unwrap();
        let mut parts = Arc::clone(&revision).parts(revision.since(&pair.base()));
        let mut part = parts.next().unwrap().unwrap();
        if part.shards.is_empty() {
            return Ok(());
        }
        let index = at.index(part.shards.len());
        let mut body = part.shards[index].body.to_vec();
        let byte = at.index(body.len());
        body[byte] ^= 1 << bit;
        part.shards[index].body = body.into();
        let mut staged = crate::assemble::Staged::new(revision.number);
        prop_assert!(staged.add(part, &pair.assembly).is_err());
        prop_assert_eq!(&*pair.assembly.plan(), &before);
        prop_assert_eq!(&*pair.push().0, &after);
    }
}

#[test]
fn one_who_has_something_else_is_found_out() {
    let mut pair = Pair::default();
    pair.publish(&super::every_node::plan());
    let revision = pair.newest.clone().unwrap();
    let delta = revision.since(&pair.base());
    let mut assembly = Assembly::default();
    // The controller takes the proxy to have all.
    let nothing = crate::server::revision::Delta::default();
    assert!(matches!(deliver(&mut assembly, &revision, nothing), Err(Fault::Diverged(_))));
    deliver(&mut Assembly::default(), &revision, delta).unwrap();
}
