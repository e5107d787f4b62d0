//! A plan, taken apart into shards.

use std::collections::HashMap;
use std::sync::Arc;

use portway_plan::{Forward, Host, Listener, Plan, Port};

use crate::shard::{Shard, ShardHash, Sum};

/// All shards of a plan.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    pub(crate) by_hash: HashMap<ShardHash, Shard>,
    pub(crate) sum: Sum,
}

/// Takes plans apart, each with what it knows from the one before: a shard whose `Arc` is the same is not written
/// and hashed again.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    known: Known,
}

/// Hashes by the address of what they are of. The shard keeps it alive, so that no other comes to that address.
type Known = HashMap<(usize, Owner), (Shard, ShardHash)>;

/// Tells apart what is at one address but belongs to several: the listener of a host.
type Owner = u64;

/// One plan that is taken apart.
struct Walk<'a> {
    old: &'a Known,
    new: Known,
    shards: Shards,
    buffer: Vec<u8>,
}

impl Encoder {
    /// # Errors
    /// When serde refuses a node.
    pub(crate) fn encode(&mut self, plan: &Plan) -> Result<Shards, serde_json::Error> {
        let mut walk =
            Walk { old: &self.known, new: Known::new(), shards: Shards::default(), buffer: Vec::new() };
        for port in &plan.ports {
            walk.port(port)?;
        }
        for backend in plan.backends.values() {
            walk.known(address(backend), 0, || Shard::Backend(Arc::clone(backend)))?;
        }
        for (key, endpoints) in &plan.endpoints {
            let same = |known: &Shard| matches!(known, Shard::Endpoints(_, known) if known == key);
            let shard = || Shard::Endpoints(Arc::clone(endpoints), key.clone());
            walk.known_if(address(endpoints), 0, same, shard)?;
        }
        for (key, certificate) in &plan.certificates {
            let same = |known: &Shard| matches!(known, Shard::Certificate(_, known) if known == key);
            let shard = || Shard::Certificate(Arc::clone(certificate), key.clone());
            walk.known_if(address(certificate), 0, same, shard)?;
        }
        for (key, trust) in &plan.trust {
            let same = |known: &Shard| matches!(known, Shard::Trust(_, known) if known == key);
            walk.known_if(address(trust), 0, same, || Shard::Trust(Arc::clone(trust), key.clone()))?;
        }
        let Walk { new, shards, .. } = walk;
        self.known = new;
        Ok(shards)
    }
}

impl Walk<'_> {
    fn port(&mut self, port: &Arc<Port>) -> Result<(), serde_json::Error> {
        let transport = port.transport;
        let name = match port.address {
            Some(address) => format!("{address} {} {transport:?}", port.port),
            None => format!("* {} {transport:?}", port.port),
        };
        let listeners = port.listeners.iter().map(|listener| self.listener(listener, &name));
        let listeners = listeners.collect::<Result<_, _>>()?;
        self.add(Shard::Port(Arc::clone(port), listeners))?;
        Ok(())
    }

    /// Gives the name of the listener by which its hosts say that they are in it. It does not have the listener's
    /// place in its object, so that a listener before it does not rename it.
    fn listener(&mut self, listener: &Arc<Listener>, port: &str) -> Result<Arc<str>, serde_json::Error> {
        let source = &listener.source;
        let section = source.section.as_ref().unwrap_or(&source.path);
        let id: Arc<str> = format!("{port} {} {section}", source.object).into();
        let owner = owner(&id);
        let mut nth = Nth::default();
        for host in &listener.hosts {
            self.host(host, &id, owner, nth.of(&host.hostname))?;
        }
        let mut nth = Nth::default();
        for forward in &listener.forwards {
            let Forward { hostname, rule } = forward;
            let rule = self.known(address(rule), 0, || Shard::ForwardRule(Arc::clone(rule)))?;
            self.add(Shard::Forward(forward.clone(), Arc::clone(&id), nth.of(hostname), rule))?;
        }
        self.add(Shard::Listener(Arc::clone(listener), Arc::clone(&id)))?;
        Ok(id)
    }

    fn host(
        &mut self,
        host: &Arc<Host>,
        id: &Arc<str>,
        owner: Owner,
        nth: u16,
    ) -> Result<(), serde_json::Error> {
        let rules = host
            .entries
            .iter()
            .map(|entry| self.known(address(&entry.rule), 0, || Shard::Rule(Arc::clone(&entry.rule))));
        let rules: Arc<[ShardHash]> = rules.collect::<Result<_, _>>()?;
        let same = |known: &Shard| matches!(known, Shard::Host(_, known, n, _) if known == id && *n == nth);
        let shard = || Shard::Host(Arc::clone(host), Arc::clone(id), nth, rules);
        self.known_if(address(host), owner, same, shard)?;
        Ok(())
    }

    fn known(
        &mut self,
        address: usize,
        owner: Owner,
        shard: impl FnOnce() -> Shard,
    ) -> Result<ShardHash, serde_json::Error> {
        self.known_if(address, owner, |_| true, shard)
    }

    /// Adds a shard; if it is known from the plan before, without a look at what is in it.
    fn known_if(
        &mut self,
        address: usize,
        owner: Owner,
        same: impl Fn(&Shard) -> bool,
        shard: impl FnOnce() -> Shard,
    ) -> Result<ShardHash, serde_json::Error> {
        let key = (address, owner);
        if let Some((known, hash)) = self.new.get(&key)
            && same(known)
        {
            return Ok(*hash);
        }
        let (shard, hash) = match self.old.get(&key) {
            Some((known, hash)) if same(known) => {
                let (known, hash) = (known.clone(), *hash);
                self.put(known.clone(), hash);
                (known, hash)
            }
            _ => {
                let shard = shard();
                let hash = self.add(shard.clone())?;
                (shard, hash)
            }
        };
        self.new.insert(key, (shard, hash));
        Ok(hash)
    }

    fn add(&mut self, shard: Shard) -> Result<ShardHash, serde_json::Error> {
        self.buffer.clear();
        shard.write(&mut self.buffer)?;
        let hash = ShardHash::of(shard.kind(), &self.buffer);
        self.put(shard, hash);
        Ok(hash)
    }

    fn put(&mut self, shard: Shard, hash: ShardHash) {
        if self.shards.by_hash.insert(hash, shard).is_none() {
            self.shards.sum.add(hash);
        }
    }
}

/// Counts how often the same hostname has come in a row, as it may among forwards.
#[derive(Default)]
struct Nth<'a> {
    last: Option<&'a portway_plan::HostPattern>,
    count: u16,
}

impl<'a> Nth<'a> {
    fn of(&mut self, hostname: &'a portway_plan::HostPattern) -> u16 {
        if self.last == Some(hostname) {
            self.count = self.count.saturating_add(1);
        } else {
            (self.last, self.count) = (Some(hostname), 0);
        }
        self.count
    }
}

fn address<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of).addr()
}

fn owner(id: &str) -> Owner {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::new().hash_one(id)
}
