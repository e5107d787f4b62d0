//! Who may have which plan.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

/// Names a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl GatewayName {
    /// A Gateway's name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for GatewayName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err("it must be NAMESPACE/NAME".to_owned()),
        }
    }
}

/// Names a ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ServiceAccount {
    /// A ServiceAccount's name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A proxy's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
}

/// Who a token says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The ServiceAccount.
    pub account: ServiceAccount,
    /// The pod that the token is bound to; `None` for tokens that are bound to none.
    pub pod: Option<Pod>,
}

/// Why a token says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no valid token for [`crate::AUDIENCE`].
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// Nobody is there to ask. Streams that are open stay open.
    #[error("the token cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// Tells who the bearer of a ServiceAccount token is.
pub trait Authenticator: Send + Sync + 'static {
    /// Reviews a token, whose audience must be [`crate::AUDIENCE`].
    ///
    /// # Errors
    /// When it is not valid, or when that cannot be found out.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Identity, Refusal>>;
}
