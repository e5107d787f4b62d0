//! One write of one status.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, Patch as Body, PatchParams};
use kube::{Api, Client};
use portway_api::object::ObjectKey;
use portway_translate::Status;
use serde_json::json;

use super::merge::{self, Patch};

/// An answer that takes longer does not come any more.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often others may get in between before the write is put off.
const TRIES: u64 = 8;

/// What is to be written.
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) resource: ApiResource,
    pub(super) key: ObjectKey,
    /// Which of the objects of this name, if that is known.
    pub(super) uid: Option<Box<str>>,
    /// `None` to take Portway's entries back.
    pub(super) desired: Option<Arc<Status>>,
    pub(super) controller_name: String,
    /// The patch, and the version of the object that it is for, where the object need not be read again.
    pub(super) known: Option<(Box<str>, Patch)>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    /// The object carries it already.
    Same,
    /// The object is no more.
    Gone,
}

impl Job {
    /// Writes. Also returns how often others got in between.
    pub(super) async fn run(self) -> (u64, Result<Outcome, kube::Error>) {
        let mut conflicts = 0;
        let result = match tokio::time::timeout(PATIENCE, self.write(&mut conflicts)).await {
            Ok(result) => result,
            Err(_) => Err(kube::Error::Service("there was no answer in time".into())),
        };
        (conflicts, result)
    }

    async fn write(mut self, conflicts: &mut u64) -> Result<Outcome, kube::Error> {
        let (namespace, name) = (&*self.key.namespace, &*self.key.name);
        let api: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(self.client.clone(), &self.resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &self.resource)
        };
        loop {
            let (version, patch) = match self.known.take() {
                Some(known) => known,
                None => match self.read(&api).await? {
                    Ok(known) => known,
                    Err(outcome) => return Ok(outcome),
                },
            };
            let body = json!({"metadata": {"resourceVersion": version}, "status": patch.fields});
            match api.patch_status(name, &PatchParams::default(), &Body::Merge(&body)).await {
                Ok(_) => return Ok(Outcome::Written),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Outcome::Gone),
                Err(kube::Error::Api(status)) if status.code == 409 && *conflicts < TRIES => *conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the object anew, and works out what has to change in it.
    async fn read(&self, api: &Api<DynamicObject>) -> kube::Result<Result<(Box<str>, Patch), Outcome>> {
        let Some(object) = api.get_opt(&self.key.name).await? else { return Ok(Err(Outcome::Gone)) };
        if self.uid.is_some() && self.uid.as_deref() != object.metadata.uid.as_deref() {
            return Ok(Err(Outcome::Gone));
        }
        let carried = object.data.get("status");
        let patch = merge::patch(self.key.kind, carried, self.desired.as_deref(), &self.controller_name);
        let version = object.metadata.resource_version.unwrap_or_default();
        Ok(patch.map(|patch| (version.into(), patch)).ok_or(Outcome::Same))
    }
}
