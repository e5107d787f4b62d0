//! Leader election: who of several controllers writes to the cluster.
//!
//! A `coordination.k8s.io/v1` Lease names its holder. Each controller watches when the record changes, by its own
//! clock: a record that has not changed for the time that it gives itself is up for grabs, whatever the times in it
//! say. So clocks that differ do no harm, only clocks that run at different speeds (as in client-go).
//!
//! Whoever cannot renew in [`Times::renew`] stops to write, which is before anyone else may begin
//! ([`Times::duration`]). All writes to the Lease carry the version that was read, so that of two that take it at
//! once one fails.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::outage::Outages;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long the others wait for a sign of life of the holder; whole seconds.
    pub duration: Duration,
    /// How long the holder tries to renew before it takes itself not to be the holder any more; less than
    /// `duration`.
    pub renew: Duration,
    /// The time between two tries.
    pub retry: Duration,
}

impl Default for Times {
    /// Those of client-go.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A candidate for a Lease.
#[derive(Clone, Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    times: Times,
    outages: Arc<Outages>,
}

/// The record as it was read last.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    /// When this record was seen first, by our clock.
    since: Instant,
}

/// What a try came to.
#[derive(Debug)]
enum Outcome {
    /// The Lease is ours, as of when the request was sent.
    Held(Lease),
    /// It is someone else's.
    Lost(Lease),
    /// It was written to since it was read.
    Conflict,
}

impl Candidate {
    /// A candidate for the Lease `name` in `namespace`; `identity` is what tells it from the others, such as the name
    /// of its pod.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        times: Times,
        outages: Arc<Outages>,
    ) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity: identity.to_owned(), times, outages }
    }

    /// Takes the Lease when it can and holds it as long as it can; `leader` says whether it does. When `end`
    /// completes, it gives the Lease up, so that others need not wait.
    pub async fn run(self, leader: watch::Sender<bool>, end: impl Future<Output = ()>) {
        let mut seen: Option<Seen> = None;
        tokio::select! {
            () = end => {}
            () = self.compete(&leader, &mut seen) => {}
        }
        if leader.send_replace(false)
            && let Some(seen) = seen
        {
            self.release(seen.lease).await;
        }
    }

    async fn compete(&self, leader: &watch::Sender<bool>, seen: &mut Option<Seen>) {
        // When the Lease was renewed last, if it is ours.
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let limit = renewed.unwrap_or(began) + self.times.renew;
            let tried = timeout_at(limit, self.attempt(seen.as_ref())).await;
            match tried {
                Ok(Ok(Outcome::Held(lease))) => {
                    self.outages.works("lease");
                    *seen = Some(Seen { lease, since: began });
                    renewed = Some(began);
                }
                Ok(Ok(Outcome::Lost(lease))) => {
                    self.outages.works("lease");
                    renewed = None;
                    *seen = Some(observe(seen.take(), lease, began));
                }
                Ok(Ok(Outcome::Conflict)) => self.outages.works("lease"),
                Ok(Err(error)) => self.outages.failed("lease", &error),
                Err(_) => {}
            }
            let holds = renewed.is_some_and(|renewed| renewed.elapsed() < self.times.renew);
            if !holds {
                renewed = None;
            }
            if leader.send_replace(holds) != holds {
                let lease = &self.name;
                match holds {
                    true => tracing::info!(lease, identity = self.identity, "leads: writes to the cluster"),
                    false => tracing::warn!(lease, "no longer leads: writes nothing to the cluster"),
                }
            }
            let next = began + self.times.retry;
            // The limit may pass while we wait.
            if let Some(limit) =
                renewed.map(|renewed| renewed + self.times.renew).filter(|limit| *limit < next)
            {
                tokio::time::sleep_until(limit).await;
                leader.send_replace(false);
                renewed = None;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Tries to take or renew the Lease.
    async fn attempt(&self, seen: Option<&Seen>) -> kube::Result<Outcome> {
        let Some(current) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(None)),
            };
            return outcome(self.leases.create(&PostParams::default(), &lease).await);
        };
        if !self.may_take(seen, &current, Instant::now()) {
            return Ok(Outcome::Lost(current));
        }
        let spec = self.record(current.spec.as_ref());
        let lease = Lease { spec: Some(spec), ..current };
        outcome(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn may_take(&self, seen: Option<&Seen>, current: &Lease, now: Instant) -> bool {
        let Some(spec) = &current.spec else { return true };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        // What was not seen before is as good as new.
        let Some(seen) = seen.filter(|seen| seen.lease.spec == current.spec) else { return false };
        let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(self.times.duration, Duration::from_secs);
        now.duration_since(seen.since) >= duration
    }

    /// The record that says that the Lease is ours.
    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let fresh = i32::from(before.is_some() && ours.is_none());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(fresh)),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self, lease: Lease) {
        let spec = lease.spec.clone().unwrap_or_default();
        let free = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..spec
        };
        let lease = Lease { spec: Some(free), ..lease };
        let params = PostParams::default();
        let released = self.leases.replace(&self.name, &params, &lease);
        match tokio::time::timeout(self.times.retry, released).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "gives the lease up"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "the lease cannot be given up"),
            Err(_) => tracing::warn!(lease = self.name, "the lease cannot be given up in time"),
        }
    }
}

/// A record that is the same as before is as old as it was.
fn observe(seen: Option<Seen>, lease: Lease, now: Instant) -> Seen {
    match seen {
        Some(seen) if seen.lease.spec == lease.spec => Seen { lease, since: seen.since },
        _ => Seen { lease, since: now },
    }
}

fn outcome(written: kube::Result<Lease>) -> kube::Result<Outcome> {
    match written {
        Ok(lease) => Ok(Outcome::Held(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Conflict),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
