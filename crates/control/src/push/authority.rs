//! The authority by which proxies know the controller.
//!
//! It is in a Secret in the controller's namespace, made by whichever replica comes first and used by all; each
//! replica has a serving certificate of its own from it, which lives for a day and is only in memory.
//!
//! ```text
//! signer ───────────── 1 year ──────────────►
//!                     next: trusted ─ 1 day ─► signer ─────────────────►
//!                                             previous: trusted to its end
//! ```
//!
//! So whatever signs was trusted for a day before, and what proxies still trust goes on to be valid.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use portway_push::{ServingCertificate, TicketRoot, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration as Span, OffsetDateTime};
use tokio::sync::watch;
use x509_parser::pem::parse_x509_pem;

/// How long an authority is valid.
const LIFE: Span = Span::days(365);
/// How long before its end another follows.
const OVERLAP: Span = Span::days(120);
/// How long an authority is trusted before it signs: longer than a ConfigMap takes to reach every pod.
const TRUSTED_FIRST: Span = Span::days(1);
/// How long a serving certificate is valid.
const SERVING_LIFE: Span = Span::hours(24);
/// When it is made anew.
const SERVING_RENEWED: Span = Span::hours(8);
/// For clocks that are not quite right.
const EARLIER: Span = Span::hours(1);
/// How often the Secret is looked at.
const LOOK: Duration = Duration::from_secs(600);
/// How long until it is looked at again after that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How often a write that came too late is tried with what is there now.
const TRIES: u32 = 5;

/// Secret keys.
const SIGNER: (&str, &str) = ("tls.crt", "tls.key");
const NEXT: (&str, &str) = ("next.crt", "next.key");
const PREVIOUS: &str = "previous.crt";
const BUNDLE: &str = "ca.crt";

/// The authority, and this replica's certificate from it.
pub struct Authority {
    api: Api<Secret>,
    secret: String,
    names: Vec<String>,
    certificate: ServingCertificate,
    bundle: watch::Sender<String>,
    ticket_root: watch::Sender<Option<TicketRoot>>,
    /// By whom the serving certificate was signed, and when.
    served: Option<(String, OffsetDateTime)>,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret cannot be read or written.
    #[error("Secret {secret}: {error}")]
    Secret {
        /// Its name.
        secret: String,
        /// Why.
        error: Box<kube::Error>,
    },
    /// Other replicas change the Secret all the time.
    #[error("Secret {0}: it is changed by others all the time")]
    Contested(String),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The certificate that was made cannot be served.
    #[error("{0}")]
    Serve(#[from] TlsError),
}

/// What is in the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    signer: Ca,
    next: Option<Ca>,
    /// Certificates that did sign.
    previous: Option<String>,
}

/// An authority.
#[derive(Clone, PartialEq, Eq)]
struct Ca {
    certificate: String,
    key: String,
    from: OffsetDateTime,
    until: OffsetDateTime,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({} to {})", self.from, self.until)
    }
}

impl Authority {
    /// Reads the authority from the Secret, or makes it; with a serving certificate for these DNS names. It needs
    /// the verbs get, create and update on `secrets` in that namespace.
    ///
    /// # Errors
    /// When the Secret can be neither read nor made.
    pub async fn open(
        client: Client,
        namespace: &str,
        secret: &str,
        names: Vec<String>,
    ) -> Result<Self, AuthorityError> {
        let mut authority = Self {
            api: Api::namespaced(client, namespace),
            secret: secret.to_owned(),
            names,
            certificate: ServingCertificate::new(),
            bundle: watch::Sender::new(String::new()),
            ticket_root: watch::Sender::new(None),
            served: None,
        };
        authority.look().await?;
        Ok(authority)
    }

    /// The certificate to serve with; kept current by [`Authority::run`].
    pub fn certificate(&self) -> ServingCertificate {
        self.certificate.clone()
    }

    /// The authorities that proxies must trust, in PEM; kept current by [`Authority::run`].
    pub fn bundle(&self) -> watch::Receiver<String> {
        self.bundle.subscribe()
    }

    /// What the keys of TLS session tickets are made from: the same for all replicas, since it follows from the
    /// authority's key, and another when another authority signs; kept current by [`Authority::run`].
    pub fn ticket_root(&self) -> watch::Receiver<Option<TicketRoot>> {
        self.ticket_root.subscribe()
    }

    /// Renews what has to be renewed. Ends never.
    pub async fn run(mut self) {
        let mut pause = LOOK;
        let mut told = false;
        loop {
            tokio::time::sleep(pause).await;
            match self.look().await {
                Ok(()) => (pause, told) = (LOOK, false),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "the authority of the push is not current");
                    }
                    pause = LOOK_AGAIN;
                }
            }
        }
    }

    /// Takes over what is in the Secret, after what is due was done.
    async fn look(&mut self) -> Result<(), AuthorityError> {
        let now = OffsetDateTime::now_utc();
        let state = self.current(now).await?;
        let signer = &state.signer.certificate;
        let fresh = self.served.as_ref().is_some_and(|(by, at)| by == signer && now - *at < SERVING_RENEWED);
        if !fresh {
            let (chain, key) = serving(&state.signer, &self.names, now)?;
            self.certificate.set(chain.as_bytes(), key.as_bytes())?;
            self.served = Some((signer.clone(), now));
        }
        let root = Some(TicketRoot::derive(state.signer.key.as_bytes()));
        self.ticket_root.send_if_modified(|known| {
            let new = *known != root;
            *known = root;
            new
        });
        let bundle = state.bundle();
        self.bundle.send_if_modified(|known| {
            let new = *known != bundle;
            *known = bundle;
            new
        });
        Ok(())
    }

    async fn current(&self, now: OffsetDateTime) -> Result<State, AuthorityError> {
        let failed = |error| AuthorityError::Secret { secret: self.secret.clone(), error: Box::new(error) };
        for _ in 0..TRIES {
            let found = self.api.get_opt(&self.secret).await.map_err(failed)?;
            let before = found.as_ref().and_then(State::read);
            let due = State::due(before.as_ref(), now)?;
            let Some(state) = due else {
                if let Some(before) = before {
                    return Ok(before);
                }
                continue;
            };
            let parameters =
                PostParams { field_manager: Some("portway".to_owned()), ..PostParams::default() };
            let written = match found {
                None => self.api.create(&parameters, &state.secret(&self.secret)).await,
                Some(found) => {
                    let secret = Secret { data: Some(state.data()), ..found };
                    self.api.replace(&self.secret, &parameters, &secret).await
                }
            };
            match written {
                Ok(_) => return Ok(state),
                // Another replica was there first.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(AuthorityError::Contested(self.secret.clone()))
    }
}

impl State {
    /// What must be in the Secret instead; `None` if what is there is good.
    fn due(before: Option<&Self>, now: OffsetDateTime) -> Result<Option<Self>, rcgen::Error> {
        let Some(before) = before.filter(|state| now < state.signer.until) else {
            return Ok(Some(Self { signer: Ca::new(now)?, next: None, previous: None }));
        };
        if let Some(next) = before.next.as_ref().filter(|next| now - next.from >= TRUSTED_FIRST + EARLIER) {
            let previous = Some(before.signer.certificate.clone());
            return Ok(Some(Self { signer: next.clone(), next: None, previous }));
        }
        if before.next.is_none() && before.signer.until - now <= OVERLAP {
            return Ok(Some(Self { next: Some(Ca::new(now)?), ..before.clone() }));
        }
        Ok(None)
    }

    /// All that is to be trusted.
    fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.certificate.as_str());
        let previous = self.previous.iter().map(String::as_str);
        std::iter::once(self.signer.certificate.as_str()).chain(next).chain(previous).collect()
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put =
            |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
        for (ca, (certificate, key)) in [(Some(&self.signer), SIGNER), (self.next.as_ref(), NEXT)] {
            if let Some(ca) = ca {
                put(certificate, &ca.certificate);
                put(key, &ca.key);
            }
        }
        if let Some(previous) = &self.previous {
            put(PREVIOUS, previous);
        }
        put(BUNDLE, &self.bundle());
        data
    }

    fn secret(&self, name: &str) -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some("Opaque".to_owned()),
            data: Some(self.data()),
            ..Secret::default()
        }
    }

    /// `None` if it makes no sense: then it is made anew.
    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let ca = |(certificate, key): (&str, &str)| Ca::read(text(certificate)?, text(key)?);
        Some(Self { signer: ca(SIGNER)?, next: ca(NEXT), previous: text(PREVIOUS) })
    }
}

impl Ca {
    fn new(now: OffsetDateTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = authority(now);
        let (from, until) = (params.not_before, params.not_after);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), from, until })
    }

    fn read(certificate: String, key: String) -> Option<Self> {
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
        let validity = pem.parse_x509().ok()?.validity().clone();
        KeyPair::from_pem(&key).ok()?;
        let (from, until) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Some(Self { certificate, key, from, until })
    }
}

/// The authority's own certificate.
fn authority(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Portway push");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - EARLIER;
    params.not_after = now + LIFE;
    params
}

/// A serving certificate and its key, in PEM.
fn serving(signer: &Ca, names: &[String], now: OffsetDateTime) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::new(authority(now), KeyPair::from_pem(&signer.key)?);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "Portway controller");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = now - EARLIER;
    params.not_after = (now + SERVING_LIFE).min(signer.until);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_trusted_before_it_signs_and_after() {
        let mut now = OffsetDateTime::from_unix_timestamp(1_795_392_000).unwrap();
        let mut state = State::due(None, now).unwrap().unwrap();
        let (mut signers, mut trusted_since) = (0, BTreeMap::from([(state.signer.certificate.clone(), now)]));
        let mut served: Vec<(String, OffsetDateTime)> = Vec::new();
        // Three years, looked at every 6 hours.
        for _ in 0..3 * 365 * 4 {
            now += Span::hours(6);
            if let Some(due) = State::due(Some(&state), now).unwrap() {
                if due.signer != state.signer {
                    signers += 1;
                    let since = now - trusted_since[&due.signer.certificate];
                    assert!(since >= TRUSTED_FIRST, "it signs {since} after it is trusted");
                }
                state = due;
            }
            assert!(state.signer.until - now > SERVING_LIFE);
            let bundle = state.bundle();
            for pem in [Some(&state.signer), state.next.as_ref()].into_iter().flatten() {
                trusted_since.entry(pem.certificate.clone()).or_insert(now);
            }
            served.retain(|(_, at)| now - *at <= SERVING_LIFE);
            served.push((state.signer.certificate.clone(), now));
            // Whatever still serves is trusted.
            assert!(served.iter().all(|(by, _)| bundle.contains(by)));
        }
        assert!(signers >= 3, "{signers}");
    }

    #[test]
    fn the_secret_holds_all_of_it() {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let state = State {
            signer: Ca::new(now).unwrap(),
            next: Some(Ca::new(now).unwrap()),
            previous: Some(Ca::new(now).unwrap().certificate),
        };
        let read = State::read(&state.secret("push")).unwrap();
        assert_eq!(read, state);
        assert!(!format!("{read:?}").contains("PRIVATE"));
        let broken = Secret { data: Some(BTreeMap::new()), ..state.secret("push") };
        assert_eq!(State::read(&broken), None);
        assert!(State::due(None, now).unwrap().is_some());
    }
}
