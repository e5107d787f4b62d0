//! Shards, put together to a plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use portway_plan::{
    Backend, BackendKey, Certificate, CertificateKey, Endpoints, Forward, ForwardRule, Host, HostPattern,
    Listener, Plan, Port, PrivateKey, Rule, Transport, Trust, TrustKey,
};
use prost::Message as _;

use crate::limits;
use crate::message::{self, Kind, Part};
use crate::shard::{EndpointsBody, ForwardBody, HostBody, ListenerBody, PortBody, ShardHash, Sum};

/// Why a revision cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A shard makes no sense to this version. What is there stays.
    #[error("a {kind:?} cannot be read: {reason}")]
    Shard { kind: Kind, reason: String },
    /// A message that no controller sends. What is there stays.
    #[error("{0}")]
    Protocol(&'static str),
    /// What is there is not what the controller takes it to be: all must be sent again.
    #[error("the proxy and the controller do not mean the same plan: {0}")]
    Diverged(&'static str),
}

/// A plan and the shards it is made of.
#[derive(Default)]
pub(crate) struct Assembly {
    plan: Plan,
    places: HashMap<ShardHash, Place>,
    sum: Sum,
    rules: HashMap<ShardHash, Arc<Rule>>,
    forward_rules: HashMap<ShardHash, Arc<ForwardRule>>,
    listeners: HashMap<Arc<str>, ListenerDraft>,
    ports: BTreeMap<PortKey, PortDraft>,
}

/// What is on the way: a revision of which not all parts are there.
#[derive(Default)]
pub(crate) struct Staged {
    revision: u64,
    pieces: Vec<(ShardHash, Piece)>,
    rules: HashMap<ShardHash, Arc<Rule>>,
    forward_rules: HashMap<ShardHash, Arc<ForwardRule>>,
    removed: Vec<ShardHash>,
    unfinished: Option<Unfinished>,
}

/// A shard of which not all pieces are there.
struct Unfinished {
    hash: ShardHash,
    kind: Kind,
    body: Vec<u8>,
}

/// Hosts and forwards of a listener, the most specific first.
type HostKey = (Reverse<HostPattern>, u16);

/// Ports in the plan's order.
type PortKey = (Option<IpAddr>, u16, Transport);

/// Where in the plan a shard is.
enum Place {
    Rule,
    ForwardRule,
    Host(Arc<str>, HostKey),
    Forward(Arc<str>, HostKey),
    Listener(Arc<str>),
    Port(PortKey),
    Backend(BackendKey),
    Endpoints(BackendKey),
    Certificate(CertificateKey),
    Trust(TrustKey),
}

/// A shard that was read.
enum Piece {
    Rule(Arc<Rule>),
    ForwardRule(Arc<ForwardRule>),
    Host(Arc<str>, HostKey, Arc<Host>),
    Forward(Arc<str>, HostKey, Forward),
    Listener(Arc<str>, Listener),
    Port(PortKey, Vec<Arc<str>>),
    Backend(Arc<Backend>),
    Endpoints(BackendKey, Arc<Endpoints>),
    Certificate(CertificateKey, Arc<Certificate>),
    Trust(TrustKey, Arc<Trust>),
}

#[derive(Default)]
struct ListenerDraft {
    /// Without hosts and forwards.
    head: Option<Listener>,
    hosts: BTreeMap<HostKey, Arc<Host>>,
    forwards: BTreeMap<HostKey, Forward>,
    /// As it is in the plan; `None` if it must be made anew.
    built: Option<Arc<Listener>>,
}

struct PortDraft {
    listeners: Vec<Arc<str>>,
    built: Option<Arc<Port>>,
}

impl Staged {
    pub(crate) fn new(revision: u64) -> Self {
        Self { revision, ..Self::default() }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes a part in.
    pub(crate) fn add(&mut self, part: Part, to: &Assembly) -> Result<(), Fault> {
        for shard in part.shards {
            self.shard(&shard, to)?;
        }
        let removed = ShardHash::read_all(&part.removed).ok_or(Fault::Protocol("half a hash"))?;
        self.removed.extend(removed);
        if self.removed.len() > limits::SHARDS || self.pieces.len() > limits::SHARDS {
            return Err(Fault::Protocol("there are too many shards"));
        }
        Ok(())
    }

    fn shard(&mut self, shard: &message::Shard, to: &Assembly) -> Result<(), Fault> {
        let hash = ShardHash::read(&shard.hash).ok_or(Fault::Protocol("half a hash"))?;
        let kind = shard.kind();
        let begun = self.unfinished.take();
        if begun.as_ref().is_some_and(|begun| (begun.hash, begun.kind) != (hash, kind)) {
            return Err(Fault::Protocol("a shard without its end"));
        }
        let length = begun.as_ref().map_or(0, |begun| begun.body.len()) + shard.body.len();
        if length > limits::SHARD {
            return Err(Fault::Protocol("a shard is too long"));
        }
        if begun.is_none() && !shard.more {
            return self.whole(hash, kind, &shard.body, to);
        }
        let mut unfinished = begun.unwrap_or_else(|| Unfinished { hash, kind, body: Vec::new() });
        unfinished.body.extend_from_slice(&shard.body);
        if shard.more {
            self.unfinished = Some(unfinished);
            return Ok(());
        }
        self.whole(hash, kind, &unfinished.body, to)
    }

    /// Takes a shard in that is complete.
    pub(crate) fn whole(
        &mut self,
        hash: ShardHash,
        kind: Kind,
        body: &[u8],
        to: &Assembly,
    ) -> Result<(), Fault> {
        if ShardHash::of(kind, body) != hash {
            return Err(Fault::Protocol("a shard does not have its hash"));
        }
        let piece = self.read(kind, body, to)?;
        match &piece {
            Piece::Rule(rule) => drop(self.rules.insert(hash, Arc::clone(rule))),
            Piece::ForwardRule(rule) => drop(self.forward_rules.insert(hash, Arc::clone(rule))),
            _ => {}
        }
        self.pieces.push((hash, piece));
        Ok(())
    }

    fn read(&self, kind: Kind, body: &[u8], to: &Assembly) -> Result<Piece, Fault> {
        let fault = |reason: String| Fault::Shard { kind, reason };
        let json = |error: serde_json::Error| fault(error.to_string());
        let unknown = || fault("it names a rule that is not there".to_owned());
        Ok(match kind {
            Kind::Rule => Piece::Rule(serde_json::from_slice(body).map_err(json)?),
            Kind::ForwardRule => Piece::ForwardRule(serde_json::from_slice(body).map_err(json)?),
            Kind::Host => {
                let body: HostBody<'_> = serde_json::from_slice(body).map_err(json)?;
                let hostname = body.hostname.into_owned();
                let entries = body.entries.into_iter().map(|entry| {
                    let rule = self.rules.get(&entry.rule).or_else(|| to.rules.get(&entry.rule));
                    Ok(entry.entry(Arc::clone(rule.ok_or_else(unknown)?)))
                });
                let entries = entries.collect::<Result<_, _>>()?;
                let key = (Reverse(hostname.clone()), body.nth);
                Piece::Host(to.listener_id(&body.listener), key, Arc::new(Host { hostname, entries }))
            }
            Kind::Forward => {
                let body: ForwardBody<'_> = serde_json::from_slice(body).map_err(json)?;
                let rule = self.forward_rules.get(&body.rule).or_else(|| to.forward_rules.get(&body.rule));
                let rule = Arc::clone(rule.ok_or_else(unknown)?);
                let hostname = body.hostname.into_owned();
                let key = (Reverse(hostname.clone()), body.nth);
                Piece::Forward(to.listener_id(&body.listener), key, Forward { hostname, rule })
            }
            Kind::Listener => {
                let body: ListenerBody<'_> = serde_json::from_slice(body).map_err(json)?;
                Piece::Listener(to.listener_id(&body.id), body.listener)
            }
            Kind::Port => {
                let body: PortBody = serde_json::from_slice(body).map_err(json)?;
                let Port { address, port, transport, listeners: _ } = body.port;
                Piece::Port((address, port, transport), body.listeners)
            }
            Kind::Backend => Piece::Backend(serde_json::from_slice(body).map_err(json)?),
            Kind::Endpoints => {
                let body: EndpointsBody<'_> = serde_json::from_slice(body).map_err(json)?;
                Piece::Endpoints(body.backend.into_owned(), Arc::new(body.endpoints.into_owned()))
            }
            Kind::Certificate => {
                let body = message::Certificate::decode(body).map_err(|error| fault(error.to_string()))?;
                let names = body.names.iter().map(|name| HostPattern::parse(name));
                let certificate = Certificate {
                    chain: body.chain,
                    key: PrivateKey(body.private_key),
                    names: names.collect::<Result<_, _>>().map_err(|error| fault(error.to_string()))?,
                    not_after: body.not_after,
                };
                Piece::Certificate(CertificateKey(body.key.into()), Arc::new(certificate))
            }
            Kind::Trust => {
                let body = message::Trust::decode(body).map_err(|error| fault(error.to_string()))?;
                Piece::Trust(TrustKey(body.key.into()), Arc::new(Trust { certificates: body.certificates }))
            }
            Kind::Unspecified => return Err(fault("this version does not know it".to_owned())),
        })
    }
}

impl Assembly {
    /// The plan as it is.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::new(self.plan.clone())
    }

    /// The hashes of all shards that it has.
    pub(crate) fn hashes(&self) -> impl ExactSizeIterator<Item = ShardHash> {
        self.places.keys().copied()
    }

    /// The same text for the same listener, so that it is there once.
    fn listener_id(&self, id: &str) -> Arc<str> {
        self.listeners.get_key_value(id).map_or_else(|| id.into(), |(id, _)| Arc::clone(id))
    }

    /// Takes a revision over whose parts are all there.
    ///
    /// # Errors
    /// After [`Fault::Diverged`] the assembly is of no use any more.
    pub(crate) fn take(&mut self, staged: Staged, sum: Sum) -> Result<Arc<Plan>, Fault> {
        if staged.unfinished.is_some() {
            return Err(Fault::Protocol("a shard without its end"));
        }
        for hash in staged.removed {
            let place = self.places.remove(&hash).ok_or(Fault::Diverged("it never had what is to go"))?;
            self.sum.remove(hash);
            self.remove(hash, place);
        }
        for (hash, piece) in staged.pieces {
            let place = self.put(hash, piece);
            if self.places.insert(hash, place).is_none() {
                self.sum.add(hash);
            }
        }
        if self.sum != sum {
            return Err(Fault::Diverged("their sums differ"));
        }
        self.build()?;
        Ok(self.plan())
    }

    fn remove(&mut self, hash: ShardHash, place: Place) {
        match place {
            Place::Rule => drop(self.rules.remove(&hash)),
            Place::ForwardRule => drop(self.forward_rules.remove(&hash)),
            Place::Host(listener, key) => drop(self.listener(listener).hosts.remove(&key)),
            Place::Forward(listener, key) => drop(self.listener(listener).forwards.remove(&key)),
            Place::Listener(id) => self.listener(id).head = None,
            Place::Port(key) => drop(self.ports.remove(&key)),
            Place::Backend(key) => drop(self.plan.backends.remove(&key)),
            Place::Endpoints(key) => drop(self.plan.endpoints.remove(&key)),
            Place::Certificate(key) => drop(self.plan.certificates.remove(&key)),
            Place::Trust(key) => drop(self.plan.trust.remove(&key)),
        }
    }

    fn put(&mut self, hash: ShardHash, piece: Piece) -> Place {
        match piece {
            Piece::Rule(rule) => {
                self.rules.insert(hash, rule);
                Place::Rule
            }
            Piece::ForwardRule(rule) => {
                self.forward_rules.insert(hash, rule);
                Place::ForwardRule
            }
            Piece::Host(listener, key, host) => {
                self.listener(Arc::clone(&listener)).hosts.insert(key.clone(), host);
                Place::Host(listener, key)
            }
            Piece::Forward(listener, key, forward) => {
                self.listener(Arc::clone(&listener)).forwards.insert(key.clone(), forward);
                Place::Forward(listener, key)
            }
            Piece::Listener(id, listener) => {
                self.listener(Arc::clone(&id)).head = Some(listener);
                Place::Listener(id)
            }
            Piece::Port(key, listeners) => {
                self.ports.insert(key, PortDraft { listeners, built: None });
                Place::Port(key)
            }
            Piece::Backend(backend) => {
                let key = backend.key.clone();
                self.plan.backends.insert(key.clone(), backend);
                Place::Backend(key)
            }
            Piece::Endpoints(key, endpoints) => {
                self.plan.endpoints.insert(key.clone(), endpoints);
                Place::Endpoints(key)
            }
            Piece::Certificate(key, certificate) => {
                self.plan.certificates.insert(key.clone(), certificate);
                Place::Certificate(key)
            }
            Piece::Trust(key, trust) => {
                self.plan.trust.insert(key.clone(), trust);
                Place::Trust(key)
            }
        }
    }

    /// The listener of that name, which is about to change.
    fn listener(&mut self, id: Arc<str>) -> &mut ListenerDraft {
        let draft = self.listeners.entry(id).or_default();
        draft.built = None;
        draft
    }

    /// Makes what has changed of the plan's ports and listeners.
    fn build(&mut self) -> Result<(), Fault> {
        self.listeners
            .retain(|_, draft| draft.head.is_some() || !draft.hosts.is_empty() || !draft.forwards.is_empty());
        for draft in self.listeners.values_mut().filter(|draft| draft.built.is_none()) {
            let head = draft.head.as_ref().ok_or(Fault::Diverged("a host is in no listener"))?;
            draft.built = Some(Arc::new(Listener {
                hosts: draft.hosts.values().cloned().collect(),
                forwards: draft.forwards.values().cloned().collect(),
                ..head.clone()
            }));
        }
        let mut ports = Vec::with_capacity(self.ports.len());
        for (&(address, port, transport), draft) in &mut self.ports {
            let listeners = draft.listeners.iter().map(|id| self.listeners.get(id)?.built.clone());
            let listeners: Option<Vec<_>> = listeners.collect();
            let listeners = listeners.ok_or(Fault::Diverged("a port has a listener that is not there"))?;
            let same = |built: &Arc<Port>| {
                built.listeners.len() == listeners.len()
                    && built.listeners.iter().zip(&listeners).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let built = match draft.built.take().filter(same) {
                Some(built) => built,
                None => Arc::new(Port { address, port, transport, listeners }),
            };
            draft.built = Some(Arc::clone(&built));
            ports.push(built);
        }
        self.plan.ports = ports;
        Ok(())
    }
}
