//! Session persistence (GEP-1619): a client's requests go to one endpoint for as long as it is there.
//!
//! What the client keeps is a token: the addresses of its endpoints and since when each is its own, sealed
//! (AES-256-GCM) with a key that all replicas make of the same salt. So a token says nothing to clients, they
//! cannot make one up, and any replica can read it, also one that has just started. There is nothing to keep
//! on this side.
//!
//! ```text
//! token = base64url(nonce 12 | sealed: version 1 | (family 1 | address 4 or 16 | port 2 | since 4)* | tag 16)
//! ```
//!
//! A token may hold several endpoints, since a rule may have several backends: weights choose the backend, and
//! the session the endpoint within it.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use portway_plan::{Session as PlanSession, SessionCarrier};
use smallvec::SmallVec;

use super::Headers;
use crate::upstream::Backend;

/// The most endpoints of a token: backends of a rule among which a client's requests are spread.
const MOST_ENTRIES: usize = 8;
/// The longest token that is looked at: one of [`MOST_ENTRIES`] IPv6 addresses is shorter.
const LONGEST_TOKEN: usize = 320;
/// How many cookies or header lines of the name are looked at. A browser may send several of one name, for
/// different paths.
const MOST_TOKENS: usize = 4;
const VERSION: u8 = 1;

/// Sessions as a rule or a backend asks for them.
pub struct Session {
    plan: std::sync::Arc<PlanSession>,
    key: LessSafeKey,
}

/// An endpoint of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: SocketAddr,
    /// In seconds of Unix time.
    since: u32,
}

/// The session of one request.
pub(crate) struct Stick<'a> {
    session: &'a Session,
    entries: SmallVec<[Entry; 2]>,
    now: u32,
    /// The endpoint that the session asks for.
    asked: Option<SocketAddr>,
    /// The endpoint that the next try should go to.
    pub(crate) preferred: Cell<Option<SocketAddr>>,
    /// The endpoint that the last try went to.
    pub(crate) used: Cell<Option<SocketAddr>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.plan.name).finish_non_exhaustive()
    }
}

impl Session {
    /// `None` if there is no cryptography to be had.
    pub fn compile(plan: &std::sync::Arc<PlanSession>) -> Option<Self> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"portway session 1\0");
        context.update(plan.salt.as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, context.finish().as_ref()).ok()?;
        Some(Self { plan: plan.clone(), key: LessSafeKey::new(key) })
    }

    /// As the plan has it.
    pub fn plan(&self) -> &std::sync::Arc<PlanSession> {
        &self.plan
    }

    /// The session of a request to a backend. Tokens that are none, or too old, are none.
    pub(crate) fn of<'a>(&'a self, headers: &Headers, backend: &Backend) -> Stick<'a> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let mut tokens = SmallVec::<[&[u8]; MOST_TOKENS]>::new();
        match self.plan.carrier {
            SessionCarrier::Header => tokens.extend(headers.get_all(&self.plan.name).take(MOST_TOKENS)),
            SessionCarrier::Cookie { .. } => {
                let pairs = headers.get_all("cookie").flat_map(|line| line.split(|b| *b == b';'));
                let values = pairs.filter_map(|pair| {
                    let pair = pair.trim_ascii();
                    pair.strip_prefix(self.plan.name.as_bytes())?.strip_prefix(b"=")
                });
                tokens.extend(values.take(MOST_TOKENS));
            }
        }
        let entries = tokens.into_iter().find_map(|token| self.open(token, now)).unwrap_or_default();
        let set = backend.endpoints();
        let asked = entries.iter().map(|entry| entry.address).find(|address| set.at(*address).is_some());
        Stick { session: self, entries, now, asked, preferred: Cell::new(asked), used: Cell::new(None) }
    }

    /// Reads a token; what in it is too old is left out.
    fn open(&self, token: &[u8], now: u32) -> Option<SmallVec<[Entry; 2]>> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, self.aad(), sealed).ok()?;
        let mut rest = opened.strip_prefix(&[VERSION])?;
        let mut entries = SmallVec::new();
        while let Some((family, after)) = rest.split_first() {
            let (ip, after) = match family {
                4 => after.split_first_chunk::<4>().map(|(ip, after)| (IpAddr::from(*ip), after))?,
                6 => after.split_first_chunk::<16>().map(|(ip, after)| (IpAddr::from(*ip), after))?,
                _ => return None,
            };
            let (port, after) = after.split_first_chunk::<2>()?;
            let (since, after) = after.split_first_chunk::<4>()?;
            let address = SocketAddr::new(ip, u16::from_be_bytes(*port));
            let entry = Entry { address, since: u32::from_be_bytes(*since) };
            let age = u64::from(now.saturating_sub(entry.since));
            if self.plan.absolute_timeout.is_none_or(|timeout| age < timeout.as_secs()) {
                entries.push(entry);
            }
            rest = after;
        }
        Some(entries)
    }

    fn seal(&self, entries: &[Entry]) -> Option<String> {
        let mut sealed = vec![VERSION];
        for Entry { address, since } in entries {
            match address.ip() {
                IpAddr::V4(ip) => {
                    sealed.push(4);
                    sealed.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    sealed.push(6);
                    sealed.extend(ip.octets());
                }
            }
            sealed.extend(address.port().to_be_bytes());
            sealed.extend(since.to_be_bytes());
        }
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut token = nonce.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, self.aad(), &mut sealed).ok()?;
        token.append(&mut sealed);
        Some(BASE64_URL_SAFE_NO_PAD.encode(token))
    }

    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(self.plan.name.as_bytes())
    }
}

impl Stick<'_> {
    /// Adds the session's token to a response, unless the client has it already. `secure`: it came by TLS.
    pub(crate) fn respond(&self, headers: &mut Headers, secure: bool) {
        let Some(used) = self.used.get().filter(|used| Some(*used) != self.asked) else { return };
        let mut entries = vec![Entry { address: used, since: self.now }];
        entries.extend(self.entries.iter().filter(|entry| entry.address != used));
        entries.truncate(MOST_ENTRIES);
        let Some(token) = self.session.seal(&entries) else { return };
        let plan = &self.session.plan;
        match &plan.carrier {
            SessionCarrier::Header => headers.set(Bytes::copy_from_slice(plan.name.as_bytes()), token),
            SessionCarrier::Cookie { path, permanent } => {
                let age = plan.absolute_timeout.filter(|_| *permanent);
                let age = age.map_or_else(String::new, |age| format!("; Max-Age={}", age.as_secs()));
                let secure = if secure { "; Secure" } else { "" };
                let name = &plan.name;
                headers.append(
                    "Set-Cookie",
                    format!("{name}={token}; Path={path}{age}; HttpOnly{secure}; SameSite=Strict"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn session(salt: &str, timeout: Option<u64>) -> Session {
        let plan = PlanSession {
            name: "s".into(),
            carrier: SessionCarrier::Cookie { path: "/".into(), permanent: false },
            absolute_timeout: timeout.map(Duration::from_secs),
            salt: salt.into(),
        };
        Session::compile(&Arc::new(plan)).expect("a key")
    }

    fn entry(address: &str, since: u32) -> Entry {
        Entry { address: address.parse().expect("an address"), since }
    }

    #[test]
    fn a_token_is_read_by_who_knows_the_salt_only() {
        let entries = [entry("10.0.0.1:80", 7), entry("[fd00::1]:8080", 9)];
        let token = session("a", None).seal(&entries).expect("a token");
        assert_eq!(session("a", None).open(token.as_bytes(), 10).as_deref(), Some(&entries[..]));
        assert_eq!(session("b", None).open(token.as_bytes(), 10), None);
        assert_ne!(session("a", None).seal(&entries), Some(token));
    }

    #[test]
    fn what_is_too_old_is_left_out() {
        let session = session("a", Some(60));
        let token = session.seal(&[entry("10.0.0.1:80", 100), entry("10.0.0.2:80", 130)]).expect("a token");
        let seen = |now| session.open(token.as_bytes(), now).expect("a token").len();
        assert_eq!([seen(100), seen(159), seen(160), seen(190)], [2, 2, 1, 0]);
    }

    #[test]
    fn no_other_token_is_one() {
        let session = session("a", None);
        let token = session.seal(&[entry("10.0.0.1:80", 7)]).expect("a token").into_bytes();
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(session.open(&changed, 10), None, "byte {at}");
            assert_eq!(session.open(&token[..at], 10), None, "{at} bytes");
        }
        for other in [&b""[..], b"=", b"AAAA", &[b'A'; LONGEST_TOKEN], &[b'A'; 70_000], b"\xff\xfe"] {
            assert_eq!(session.open(other, 10), None);
        }
        let most = [entry("[fd00::1]:65535", u32::MAX); MOST_ENTRIES];
        assert!(session.seal(&most).is_some_and(|token| token.len() <= LONGEST_TOKEN));
    }
}
