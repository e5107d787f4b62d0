//! The statuses of XBackends.

use std::collections::BTreeSet;
use std::sync::Arc;

use portway_api::gateway::XBackend;
use portway_api::object::{KindId, ObjectKey};
use portway_store::Resources;

use super::{Translator, Work};
use crate::backend::Dependency;
use crate::status::Status;
use crate::{Options, draft, problem, route, survey, x_backend};

impl Translator {
    /// The statuses of the XBackends that may have others now.
    pub(super) fn write_x_backends(&mut self, resources: &Resources, options: &Options, work: &Work) {
        let mut keys = work.x_backends.clone();
        if work.stale.survey {
            keys.extend(self.survey.x_backends.keys().cloned());
            let known = self.statuses.iter().map(|(key, _)| key).chain(self.problems.keys());
            keys.extend(known.filter(|key| key.kind == KindId::XBackend).cloned());
        }
        for key in keys {
            let object = resources.get::<XBackend>(&key.namespace, &key.name);
            let found = object.zip(self.survey.x_backends.get(&key));
            let status = found.and_then(|(object, secured)| {
                let said = self.statuses.get(&key).cloned();
                let said = match said.as_deref() {
                    Some(Status::XBackend(status)) => Some(status),
                    _ => None,
                };
                x_backend::status(object, secured, self.senders_to(&key), options, said)
            });
            let problems = found.map(|(object, secured)| problem::of_x_backend(object, secured));
            self.statuses.set(&key, status.map(|status| Arc::new(Status::XBackend(status))));
            self.problems.set(&key, problems.unwrap_or_default());
        }
    }

    /// The Gateways whose routes, or filters of listeners, send to an XBackend.
    fn senders_to(&self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let dependency = Dependency::XBackend(Arc::clone(&key.namespace), Arc::clone(&key.name));
        let mut gateways = self.gateways_of(&dependency, &route::KINDS);
        let backend = x_backend::key(&key.namespace, &key.name);
        for (gateway, listener) in survey::planned(&self.survey.gateways) {
            let targets = listener.filters.iter().filter_map(draft::filter_target);
            if targets.filter_map(draft::backend_of).any(|asked| *asked == backend) {
                gateways.insert(gateway.object.key.clone());
            }
        }
        gateways
    }
}
