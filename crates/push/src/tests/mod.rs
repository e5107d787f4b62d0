//! Plans, taken apart and put together again.

mod contract;
mod every_node;
mod goldens;
mod random;

use std::collections::HashSet;
use std::sync::Arc;

use portway_plan::Plan;
use prost::Message as _;

use crate::assemble::{Assembly, Fault, Staged};
use crate::encode::Encoder;
use crate::limits;
use crate::message::Part;
use crate::server::revision::{Base, Delta, Revision};
use crate::shard::Sum;

/// A controller and a proxy without a network between them.
#[derive(Default)]
struct Pair {
    encoder: Encoder,
    newest: Option<Arc<Revision>>,
    acknowledged: Option<Arc<Revision>>,
    assembly: Assembly,
}

/// What went over the wire for one plan.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    shards: usize,
    removed: usize,
    bytes: usize,
}

impl Pair {
    fn publish(&mut self, plan: &Plan) {
        let shards = self.encoder.encode(plan).unwrap();
        if let Some(revision) = Revision::after(self.newest.as_ref(), shards) {
            self.newest = Some(revision);
        }
    }

    fn base(&self) -> Base {
        match &self.acknowledged {
            Some(revision) => Base::Revision(Arc::clone(revision)),
            None => Base::Hashes(self.assembly.hashes().collect::<HashSet<_>>()),
        }
    }

    /// Brings the proxy to the newest revision.
    fn push(&mut self) -> (Arc<Plan>, Sent) {
        let newest = Arc::clone(self.newest.as_ref().unwrap());
        let delta = newest.since(&self.base());
        let (plan, sent) = deliver(&mut self.assembly, &newest, delta).unwrap();
        self.acknowledged = Some(newest);
        (plan, sent)
    }

    fn follow(&mut self, plan: &Plan) -> (Arc<Plan>, Sent) {
        self.publish(plan);
        self.push()
    }
}

/// Every message, encoded and decoded, as it would be on the wire.
fn deliver(
    assembly: &mut Assembly,
    revision: &Arc<Revision>,
    delta: Delta,
) -> Result<(Arc<Plan>, Sent), Fault> {
    let mut parts = Arc::clone(revision).parts(delta);
    let mut staged = Staged::new(revision.number);
    let mut sent = Sent::default();
    while let Some(part) = parts.next().unwrap() {
        let wire = part.encode_to_vec();
        assert!(wire.len() <= limits::FROM_CONTROLLER, "a message of {} bytes", wire.len());
        sent.bytes += wire.len();
        sent.shards += part.shards.iter().filter(|shard| !shard.more).count();
        sent.removed += part.removed.len() / 16;
        let part = Part::decode(&*wire).unwrap();
        let (last, sum) = (part.last, part.sum.clone());
        staged.add(part, assembly)?;
        if last {
            let plan = assembly.take(staged, Sum::read(&sum).unwrap())?;
            return Ok((plan, sent));
        }
    }
    panic!("there was no last part");
}
