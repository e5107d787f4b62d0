//! Session persistence (GEP-1619), of rules and of XBackends.

use std::sync::Arc;

use portway_api::gateway::{CookieLifetimeType, SessionPersistence, SessionPersistenceType};
use portway_api::object::{Metadata, ObjectKey};
use portway_plan::{Session, SessionCarrier};

use crate::duration;
use crate::filter::is_token;

/// What cannot be honoured: the field, below the session's, and why.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) message: String,
}

/// Translates the sessions of an object; `part` tells them apart from its others.
pub(crate) fn translate(
    spec: &SessionPersistence,
    path: &str,
    key: &ObjectKey,
    metadata: &Metadata,
    part: &str,
) -> Result<Arc<Session>, Fault> {
    let fault = |field: &str, message: String| Fault { path: format!("{path}.{field}"), message };
    let absolute_timeout = match spec.absolute_timeout.as_deref().map(|text| (text, duration::parse(text))) {
        None => None,
        // Max-Age counts seconds.
        Some((_, Some(timeout))) if timeout.as_secs() > 0 => Some(timeout),
        Some((text, _)) => {
            let message = format!("{text:?} is no duration of a second or more (GEP-2257)");
            return Err(fault("absoluteTimeout", message));
        }
    };
    let (name, carrier) = match &spec.type_ {
        None | Some(SessionPersistenceType::Cookie) => {
            let cookie = spec.cookie.clone().unwrap_or_default();
            let name = cookie.name.unwrap_or_else(|| own_name(key, part));
            if !is_token(&name) {
                return Err(fault("cookie.name", format!("{name:?} is no cookie name")));
            }
            let path = cookie.path.unwrap_or_else(|| "/".to_owned());
            // It becomes part of a Set-Cookie line.
            if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic() && b != b';') {
                return Err(fault("cookie.path", format!("{path:?} is no path of a cookie")));
            }
            let permanent = match &cookie.lifetime_type {
                None | Some(CookieLifetimeType::Session) => false,
                Some(CookieLifetimeType::Permanent) if absolute_timeout.is_some() => true,
                Some(CookieLifetimeType::Permanent) => {
                    let message = "a permanent cookie needs an absoluteTimeout".to_owned();
                    return Err(fault("cookie.lifetimeType", message));
                }
                Some(CookieLifetimeType::Other(other)) => {
                    return Err(fault("cookie.lifetimeType", format!("the type {other:?} is not known")));
                }
            };
            (name, SessionCarrier::Cookie { path: path.into(), permanent })
        }
        Some(SessionPersistenceType::Header) => {
            let name = spec.header.clone().unwrap_or_default().name;
            if !is_token(&name) || is_taken(&name) {
                return Err(fault("header.name", format!("{name:?} is no name for a header of sessions")));
            }
            (name, SessionCarrier::Header)
        }
        Some(SessionPersistenceType::Other(other)) => {
            return Err(fault("type", format!("the type {other:?} is not known")));
        }
    };
    let salt = match &metadata.uid {
        Some(uid) => uid.to_string(),
        None => key.to_string(),
    };
    Ok(Arc::new(Session { name: name.into(), carrier, absolute_timeout, salt: salt.into() }))
}

/// Whether a header has a meaning of its own that sessions would break.
fn is_taken(name: &str) -> bool {
    const TAKEN: [&str; 17] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "host",
        "keep-alive",
        "location",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(name))
}

/// The name of a cookie whose route gives it none: always the same, and no other's.
fn own_name(key: &ObjectKey, part: &str) -> String {
    // FNV-1a.
    let hash = format!("{key} {part}").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("portway-session-{hash:016x}")
}
