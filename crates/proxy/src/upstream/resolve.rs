use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Backend, backend};
use portway_plan::Endpoints;

/// How long the addresses of a name are taken to hold. The system's resolver tells no TTL.
const REFRESH: Duration = Duration::from_secs(30);
/// After a failure, the least and most time until the next attempt.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Keeps the names among a backend's endpoints resolved, until the backend goes or gets other endpoints.
/// A name that fails to resolve keeps the addresses that it had.
pub(super) async fn keep(backend: Weak<Backend>, planned: Arc<Endpoints>) {
    let names: BTreeSet<Arc<str>> = backend::names(&planned).cloned().collect();
    let mut retry = RETRY.0;
    loop {
        let mut failed = false;
        for name in &names {
            let found = lookup(name).await;
            let Some(backend) = backend.upgrade() else { return };
            if !Arc::ptr_eq(&backend.planned(), &planned) {
                return;
            }
            match found {
                Ok(addresses) => backend.resolved(name, addresses),
                Err(error) => {
                    failed = true;
                    tracing::warn!(backend = %backend.key(), %name, %error, "the name does not resolve");
                    backend.unresolvable(name);
                }
            }
        }
        let pause = if failed { retry } else { REFRESH };
        retry = if failed { (retry * 2).min(RETRY.1) } else { RETRY.0 };
        tokio::time::sleep(pause).await;
    }
}

async fn lookup(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let found: BTreeSet<IpAddr> = tokio::net::lookup_host((name, 0)).await?.map(|a| a.ip()).collect();
    if found.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no addresses"));
    }
    Ok(found.into_iter().collect())
}
