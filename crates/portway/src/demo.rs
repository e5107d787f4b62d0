//! Demo backends: a Service with the annotation `portway.dev/demo-echo: "2"` gets two echo instances in this
//! process, on free loopback ports, and the EndpointSlices that Kubernetes would make of its pods.
//!
//! ```text
//! Services ──annotation──► instances wanted ──► started, stopped ──► EndpointSlices into the Resources
//! ```
//!
//! Kubernetes takes no notice of the annotation, so the same files can be applied to a cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use portway_api::core::{SERVICE_NAME_LABEL, Service};
use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Change, Changes, Resources, Stored};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::echo::{self, Identity};

/// How many echo instances a Service wants: a number, or `true` for one.
pub(crate) const ANNOTATION: &str = "portway.dev/demo-echo";

/// The port in EndpointSlices of instances that do not run.
pub(crate) const PRETENDED_PORT: u16 = 1;

/// More instances of one Service would show nothing more.
const MOST: usize = 16;

/// The demo backends of the Services that are known.
#[derive(Debug)]
pub(crate) struct Backends {
    /// Where instances run; `None` for `explain` and `get`, which open no sockets and say what `run` would do.
    runtime: Option<Handle>,
    /// By the key of their EndpointSlice.
    instances: BTreeMap<ObjectKey, Instance>,
}

/// An echo instance; it ends when this is dropped.
#[derive(Debug)]
struct Instance {
    slice: AnyObject,
    port: u16,
    task: Option<AbortHandle>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Backends {
    /// Instances that run on this runtime.
    pub(crate) fn running(runtime: Handle) -> Self {
        Self { runtime: Some(runtime), instances: BTreeMap::new() }
    }

    /// Instances that do not run; their EndpointSlices name [`PRETENDED_PORT`].
    pub(crate) fn pretended() -> Self {
        Self { runtime: None, instances: BTreeMap::new() }
    }

    /// Starts and stops instances as the Services want it, and adds their EndpointSlices to the resources and
    /// what that changes to the changes. Returns why instances could not start.
    pub(crate) fn sync(&mut self, resources: &mut Resources, changes: &mut Changes) -> Vec<std::io::Error> {
        let mut wanted: BTreeMap<ObjectKey, Arc<Stored<Service>>> = BTreeMap::new();
        for service in resources.all::<Service>() {
            for nth in 0..instances_of(service) {
                let name = format!("{}-echo-{nth}", service.key.name);
                let key = ObjectKey::new(KindId::EndpointSlice, &service.key.namespace, &name);
                wanted.insert(key, Arc::clone(service));
            }
        }
        self.instances.retain(|key, _| {
            let keep = wanted.contains_key(key);
            if !keep {
                changes.record(key.clone(), Change::Removed);
            }
            keep
        });
        let mut errors = Vec::new();
        for (key, service) in &wanted {
            match self.instance(key, service, changes) {
                Ok(Some(slice)) => {
                    resources.insert(slice);
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// The EndpointSlice of an instance, which is started if need be.
    fn instance(
        &mut self,
        key: &ObjectKey,
        service: &Stored<Service>,
        changes: &mut Changes,
    ) -> std::io::Result<Option<AnyObject>> {
        if let Some(instance) = self.instances.get_mut(key) {
            let slice = slice(key, service, instance.port);
            if let Some(slice) = slice.filter(|slice| !slice.same_spec(&instance.slice)) {
                changes.record(key.clone(), Change::Changed);
                instance.slice = slice;
            }
            return Ok(Some(instance.slice.clone()));
        }
        let (port, task) = match &self.runtime {
            Some(runtime) => {
                let (port, task) = start(runtime, key, service)?;
                (port, Some(task))
            }
            None => (PRETENDED_PORT, None),
        };
        let Some(slice) = slice(key, service, port) else { return Ok(None) };
        changes.record(key.clone(), Change::Added);
        self.instances.insert(key.clone(), Instance { slice: slice.clone(), port, task });
        Ok(Some(slice))
    }
}

fn start(
    runtime: &Handle,
    key: &ObjectKey,
    service: &Stored<Service>,
) -> std::io::Result<(u16, AbortHandle)> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    // One number for both: the slice has one for all ports of the Service.
    let has_udp = service.spec.ports.iter().any(|port| port.protocol.as_deref() == Some("UDP"));
    let datagrams = has_udp.then(|| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port))).transpose()?;
    let identity = Identity {
        service: service.key.name.to_string(),
        pod: key.name.to_string(),
        namespace: key.namespace.to_string(),
    };
    let task = runtime.spawn(async move {
        let datagrams = async {
            if let Some(socket) = datagrams {
                echo::serve_datagrams(socket, &identity).await;
            }
        };
        let requests = async {
            match TcpListener::from_std(listener) {
                Ok(listener) => echo::serve(listener, identity.clone()).await,
                Err(error) => tracing::error!(%error, "demo backend cannot listen"),
            }
        };
        tokio::join!(requests, datagrams);
    });
    Ok((port, task.abort_handle()))
}

/// How many instances a Service wants.
pub(crate) fn instances_of(service: &Stored<Service>) -> usize {
    match service.metadata.annotations.get(ANNOTATION).map(String::as_str) {
        None | Some("false") => 0,
        Some("true") => 1,
        Some(number) => number.parse().unwrap_or(0).min(MOST),
    }
}

/// The EndpointSlice of an instance: it stands for all ports of the Service.
fn slice(key: &ObjectKey, service: &Stored<Service>, port: u16) -> Option<AnyObject> {
    let ports: Vec<_> = service
        .spec
        .ports
        .iter()
        .map(|of| json!({"name": of.name, "port": port, "protocol": of.protocol.as_deref().unwrap_or("TCP"), "appProtocol": of.app_protocol}))
        .collect();
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": &*key.name,
            "namespace": &*key.namespace,
            "labels": {SERVICE_NAME_LABEL: &*service.key.name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": ports,
    });
    AnyObject::read(KindId::EndpointSlice, value, None, |_| {}).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(annotation: &str) -> AnyObject {
        let value = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "cart", "namespace": "store", "annotations": {ANNOTATION: annotation}},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        });
        AnyObject::read(KindId::Service, value, None, |_| {}).unwrap()
    }

    #[tokio::test]
    async fn instances_follow_the_annotation() {
        let mut backends = Backends::running(Handle::current());
        let mut endpoints = |annotation: &str| {
            let mut resources = Resources::default();
            resources.insert(service(annotation));
            let mut changes = Changes::default();
            assert!(backends.sync(&mut resources, &mut changes).is_empty());
            let slices = resources.endpoint_slices("store", "cart");
            let ports: Vec<u16> = slices.map(|slice| slice.spec.ports[0].port.unwrap() as u16).collect();
            (ports, changes.iter().map(|(_, change)| change).collect::<Vec<_>>())
        };
        let (first, changes) = endpoints("2");
        assert_eq!((first.len(), changes), (2, vec![Change::Added, Change::Added]));
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, first[1])).is_ok());
        assert_eq!(endpoints("2"), (first.clone(), vec![]));
        assert_eq!(endpoints("true"), (vec![first[0]], vec![Change::Removed]));
        assert_eq!(endpoints("0").1, [Change::Removed]);
    }
}
