//! Files to a plan and statuses, once or again and again: the same steps for every command.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use portway_api::core::Service;
use portway_api::diagnostic::Diagnostic;
use portway_api::object::{KindId, ObjectKey, Time};
use portway_plan::{BackendKey, Plan};
use portway_store::{Changes, FileSource, Resources};
use portway_translate::{Layout, Machine, Options, Problem, Problems, Translation, Translator, UNSERVED};
use time::OffsetDateTime;

use crate::demo::Backends;
use crate::places::{Places, key_of};
use crate::print;

/// The folders and files that a command looks at.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Files {
    /// A file, or a folder with all in it; can be given several times
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

impl Files {
    /// Complains of a path that leads nowhere, in the name of a command.
    pub(crate) fn are_there(&self, command: &str) -> bool {
        let Some(missing) = self.paths.iter().find(|path| !path.exists()) else { return true };
        print::complaint(format_args!("portway {command}: {}: no such file or folder", missing.display()));
        false
    }
}

/// What the files come to.
pub(crate) struct World {
    /// All objects, those of the demo backends too.
    pub(crate) resources: Resources,
    /// What there is to say about the files.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The plan, the statuses and the problems.
    pub(crate) translation: Translation,
}

impl World {
    /// Reads files once, as if every port could be bound. Opens no socket.
    pub(crate) fn read(paths: &[PathBuf]) -> Self {
        let loaded = FileSource::load(paths.iter().cloned());
        let mut resources = loaded.resources;
        // Nothing is bound, so nothing can fail.
        Backends::pretended().sync(&mut resources, &mut Changes::default());
        let translation = Translator::new().update(&resources, &Changes::default(), &options(machine()));
        Self { resources, diagnostics: loaded.diagnostics, translation }
    }
}

/// This machine. A Gateway that binds all addresses is told to be at loopback: where the clients of one machine
/// find it.
pub(crate) fn machine() -> Machine {
    Machine { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..Machine::default() }
}

/// The options of a translation now.
pub(crate) fn options(machine: Machine) -> Options {
    // metav1.Time has whole seconds.
    let now = OffsetDateTime::now_utc().truncate_to_second();
    Options { layout: Layout::Shared(machine), ..Options::new(Time(now)) }
}

/// Problems that are in `now` and not in `before`, as diagnostics with their places.
pub(crate) fn problems(now: &Problems, before: &Problems, resources: &Resources) -> Vec<Diagnostic> {
    let mut places = Places::new(resources);
    let fresh = now.iter().filter(|(key, problem)| !before.of(key).contains(problem));
    fresh.map(|(key, problem)| diagnostic(key, problem, &mut places)).collect()
}

/// All objects whose kind does nothing.
pub(crate) fn idle(resources: &Resources) -> impl Iterator<Item = ObjectKey> {
    UNSERVED.iter().flat_map(|kind| resources.keys(*kind))
}

/// A warning for each of these objects whose kind does nothing, so that nobody relies on it.
pub(crate) fn unserved(keys: impl Iterator<Item = ObjectKey>, resources: &Resources) -> Vec<Diagnostic> {
    let mut places = Places::new(resources);
    keys.filter(|key| UNSERVED.contains(&key.kind))
        .map(|key| {
            let message = format!(
                "NotSupported: this version of Portway does nothing about objects of kind {}",
                key.kind
            );
            places.at(Diagnostic::warning(message), &key, "")
        })
        .collect()
}

/// The backends of a plan that nothing says the place of.
pub(crate) fn without_endpoints(plan: &Plan) -> BTreeSet<BackendKey> {
    let empty = |key: &&BackendKey| plan.endpoints.get(*key).is_none_or(|known| known.list.is_empty());
    plan.backends.keys().filter(empty).cloned().collect()
}

/// A warning for each of these backends. In a cluster the EndpointSlices are not in the files; for `run`, which
/// has nothing but files, they are what is missing.
pub(crate) fn no_endpoints<'a>(
    backends: impl IntoIterator<Item = &'a BackendKey>,
    resources: &Resources,
) -> Vec<Diagnostic> {
    let mut places = Places::new(resources);
    let warning = |backend: &BackendKey| {
        let key = key_of(&backend.object)?;
        if key.kind == KindId::XBackend {
            let message = "NoEndpoints: no Pod with these labels is ready; requests to it get 503";
            return Some(places.at(Diagnostic::warning(message), &key, "spec.endpointSelector"));
        }
        let message = format!(
            "NoEndpoints: no EndpointSlice says where port {} is; requests to it get 503",
            backend.port
        );
        let hint = misnamed(backend, resources).unwrap_or_else(|| {
            format!(
                "add an EndpointSlice with the label kubernetes.io/service-name: {}, or have an echo started by the \
                 annotation portway.dev/demo-echo: \"1\" (docs/guide/files.md)",
                backend.object.name
            )
        });
        Some(places.at(Diagnostic::warning(message).hint(hint), &key, ""))
    };
    backends.into_iter().filter_map(warning).collect()
}

/// What to do about EndpointSlices of a Service that have ports, but none of the name that the Service's has.
fn misnamed(backend: &BackendKey, resources: &Resources) -> Option<String> {
    let (namespace, name) = (&backend.object.namespace, &backend.object.name);
    let service = resources.get::<Service>(namespace, name)?;
    let port = service.spec.ports.iter().find(|port| port.port == i32::from(backend.port))?;
    let wanted = port.name.as_deref().unwrap_or_default();
    let slice = resources.endpoint_slices(namespace, name).next()?;
    let names: Vec<_> =
        slice.spec.ports.iter().map(|port| port.name.as_deref().unwrap_or_default()).collect();
    (!names.is_empty() && !names.contains(&wanted)).then(|| {
        format!(
            "the port is named {wanted:?} in the Service and {} in {}; name both alike",
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
            slice.key
        )
    })
}

fn diagnostic(key: &ObjectKey, problem: &Problem, places: &mut Places<'_>) -> Diagnostic {
    let message = format!("{}: {}", problem.reason, problem.message);
    places.at(Diagnostic::warning(message), key, &problem.path)
}

#[cfg(test)]
mod tests {
    use portway_plan::ObjectRef;

    use super::*;

    #[test]
    fn a_port_that_has_another_name_in_the_slice_is_told() {
        let objects = "\
apiVersion: v1
kind: Service
metadata: {name: app, namespace: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app-1, namespace: a, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
ports: [{name: web, port: 3000}]
endpoints: [{addresses: [127.0.0.1]}]
";
        let told = |objects: &str| {
            let resources = Resources::from_documents(objects).expect("valid objects");
            let object = ObjectRef { kind: "Service".into(), namespace: "a".into(), name: "app".into() };
            misnamed(&BackendKey::tcp(object, 80), &resources)
        };
        let hint = told(objects).expect("the names differ");
        assert!(hint.contains(r#""http""#) && hint.contains(r#""web" in EndpointSlice a/app-1"#), "{hint}");
        assert_eq!(told(&objects.replace("web", "http")), None);
    }
}
