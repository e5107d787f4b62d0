//! Who a proxy is: its ServiceAccount token, reviewed by the API server.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use portway_push::{AUDIENCE, Authenticator, Identity, Pod, Refusal, ServiceAccount};

/// How long a valid token is taken to be valid without asking again.
const VALID: Duration = Duration::from_secs(60);
/// How long an invalid token is taken to be invalid without asking again.
const INVALID: Duration = Duration::from_secs(10);
/// How many reviews are remembered.
const REMEMBERED: usize = 4096;
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest token that is sent to the API server, in bytes.
const LONGEST: usize = 16 * 1024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Reviews ServiceAccount tokens with the API server, and remembers what it says for a short time.
pub struct TokenReviews {
    api: Api<TokenReview>,
    remembered: Mutex<HashMap<Key, Reviewed>>,
}

/// The SHA-256 of a token, so that no token is kept.
type Key = [u8; 32];

/// What a review said, and until when that is taken to be so.
type Reviewed = (Instant, Result<Identity, Refusal>);

impl TokenReviews {
    /// Asks with this client. It needs the verb `create` on `tokenreviews`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), remembered: Mutex::default() }
    }

    fn remembered(&self, key: &Key) -> Option<Result<Identity, Refusal>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, reviewed) = remembered.get(key)?;
        (Instant::now() < *until).then(|| reviewed.clone())
    }

    fn remember(&self, key: Key, reviewed: &Result<Identity, Refusal>) {
        let now = Instant::now();
        let until = match reviewed {
            Ok(_) => now + VALID,
            Err(Refusal::Invalid(_)) => now + INVALID,
            Err(Refusal::Unavailable(_)) => return,
        };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, (until, _)| now < *until);
        }
        if remembered.len() < REMEMBERED {
            remembered.insert(key, (until, reviewed.clone()));
        }
    }

    async fn review(&self, token: &str) -> Result<Identity, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = tokio::time::timeout(PATIENCE, self.api.create(&parameters, &review)).await;
        match asked {
            Ok(Ok(reviewed)) => identity(reviewed.status.unwrap_or_default()),
            Ok(Err(error)) => Err(Refusal::Unavailable(error.to_string())),
            Err(_) => Err(Refusal::Unavailable("the API server does not answer".to_owned())),
        }
    }
}

impl Authenticator for TokenReviews {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Identity, Refusal>> {
        async move {
            if token.is_empty() || token.len() > LONGEST {
                return Err(Refusal::Invalid("it is no token".to_owned()));
            }
            let mut key = Key::default();
            key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
            if let Some(reviewed) = self.remembered(&key) {
                return reviewed;
            }
            let reviewed = self.review(token).await;
            self.remember(key, &reviewed);
            reviewed
        }
        .boxed()
    }
}

/// Who the API server says it is.
fn identity(status: TokenReviewStatus) -> Result<Identity, Refusal> {
    let invalid = |reason: &str| Refusal::Invalid(reason.to_owned());
    if status.authenticated != Some(true) {
        let error = status.error.filter(|error| !error.is_empty());
        return Err(Refusal::Invalid(error.unwrap_or_else(|| "the API server does not know it".to_owned())));
    }
    // A server that knows nothing of audiences would take a token that was meant for the API server.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
        return Err(invalid("it is for another audience"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|name| name.split_once(':'));
    let Some((namespace, name)) = account else {
        return Err(invalid("it is not that of a ServiceAccount"));
    };
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first());
    let pod = first(POD_NAME).zip(first(POD_UID));
    Ok(Identity {
        account: ServiceAccount::new(namespace, name),
        pod: pod.map(|(name, uid)| Pod { name: name.as_str().into(), uid: uid.as_str().into() }),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, audience: &str) -> TokenReviewStatus {
        let extra = [(POD_NAME, "edge-1"), (POD_UID, "u1")];
        TokenReviewStatus {
            audiences: Some(vec![audience.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn a_pod_of_a_service_account() {
        let identity = identity(status("system:serviceaccount:store:edge-portway", AUDIENCE)).unwrap();
        assert_eq!(identity.account, ServiceAccount::new("store", "edge-portway"));
        assert_eq!(identity.pod, Some(Pod { name: "edge-1".into(), uid: "u1".into() }));
    }

    #[test]
    fn who_is_refused() {
        let unknown = TokenReviewStatus { error: Some("expired".to_owned()), ..TokenReviewStatus::default() };
        assert_eq!(identity(unknown), Err(Refusal::Invalid("expired".to_owned())));
        let account = "system:serviceaccount:store:edge";
        assert!(matches!(identity(status(account, "https://kubernetes")), Err(Refusal::Invalid(_))));
        assert!(matches!(identity(status("jane", AUDIENCE)), Err(Refusal::Invalid(_))));
        let silent = TokenReviewStatus { audiences: None, ..status(account, AUDIENCE) };
        assert!(matches!(identity(silent), Err(Refusal::Invalid(_))));
    }
}
