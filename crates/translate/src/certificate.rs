//! Certificates from Secrets of the type `kubernetes.io/tls`.

use std::sync::Arc;

use portway_api::core::Secret;
use portway_plan::{Certificate, HostPattern, PrivateKey};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const TLS_SECRET: &str = "kubernetes.io/tls";
const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
/// More certificates in one chain than any client would follow.
const CHAIN_LIMIT: usize = 16;

/// Reads a Secret's `tls.crt` and `tls.key`, and makes sure that they belong together. Whether the
/// certificate is still valid is not asked here, as that changes by itself.
///
/// # Errors
/// What is wrong with the Secret, for people; without a byte of its contents.
pub(crate) fn read(secret: &Secret) -> Result<Certificate, String> {
    let type_ = secret.spec.type_.as_deref().unwrap_or("Opaque");
    if type_ != TLS_SECRET {
        return Err(format!("it is of the type {type_}, and {TLS_SECRET} is needed"));
    }
    let data = |name: &str| {
        let bytes = secret.spec.data.get(name).filter(|bytes| !bytes.is_empty());
        bytes.ok_or_else(|| format!("it has no {name}"))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(data("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is not PEM: {}", pem_fault(&error)))?;
    if chain.is_empty() {
        return Err("tls.crt has no PEM certificate".to_owned());
    }
    if chain.len() > CHAIN_LIMIT {
        return Err(format!("tls.crt has {} certificates, and {CHAIN_LIMIT} are the limit", chain.len()));
    }
    let mut keys: Vec<PrivateKeyDer<'static>> = PrivateKeyDer::pem_slice_iter(data("tls.key")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.key is not PEM: {}", pem_fault(&error)))?;
    let key = match (keys.pop(), keys.len()) {
        (Some(key), 0) => key,
        (None, _) if data("tls.key")?.windows(ENCRYPTED.len()).any(|bytes| bytes == ENCRYPTED) => {
            return Err("the private key in tls.key has a passphrase, and must have none".to_owned());
        }
        (None, _) => return Err("tls.key has no PEM private key".to_owned()),
        (Some(_), more) => {
            return Err(format!("tls.key has {} private keys, and one is needed", more + 1));
        }
    };
    let (names, not_after) = facts(&chain)?;
    let der = key.secret_der().to_vec();
    let signing = any_supported_type(&key)
        .map_err(|_| "the private key in tls.key is of no kind that TLS can use".to_owned())?;
    let chain_der = chain.iter().map(|certificate| certificate.to_vec()).collect();
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let why = "the private key in tls.key is not that of the first certificate in tls.crt";
            return Err(why.to_owned());
        }
        Err(error) => return Err(format!("the first certificate in tls.crt cannot be used: {error}")),
    }
    Ok(Certificate { chain: chain_der, key: PrivateKey(der), names, not_after })
}

/// What is wrong with PEM. The library's own words quote the bytes that it stumbled over, be they a private
/// key.
pub(crate) fn pem_fault(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no line that ends it",
        pem::Error::IllegalSectionStart { .. } => "the line that begins a section is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    }
}

/// The names of the first certificate and the end of its validity; all of the chain must parse.
fn facts(chain: &[CertificateDer<'_>]) -> Result<(Vec<HostPattern>, i64), String> {
    let mut parsed = Vec::new();
    for (i, der) in chain.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            _ => return Err(format!("certificate {} in tls.crt is not valid DER", i + 1)),
        }
    }
    let Some(leaf) = parsed.first() else { return Err("tls.crt has no certificate".to_owned()) };
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let dns =
        alternative.iter().flat_map(|extension| &extension.value.general_names).filter_map(
            |name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            },
        );
    let mut names: Vec<_> = dns.filter_map(host).collect();
    if names.is_empty() {
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names = common.filter_map(host).collect();
    }
    names.sort();
    names.dedup();
    Ok((names, leaf.validity().not_after.timestamp()))
}

fn host(name: &str) -> Option<HostPattern> {
    HostPattern::parse(name).ok().filter(|name| *name != HostPattern::Any)
}

/// What is kept of a Secret that was read, so that it is read once.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// The Secret that was read; the same one is not read again.
    pub(crate) secret: Arc<portway_store::Stored<Secret>>,
    pub(crate) result: Result<Arc<Certificate>, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages go to statuses and logs, for all to read.
    #[test]
    fn what_is_said_of_a_key_has_nothing_of_it() {
        const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\nMBMGByqG\n-----END PRIVATE KEY-----\n";
        let chain = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
        let about = |key: &str| {
            let mut secret = Secret::default();
            secret.spec.type_ = Some(TLS_SECRET.to_owned());
            secret.spec.data.insert("tls.crt".to_owned(), chain.into());
            secret.spec.data.insert("tls.key".to_owned(), key.into());
            read(&secret).unwrap_err()
        };
        let no_end = "tls.key is not PEM: a section has no line that ends it";
        let bad_begin = "tls.key is not PEM: the line that begins a section is malformed";
        for (key, message) in [
            (KEY.replace('\n', ""), no_end),
            (KEY.replace("-----END PRIVATE KEY-----", ""), no_end),
            (KEY.replace("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY "), bad_begin),
            (KEY.replace("MIGH", "MI*H"), "tls.key is not PEM: a section is not base64"),
            (KEY.replace("PRIVATE", "PUBLIC"), "tls.key has no PEM private key"),
            (
                KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"),
                "the private key in tls.key has a passphrase, and must have none",
            ),
        ] {
            assert_eq!(about(&key), message, "{key}");
        }
    }
}
