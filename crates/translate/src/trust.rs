//! Certificate authorities from ConfigMaps, Secrets and ClusterTrustBundles.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::core::{ClusterTrustBundle, ConfigMap, Secret};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{Backend, Trust, TrustAnchors, TrustKey};
use portway_store::{AnyObject, Resources};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::certificate::pem_fault;
use crate::condition::Finding;
use crate::grants;
use crate::survey::Site;

/// The key of a ConfigMap or Secret that holds the certificates.
const CA_KEY: &str = "ca.crt";
/// More authorities than any bundle has; all the world's are about 150.
const BUNDLE_LIMIT: usize = 1024;

/// A reference to certificate authorities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    /// `None` for the namespace of who refers.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

/// What a condition calls the ways in which a reference can be bad; the kinds of the API differ in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    pub(crate) kind: &'static str,
    pub(crate) reference: &'static str,
}

/// Authorities that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Those that can be used, each once, in order of their references.
    pub(crate) trust: Vec<TrustKey>,
    /// References that cannot be followed.
    pub(crate) unresolved: Vec<Finding>,
    /// The objects that were looked at, there or not.
    pub(crate) asked: Vec<ObjectKey>,
}

/// What was read of bundles, so that each is read once.
#[derive(Debug, Default)]
pub(crate) struct Bundles(BTreeMap<ObjectKey, Read>);

#[derive(Debug)]
struct Read {
    /// The same object is not read again.
    object: AnyObject,
    result: Result<Arc<Trust>, String>,
}

impl Bundles {
    /// Follows the references of `owner` at `path`.
    pub(crate) fn find<'r>(
        &mut self,
        resources: &Resources,
        owner: &ObjectKey,
        path: &str,
        references: impl Iterator<Item = Reference<'r>>,
        reasons: Reasons,
    ) -> Found {
        let mut found = Found::default();
        for (i, reference) in references.enumerate() {
            match self.follow(resources, owner, reference, reasons, &mut found.asked) {
                Ok(key) if found.trust.contains(&key) => {}
                Ok(key) => found.trust.push(key),
                Err((reason, why)) => {
                    found.unresolved.push(Finding::new(format!("{path}[{i}]"), reason, why));
                }
            }
        }
        found
    }

    fn follow(
        &mut self,
        resources: &Resources,
        owner: &ObjectKey,
        reference: Reference<'_>,
        reasons: Reasons,
        asked: &mut Vec<ObjectKey>,
    ) -> Result<TrustKey, (&'static str, String)> {
        let Reference { group, kind, namespace, name } = reference;
        let key = match (KindId::find(group, kind), namespace.filter(|namespace| !namespace.is_empty())) {
            (Some(kind @ (KindId::ConfigMap | KindId::Secret)), namespace) => {
                let namespace = namespace.unwrap_or(&owner.namespace);
                let target = grants::Target { group, kind: kind.as_str(), namespace, name };
                grants::permit(resources, owner, target).map_err(|why| ("RefNotPermitted", why))?;
                ObjectKey::new(kind, namespace, name)
            }
            (Some(kind @ KindId::ClusterTrustBundle), None) => ObjectKey::new(kind, "", name),
            (Some(KindId::ClusterTrustBundle), Some(_)) => {
                return Err((reasons.reference, "ClusterTrustBundles are in no namespace".to_owned()));
            }
            _ => {
                let group = if group.is_empty() { "core" } else { group };
                let why = format!(
                    "{kind} of the API group {group} holds no certificate authorities; use a ConfigMap, a Secret \
                     or a ClusterTrustBundle"
                );
                return Err((reasons.kind, why));
            }
        };
        asked.push(key.clone());
        match self.read(resources, &key) {
            None => Err((reasons.reference, format!("there is no {key}"))),
            Some(Err(why)) => Err((reasons.reference, format!("{key}: {why}"))),
            Some(Ok(_)) => Ok(TrustKey(key.to_string().into())),
        }
    }

    fn read(&mut self, resources: &Resources, key: &ObjectKey) -> Option<&Result<Arc<Trust>, String>> {
        let Some(object) = resources.any(key) else {
            self.0.remove(key);
            return None;
        };
        let known = self.0.get(key).is_some_and(|read| is_same(&read.object, &object));
        if !known {
            let result = match &object {
                AnyObject::ConfigMap(map) => of_config_map(map),
                AnyObject::Secret(secret) => of_secret(secret),
                AnyObject::ClusterTrustBundle(bundle) => of_bundle(bundle),
                _ => Err("it holds no certificate authorities".to_owned()),
            };
            self.0.insert(key.clone(), Read { object, result: result.map(Arc::new) });
        }
        self.0.get(key).map(|read| &read.result)
    }

    /// The authorities that can be used of those that were asked for and that are `wanted`.
    pub(crate) fn usable(
        &self,
        wanted: impl Fn(&TrustKey) -> bool,
    ) -> impl Iterator<Item = (TrustKey, Arc<Trust>)> {
        self.0.iter().filter_map(move |(key, read)| {
            let key = TrustKey(key.to_string().into());
            let trust = read.result.as_ref().ok().filter(|_| wanted(&key))?;
            Some((key, Arc::clone(trust)))
        })
    }

    /// Forgets what nobody asks for any more.
    pub(crate) fn retain(&mut self, asked: impl Fn(&ObjectKey) -> bool) {
        self.0.retain(|key, _| asked(key));
    }
}

/// How many backends of each plan are checked against which authorities.
#[derive(Debug, Default)]
pub(crate) struct Trusting(BTreeMap<Site, BTreeMap<TrustKey, usize>>);

impl Trusting {
    /// A backend of a plan is another, or joins it, or leaves it. Returns whether the plan's backends name
    /// other authorities now.
    pub(crate) fn count(&mut self, site: &Site, before: Option<&Backend>, after: Option<&Backend>) -> bool {
        let (before, after) = (trusted(before), trusted(after));
        if before == after {
            return false;
        }
        let counts = self.0.entry(site.clone()).or_default();
        for key in after {
            *counts.entry(key.clone()).or_default() += 1;
        }
        for key in before {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
        if counts.is_empty() {
            self.0.remove(site);
        }
        true
    }

    /// Whether backends of a plan name that authority.
    pub(crate) fn names(&self, site: &Site, key: &TrustKey) -> bool {
        self.0.get(site).is_some_and(|counts| counts.contains_key(key))
    }

    /// The plans whose backends name any.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.0.keys()
    }

    /// A plan is gone.
    pub(crate) fn forget(&mut self, site: &Site) {
        self.0.remove(site);
    }
}

/// The authorities that a backend is checked against.
fn trusted(backend: Option<&Backend>) -> &[TrustKey] {
    match backend.and_then(|backend| backend.tls.as_deref()).map(|tls| &tls.trust) {
        Some(TrustAnchors::Of(keys)) => keys,
        Some(TrustAnchors::System) | None => &[],
    }
}

fn is_same(a: &AnyObject, b: &AnyObject) -> bool {
    match (a, b) {
        (AnyObject::ConfigMap(a), AnyObject::ConfigMap(b)) => Arc::ptr_eq(a, b),
        (AnyObject::Secret(a), AnyObject::Secret(b)) => Arc::ptr_eq(a, b),
        (AnyObject::ClusterTrustBundle(a), AnyObject::ClusterTrustBundle(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn of_config_map(map: &ConfigMap) -> Result<Trust, String> {
    let text = map.spec.data.get(CA_KEY).map(String::as_bytes);
    parse(text.or_else(|| map.spec.binary_data.get(CA_KEY).map(Vec::as_slice)), CA_KEY)
}

fn of_secret(secret: &Secret) -> Result<Trust, String> {
    parse(secret.spec.data.get(CA_KEY).map(Vec::as_slice), CA_KEY)
}

fn of_bundle(bundle: &ClusterTrustBundle) -> Result<Trust, String> {
    parse(Some(bundle.spec.trust_bundle.as_bytes()), "spec.trustBundle")
}

/// PEM certificates that can be trust anchors. One that cannot spoils the bundle: who wrote it meant all.
fn parse(text: Option<&[u8]>, field: &str) -> Result<Trust, String> {
    let text = text.filter(|text| !text.is_empty()).ok_or_else(|| format!("it has no {field}"))?;
    let mut certificates: Vec<Vec<u8>> = Vec::new();
    for (i, der) in CertificateDer::pem_slice_iter(text).enumerate() {
        let der = der.map_err(|error| format!("{field} is not PEM: {}", pem_fault(&error)))?;
        if i == BUNDLE_LIMIT {
            return Err(format!("{field} has more than {BUNDLE_LIMIT} certificates, which is the limit"));
        }
        RootCertStore::empty()
            .add(der.clone())
            .map_err(|error| format!("certificate {} in {field} cannot be used: {error}", i + 1))?;
        certificates.push(der.to_vec());
    }
    if certificates.is_empty() {
        return Err(format!("{field} has no PEM certificate"));
    }
    certificates.sort();
    certificates.dedup();
    Ok(Trust { certificates })
}
