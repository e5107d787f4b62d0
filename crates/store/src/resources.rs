//! All objects at one moment.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use portway_api::core::{
    ClusterTrustBundle, ConfigMap, EndpointSlice, NAMESPACE_NAME_LABEL, Namespace, Pod, SERVICE_NAME_LABEL,
    Secret, Service,
};
use portway_api::gateway::{
    BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet, ReferenceGrant, TCPRoute,
    TLSRoute, UDPRoute, XBackend, XBackendTrafficPolicy, XMesh, XTelemetryPolicy,
};
use portway_api::object::{Kind, KindId, Metadata, ObjectKey};
use portway_api::portway::GatewayParameters;
use serde_json::Value;

use crate::sorted::SortedMap;

/// Where an object was read; displays as `store/routes.yaml:12:1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// Which document of the file it is, from 0; the items of a `List` count one by one.
    pub document: u32,
    /// The line on which the object begins, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// An object, its key and where it comes from; derefs to the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The object's key.
    pub key: ObjectKey,
    /// Where it was read; absent if it is from no file.
    pub origin: Option<Origin>,
    /// The object.
    pub object: T,
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

/// A namespace and a name; orders objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(Arc<str>, Arc<str>);

impl Name {
    fn of(key: &ObjectKey) -> Self {
        Self(Arc::clone(&key.namespace), Arc::clone(&key.name))
    }

    fn compare(&self, namespace: &str, name: &str) -> std::cmp::Ordering {
        (&*self.0, &*self.1).cmp(&(namespace, name))
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Table<T>(SortedMap<Name, Arc<Stored<T>>>);

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(SortedMap::default())
    }
}

/// A kind that [`Resources`] holds.
pub trait Held: Kind {
    /// Its objects.
    fn table(resources: &Resources) -> &Table<Self>;
}

macro_rules! held {
    ($($kind:ident: $table:ident,)+) => {
        /// All objects at one moment: immutable, shared and cheap to clone.
        ///
        /// A later moment shares with this one whatever did not change.
        #[derive(Clone, Debug, Default)]
        pub struct Resources {
            $($table: Table<$kind>,)+
            /// The names of the EndpointSlices of each Service.
            slices_of: SortedMap<Name, Arc<[Arc<str>]>>,
        }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum AnyObject {
            $(#[doc = concat!("A ", stringify!($kind), ".")] $kind(Arc<Stored<$kind>>),)+
        }

        $(impl Held for $kind {
            fn table(resources: &Resources) -> &Table<Self> {
                &resources.$table
            }
        })+

        impl AnyObject {
            /// Reads an object of `kind` from its JSON form.
            ///
            /// `edit` sets what the API server would set before the object is stored.
            ///
            /// # Errors
            /// Where a field is missing or of the wrong type.
            pub fn read(
                kind: KindId,
                value: Value,
                origin: Option<Origin>,
                edit: impl FnOnce(&mut Metadata),
            ) -> Result<Self, serde_json::Error> {
                Ok(match kind {
                    $(KindId::$kind => {
                        let mut object = $kind::from_value(value)?;
                        edit(&mut object.metadata);
                        Self::$kind(Arc::new(Stored { key: object.key(), origin, object }))
                    })+
                })
            }

            /// The object's key.
            pub fn key(&self) -> &ObjectKey {
                match self { $(Self::$kind(stored) => &stored.key,)+ }
            }

            /// Where it was read.
            pub fn origin(&self) -> Option<&Origin> {
                match self { $(Self::$kind(stored) => stored.origin.as_ref(),)+ }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Self::$kind(stored) => &stored.metadata,)+ }
            }

            /// Whether both are of one kind and want the same.
            pub fn same_spec(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$kind(a), Self::$kind(b)) => a.spec == b.spec,)+
                    _ => false,
                }
            }

            /// The same object with its metadata edited.
            #[must_use]
            pub fn with_metadata(self, edit: impl FnOnce(&mut Metadata)) -> Self {
                match self {
                    $(Self::$kind(mut stored) => {
                        edit(&mut Arc::make_mut(&mut stored).object.metadata);
                        Self::$kind(stored)
                    })+
                }
            }
        }

        impl Resources {
            /// The object of a key.
            pub fn any(&self, key: &ObjectKey) -> Option<AnyObject> {
                match key.kind {
                    $(KindId::$kind => self.get::<$kind>(&key.namespace, &key.name).cloned().map(AnyObject::$kind),)+
                }
            }

            /// How many objects of a kind there are.
            pub fn count(&self, kind: KindId) -> usize {
                match kind { $(KindId::$kind => self.$table.0.len(),)+ }
            }

            /// The keys of all objects of a kind, in order.
            pub fn keys(&self, kind: KindId) -> Vec<ObjectKey> {
                match kind { $(KindId::$kind => self.$table.0.iter().map(|(_, stored)| stored.key.clone()).collect(),)+ }
            }

            /// Whether this is the very same moment: a clone, unchanged.
            pub(crate) fn is_same(&self, other: &Self) -> bool {
                $(self.$table.0.is_same(&other.$table.0))&&+
            }

            fn put(&mut self, object: AnyObject) -> Option<AnyObject> {
                match object {
                    $(AnyObject::$kind(stored) => {
                        self.$table.0.insert(Name::of(&stored.key), stored).map(AnyObject::$kind)
                    })+
                }
            }

            fn take(&mut self, key: &ObjectKey) -> Option<AnyObject> {
                let compare = |name: &Name| name.compare(&key.namespace, &key.name);
                match key.kind { $(KindId::$kind => self.$table.0.remove(compare).map(AnyObject::$kind),)+ }
            }
        }
    };
}

held! {
    Namespace: namespaces,
    GatewayClass: gateway_classes,
    Gateway: gateways,
    ListenerSet: listener_sets,
    HTTPRoute: http_routes,
    GRPCRoute: grpc_routes,
    TLSRoute: tls_routes,
    TCPRoute: tcp_routes,
    UDPRoute: udp_routes,
    ReferenceGrant: reference_grants,
    BackendTLSPolicy: backend_tls_policies,
    XBackend: x_backends,
    XBackendTrafficPolicy: x_backend_traffic_policies,
    XMesh: x_meshes,
    XTelemetryPolicy: x_telemetry_policies,
    GatewayParameters: gateway_parameters,
    Service: services,
    EndpointSlice: endpoint_slices,
    Pod: pods,
    Secret: secrets,
    ConfigMap: config_maps,
    ClusterTrustBundle: cluster_trust_bundles,
}

impl AnyObject {
    /// The object's JSON form, for the kinds of the Gateway API; the core kinds are not kept whole.
    pub fn to_value(&self) -> Option<Value> {
        macro_rules! of {
            ($($kind:ident)+) => {
                match self {
                    $(Self::$kind(stored) => serde_json::to_value(&stored.object).ok(),)+
                    Self::Namespace(_) | Self::Service(_) | Self::EndpointSlice(_) | Self::Pod(_) => None,
                    Self::Secret(_) | Self::ConfigMap(_) | Self::ClusterTrustBundle(_) => None,
                }
            };
        }
        of!(GatewayClass Gateway ListenerSet HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute ReferenceGrant
            BackendTLSPolicy XBackend XBackendTrafficPolicy XMesh XTelemetryPolicy GatewayParameters)
    }
}

impl Resources {
    /// The object of a name; `namespace` is empty for cluster-scoped kinds.
    // The search is long once it is inlined, and some functions do it for every kind.
    #[inline(never)]
    pub fn get<T: Held>(&self, namespace: &str, name: &str) -> Option<&Arc<Stored<T>>> {
        T::table(self).0.get(|key| key.compare(namespace, name))
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn all<T: Held + 'static>(&self) -> impl Iterator<Item = &Arc<Stored<T>>> {
        T::table(self).0.iter().map(|(_, stored)| stored)
    }

    /// All objects of a kind in a namespace, in order of name.
    pub fn in_namespace<'a, T: Held + 'static>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Stored<T>>> {
        T::table(self).0.range(move |key: &Name| (*key.0).cmp(namespace)).map(|(_, stored)| stored)
    }

    /// The EndpointSlices of a Service, in order of name.
    pub fn endpoint_slices(
        &self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = &Arc<Stored<EndpointSlice>>> {
        let names = self.slices_of.get(|key| key.compare(namespace, service)).map_or(&[][..], |names| names);
        let namespace = namespace.to_owned();
        names.iter().filter_map(move |name| self.get(&namespace, name))
    }

    /// The labels of a namespace.
    ///
    /// A namespace that nothing declares exists all the same, with the one label that the API server gives to
    /// each: without Kubernetes, nothing else can create it.
    pub fn namespace_labels<'a>(&'a self, namespace: &'a str) -> NamespaceLabels<'a> {
        let declared = self.get::<Namespace>("", namespace).map(|stored| &stored.object.metadata.labels);
        NamespaceLabels { namespace, declared }
    }

    /// Sets an object; returns the one that had its key.
    pub fn insert(&mut self, object: AnyObject) -> Option<AnyObject> {
        let slice = match &object {
            AnyObject::EndpointSlice(slice) => Some(Arc::clone(slice)),
            _ => None,
        };
        let previous = self.put(object);
        self.reindex(previous.as_ref(), slice.as_deref());
        previous
    }

    /// Removes an object; returns it.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<AnyObject> {
        let previous = self.take(key);
        self.reindex(previous.as_ref(), None);
        previous
    }

    fn reindex(&mut self, before: Option<&AnyObject>, after: Option<&Stored<EndpointSlice>>) {
        let before = match before {
            Some(AnyObject::EndpointSlice(slice)) => {
                service_of(slice).map(|service| (service, &slice.key.name))
            }
            _ => None,
        };
        let after = after.and_then(|slice| service_of(slice).map(|service| (service, &slice.key.name)));
        if before == after {
            return;
        }
        if let Some((service, slice)) = before {
            let names = self.slices_of.remove(|key| key.cmp(&service)).unwrap_or_default();
            let names: Arc<[_]> = names.iter().filter(|name| *name != slice).cloned().collect();
            if !names.is_empty() {
                self.slices_of.insert(service, names);
            }
        }
        if let Some((service, slice)) = after {
            let names = self.slices_of.get(|key| key.cmp(&service)).cloned().unwrap_or_default();
            let at = names.partition_point(|name| name < slice);
            let names = names[..at].iter().chain([slice]).chain(&names[at..]).cloned().collect();
            self.slices_of.insert(service, names);
        }
    }

    /// What is different here from an earlier moment; where an object was read does not count.
    pub fn changes_since(&self, earlier: &Self) -> Changes {
        let mut changes = Changes::default();
        for &kind in KindId::ALL {
            for key in self.keys(kind) {
                let now = self.any(&key);
                match (earlier.any(&key), now) {
                    (None, Some(_)) => changes.record(key, Change::Added),
                    (Some(then), Some(now))
                        if !(then.same_spec(&now) && then.metadata() == now.metadata()) =>
                    {
                        changes.record(key, Change::Changed);
                    }
                    _ => {}
                }
            }
            for key in earlier.keys(kind) {
                if self.any(&key).is_none() {
                    changes.record(key, Change::Removed);
                }
            }
        }
        changes
    }
}

/// The Service that an EndpointSlice belongs to, by its label.
fn service_of(slice: &Stored<EndpointSlice>) -> Option<Name> {
    let service = slice.metadata.labels.get(SERVICE_NAME_LABEL)?;
    Some(Name(Arc::clone(&slice.key.namespace), service.as_str().into()))
}

/// The labels of a namespace, declared or not.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceLabels<'a> {
    namespace: &'a str,
    declared: Option<&'a BTreeMap<String, String>>,
}

impl<'a> NamespaceLabels<'a> {
    /// The value of a label.
    pub fn get(&self, label: &str) -> Option<&'a str> {
        if label == NAMESPACE_NAME_LABEL {
            return Some(self.namespace);
        }
        self.declared?.get(label).map(String::as_str)
    }

    /// Whether the namespace is declared by an object.
    pub fn is_declared(&self) -> bool {
        self.declared.is_some()
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It differs in its spec or its metadata.
    Changed,
    /// It is gone.
    Removed,
}

/// Which objects changed between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<ObjectKey, Change>);

impl Changes {
    /// Adds what happened after everything that is recorded so far: an object that is added and removed again
    /// did not change.
    pub fn record(&mut self, key: ObjectKey, change: Change) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => match (*entry.get(), change) {
                (Change::Added, Change::Removed) => {
                    entry.remove();
                }
                (Change::Removed, Change::Added) => {
                    entry.insert(Change::Changed);
                }
                (Change::Added, Change::Changed) => {}
                (_, change) => {
                    entry.insert(change);
                }
            },
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many objects changed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What happened to an object, if anything.
    pub fn get(&self, key: &ObjectKey) -> Option<Change> {
        self.0.get(key).copied()
    }

    /// The objects that changed, in order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, Change)> {
        self.0.iter().map(|(key, change)| (key, *change))
    }
}
