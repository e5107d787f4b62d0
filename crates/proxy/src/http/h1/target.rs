//! The request target (RFC 9112 section 3.2).

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;

use super::parse::{Malformed, Refusal};
use crate::fault::FaultKind;
use crate::http::path::normalise;
use crate::http::{Authority, Scheme, Target};

/// A target as it was read, with the authority of its absolute form.
pub(super) struct Received {
    pub(super) target: Target,
    pub(super) authority: Option<Authority>,
}

/// Reads a target other than CONNECT's. An absolute form that names another authority than `Host` is
/// refused: RFC 9112 section 3.2.2 would ignore `Host`, but a server behind may not.
pub(super) fn read(
    text: Bytes,
    method: &Method,
    scheme: Scheme,
    host: Option<&Authority>,
) -> Result<Received, Refusal> {
    match text.first() {
        Some(b'/') => Ok(Received { target: normalise(&text)?, authority: None }),
        Some(b'*') if text.len() == 1 && *method == Method::OPTIONS => {
            Ok(Received { target: Target::new(text), authority: None })
        }
        _ => absolute(&text, method, scheme, host),
    }
}

fn absolute(
    text: &Bytes,
    method: &Method,
    scheme: Scheme,
    host: Option<&Authority>,
) -> Result<Received, Refusal> {
    let expected = scheme.as_str().len();
    let named = text.get(..expected).is_some_and(|s| s.eq_ignore_ascii_case(scheme.as_str().as_bytes()));
    if !named || !text[expected..].starts_with(b"://") {
        return Err(Malformed("not a target, or one of another scheme").into());
    }
    let rest = text.slice(expected + 3..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority =
        Authority::parse(rest.slice(..end)).map_err(|_| Malformed("not an authority in the target"))?;
    let same = |host: &Authority| {
        let port = |a: &Authority| a.port().unwrap_or(scheme.default_port());
        host.host() == authority.host() && port(host) == port(&authority)
    };
    if authority.host().is_empty() || !host.is_none_or(same) {
        return Err(Malformed("the target's authority is not Host").into());
    }
    let target = match rest.get(end) {
        Some(b'/') => normalise(&rest.slice(end..))?,
        None if *method == Method::OPTIONS => Target::new(Bytes::from_static(b"*")),
        _ => {
            let mut with_path = BytesMut::with_capacity(1 + rest.len() - end);
            with_path.put_u8(b'/');
            with_path.extend_from_slice(&rest[end..]);
            normalise(&with_path.freeze())?
        }
    };
    Ok(Received { target, authority: Some(authority) })
}

impl From<FaultKind> for Refusal {
    fn from(kind: FaultKind) -> Self {
        Self { kind, detail: "a target with characters, escapes or segments that it may not have" }
    }
}
