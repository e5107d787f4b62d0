//! A revision: the shards of one plan, and what changed since the revision before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::encode::Shards;
use crate::limits;
use crate::message::{self, Part};
use crate::shard::{Shard, ShardHash, Sum};

/// The shards of one plan.
pub(crate) struct Revision {
    /// Counts up from 1.
    pub(crate) number: u64,
    shards: HashMap<ShardHash, Shard>,
    sum: Sum,
    /// What changed since the revision before.
    delta: Delta,
}

/// What a proxy has.
pub(crate) enum Base {
    /// What it said when it came.
    Hashes(HashSet<ShardHash>),
    /// What it has acknowledged.
    Revision(Arc<Revision>),
}

/// What must be told to who has something else.
#[derive(Clone, Default)]
pub(crate) struct Delta {
    added: Arc<[ShardHash]>,
    removed: Arc<[ShardHash]>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Revision {
    /// The sum of the hashes of its shards: the same in all controllers that have the same plan.
    pub(crate) fn sum(&self) -> Sum {
        self.sum
    }

    /// The revision after that one; `None` if nothing has changed.
    pub(crate) fn after(before: Option<&Arc<Self>>, shards: Shards) -> Option<Arc<Self>> {
        let Shards { by_hash, sum } = shards;
        let (number, delta) = match before {
            None => (1, Delta::default()),
            Some(before) => {
                let delta = delta(&by_hash, |hash| before.shards.contains_key(hash), before.shards.keys());
                if delta.is_empty() {
                    return None;
                }
                (before.number + 1, delta)
            }
        };
        Some(Arc::new(Self { number, shards: by_hash, sum, delta }))
    }

    /// What must be told to who has that.
    pub(crate) fn since(&self, base: &Base) -> Delta {
        match base {
            Base::Revision(base) if base.number == self.number => Delta::default(),
            Base::Revision(base) if base.number + 1 == self.number => self.delta.clone(),
            Base::Revision(base) => {
                delta(&self.shards, |hash| base.shards.contains_key(hash), base.shards.keys())
            }
            Base::Hashes(base) => delta(&self.shards, |hash| base.contains(hash), base.iter()),
        }
    }

    /// The delta as messages, each made when it is asked for.
    pub(crate) fn parts(self: Arc<Self>, delta: Delta) -> Parts {
        Parts { revision: self, delta, added: 0, removed: 0, rest: None, ended: false }
    }
}

fn delta<'a>(
    now: &HashMap<ShardHash, Shard>,
    had: impl Fn(&ShardHash) -> bool,
    before: impl Iterator<Item = &'a ShardHash>,
) -> Delta {
    let mut added: Vec<_> = now.iter().filter(|(hash, _)| !had(hash)).collect();
    // What is referred to comes first.
    added.sort_unstable_by_key(|(hash, shard)| (shard.kind(), **hash));
    Delta {
        added: added.into_iter().map(|(hash, _)| *hash).collect(),
        removed: before.filter(|hash| !now.contains_key(hash)).copied().collect(),
    }
}

/// The messages of a revision.
pub(crate) struct Parts {
    revision: Arc<Revision>,
    delta: Delta,
    added: usize,
    removed: usize,
    /// What is left of a shard that is longer than a part.
    rest: Option<(ShardHash, message::Kind, Bytes)>,
    ended: bool,
}

impl Parts {
    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// When serde refuses a shard, which it has not done when it was hashed.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, serde_json::Error> {
        if self.ended {
            return Ok(None);
        }
        let mut part = Part { revision: self.revision.number, ..Part::default() };
        let removed = &self.delta.removed[self.removed..];
        let removed = &removed[..removed.len().min(limits::HASHES)];
        let mut hashes = BytesMut::with_capacity(removed.len() * ShardHash::LENGTH);
        removed.iter().for_each(|hash| hashes.extend_from_slice(&hash.bytes()));
        self.removed += removed.len();
        part.removed = hashes.freeze();
        let mut room = limits::PART.saturating_sub(part.removed.len());
        while room > 0 {
            let Some((hash, kind, mut body)) = self.take()? else { break };
            let piece = body.split_to(body.len().min(room));
            // A shard's own frame counts too, so that many small ones stay in the bound.
            room = room.saturating_sub(piece.len() + 64);
            part.shards.push(message::Shard {
                hash: Bytes::copy_from_slice(&hash.bytes()),
                kind: kind.into(),
                body: piece,
                more: !body.is_empty(),
            });
            if !body.is_empty() {
                self.rest = Some((hash, kind, body));
            }
        }
        if self.rest.is_none()
            && self.added == self.delta.added.len()
            && self.removed == self.delta.removed.len()
        {
            self.ended = true;
            part.last = true;
            part.sum = Bytes::copy_from_slice(&self.revision.sum.bytes());
        }
        Ok(Some(part))
    }

    fn take(&mut self) -> Result<Option<(ShardHash, message::Kind, Bytes)>, serde_json::Error> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        let Some(hash) = self.delta.added.get(self.added) else { return Ok(None) };
        self.added += 1;
        let Some(shard) = self.revision.shards.get(hash) else { return Ok(None) };
        let mut body = Vec::new();
        shard.write(&mut body)?;
        Ok(Some((*hash, shard.kind(), body.into())))
    }
}
