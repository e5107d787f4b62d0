//! Certificate authorities, ready for use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use portway_plan::{HostPattern, Plan, Trust, TrustAnchors, TrustKey};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

/// How long the system's authorities are used before a new plan has them read again.
const SYSTEM_AGE: Duration = Duration::from_secs(600);

/// Who may have signed certificates.
pub(crate) struct Anchors {
    planned: Vec<Arc<Trust>>,
    pub(crate) roots: Arc<RootCertStore>,
}

impl Anchors {
    fn new(planned: Vec<Arc<Trust>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for der in planned.iter().flat_map(|trust| &trust.certificates) {
            roots.add(CertificateDer::from(der.as_slice())).map_err(|error| error.to_string())?;
        }
        Ok(Self { planned, roots: Arc::new(roots) })
    }

    /// Tells apart who is let in by them, on the listener of that hostname: the same on all replicas.
    pub(crate) fn digest(&self, hostname: &HostPattern, optional: bool) -> Vec<u8> {
        let mut context = digest::Context::new(&digest::SHA256);
        let hostname = hostname.to_string();
        let certificates = self.planned.iter().flat_map(|trust| &trust.certificates);
        for part in std::iter::once(hostname.as_bytes()).chain(certificates.map(Vec::as_slice)) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.update(&[u8::from(optional)]);
        context.finish().as_ref().to_vec()
    }

    /// The certificate itself is among those that are trusted, not just its signer.
    pub(crate) fn names(&self, certificate: &CertificateDer<'_>) -> bool {
        let mut all = self.planned.iter().flat_map(|trust| &trust.certificates);
        all.any(|der| der.as_slice() == certificate.as_ref())
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificate authorities", self.roots.len())
    }
}

/// All authorities in use. Those that have not changed from one plan to the next are the same ones.
#[derive(Default)]
pub(crate) struct AnchorStore {
    of: BTreeMap<Vec<TrustKey>, Arc<Anchors>>,
    system: Option<(Instant, Result<Arc<Anchors>, String>)>,
}

impl AnchorStore {
    /// The authorities of a plan that are meant.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub(crate) fn get(&mut self, plan: &Plan, wanted: &TrustAnchors) -> Result<Arc<Anchors>, String> {
        match wanted {
            TrustAnchors::System => self.system(),
            TrustAnchors::Of(keys) => self.of(plan, keys),
        }
    }

    /// The authorities of all these together.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub(crate) fn of(&mut self, plan: &Plan, keys: &[TrustKey]) -> Result<Arc<Anchors>, String> {
        if keys.is_empty() {
            return Err("there are no certificate authorities that can be used".to_owned());
        }
        let find = |key| plan.trust.get(key).cloned().ok_or_else(|| format!("{} is missing", key.0));
        let planned = keys.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        match self.of.get(keys) {
            Some(known) if known.planned == planned => Ok(known.clone()),
            _ => {
                let anchors = Arc::new(Anchors::new(planned)?);
                self.of.insert(keys.to_vec(), anchors.clone());
                Ok(anchors)
            }
        }
    }

    fn system(&mut self) -> Result<Arc<Anchors>, String> {
        if let Some((at, found)) = &self.system
            && at.elapsed() < SYSTEM_AGE
        {
            return found.clone();
        }
        let found = load_system().map(|roots| match &self.system {
            Some((_, Ok(known))) if known.roots.roots == roots.roots => known.clone(),
            _ => Arc::new(Anchors { planned: Vec::new(), roots: Arc::new(roots) }),
        });
        self.system = Some((Instant::now(), found.clone()));
        found
    }

    /// Forgets what nobody uses any more.
    pub(crate) fn prune(&mut self) {
        self.of.retain(|_, anchors| Arc::strong_count(anchors) > 1);
    }
}

/// The authorities that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR`, else where the system keeps
/// them). Those that cannot be read are left out.
fn load_system() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let why: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    let why = if why.is_empty() { "none is installed".to_owned() } else { why.join("; ") };
    Err(format!("the system has no certificate authorities: {why}"))
}
