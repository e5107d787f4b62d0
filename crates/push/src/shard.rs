//! A shard: a piece of a plan, its hash and its bytes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use portway_plan::{
    Backend, BackendKey, Certificate, CertificateKey, Endpoints, Entry, Forward, ForwardRule, HeaderMatch,
    Host, HostPattern, Listener, PathMatch, Port, QueryMatch, Rule, Trust, TrustKey,
};
use prost::Message as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::{self, Kind};

/// Names a shard: the first half of the SHA-256 of its kind and body.
///
/// 128 bits: two shards of one hash are found after 2^64 tries, and whoever finds them has to get both into the plan
/// of one Gateway to confuse that Gateway's proxies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShardHash(u128);

impl ShardHash {
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn of(kind: Kind, body: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[kind as u8]);
        context.update(body);
        let mut half = [0; Self::LENGTH];
        half.copy_from_slice(&context.finish().as_ref()[..Self::LENGTH]);
        Self(u128::from_le_bytes(half))
    }

    pub(crate) fn bytes(self) -> [u8; Self::LENGTH] {
        self.0.to_le_bytes()
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_le_bytes(bytes)))
    }

    /// Hashes, one after the other.
    pub(crate) fn read_all(bytes: &[u8]) -> Option<impl Iterator<Item = Self>> {
        let (hashes, rest) = bytes.as_chunks::<{ Self::LENGTH }>();
        rest.is_empty().then(|| hashes.iter().map(|bytes| Self(u128::from_le_bytes(*bytes))))
    }
}

impl fmt::Debug for ShardHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for ShardHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for ShardHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The sum of all hashes of a plan, modulo 2^128: whether both sides mean the same plan. It guards against faults of
/// ours, not against an adversary; TLS does that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u128);

impl Sum {
    pub(crate) fn add(&mut self, hash: ShardHash) {
        self.0 = self.0.wrapping_add(hash.0);
    }

    pub(crate) fn remove(&mut self, hash: ShardHash) {
        self.0 = self.0.wrapping_sub(hash.0);
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_le_bytes(bytes)))
    }
}

/// A shard as the plan holds it. Its bytes are made when they are sent, and not kept.
#[derive(Clone, Debug)]
pub(crate) enum Shard {
    Rule(Arc<Rule>),
    ForwardRule(Arc<ForwardRule>),
    /// A host, its listener, its place among hosts of that listener with the same name, and the hash of each
    /// entry's rule.
    Host(Arc<Host>, Arc<str>, u16, Arc<[ShardHash]>),
    Forward(Forward, Arc<str>, u16, ShardHash),
    Listener(Arc<Listener>, Arc<str>),
    Port(Arc<Port>, Arc<[Arc<str>]>),
    Backend(Arc<Backend>),
    Endpoints(Arc<Endpoints>, BackendKey),
    Certificate(Arc<Certificate>, CertificateKey),
    Trust(Arc<Trust>, TrustKey),
}

/// The body of a host. It says in which listener it is, since the plan is a set of shards.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostBody<'a> {
    #[serde(borrow)]
    pub(crate) listener: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) nth: u16,
    pub(crate) hostname: Cow<'a, HostPattern>,
    pub(crate) entries: Vec<EntryBody<'a>>,
}

/// An entry, with the hash of its rule instead of the rule.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryBody<'a> {
    path: Cow<'a, PathMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    headers: Cow<'a, [HeaderMatch]>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    query: Cow<'a, [QueryMatch]>,
    match_index: u16,
    route_hostname: Cow<'a, HostPattern>,
    pub(crate) rule: ShardHash,
}

impl<'a> EntryBody<'a> {
    fn of(entry: &'a Entry, rule: ShardHash) -> Self {
        let Entry { path, method, headers, query, match_index, route_hostname, rule: _ } = entry;
        Self {
            path: Cow::Borrowed(path),
            method: method.clone(),
            headers: Cow::Borrowed(headers),
            query: Cow::Borrowed(query),
            match_index: *match_index,
            route_hostname: Cow::Borrowed(route_hostname),
            rule,
        }
    }

    pub(crate) fn entry(self, rule: Arc<Rule>) -> Entry {
        Entry {
            path: self.path.into_owned(),
            method: self.method,
            headers: self.headers.into_owned(),
            query: self.query.into_owned(),
            match_index: self.match_index,
            route_hostname: self.route_hostname.into_owned(),
            rule,
        }
    }
}

/// The body of a forward.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForwardBody<'a> {
    #[serde(borrow)]
    pub(crate) listener: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) nth: u16,
    pub(crate) hostname: Cow<'a, HostPattern>,
    pub(crate) rule: ShardHash,
}

/// The body of a listener.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerBody<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    /// Without hosts and forwards.
    pub(crate) listener: Listener,
}

/// The body of a port.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortBody {
    /// Without listeners.
    pub(crate) port: Port,
    pub(crate) listeners: Vec<Arc<str>>,
}

/// The body of a backend's endpoints.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointsBody<'a> {
    pub(crate) backend: Cow<'a, BackendKey>,
    pub(crate) endpoints: Cow<'a, Endpoints>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Shard {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Rule(_) => Kind::Rule,
            Self::ForwardRule(_) => Kind::ForwardRule,
            Self::Host(..) => Kind::Host,
            Self::Forward(..) => Kind::Forward,
            Self::Listener(..) => Kind::Listener,
            Self::Port(..) => Kind::Port,
            Self::Backend(_) => Kind::Backend,
            Self::Endpoints(..) => Kind::Endpoints,
            Self::Certificate(..) => Kind::Certificate,
            Self::Trust(..) => Kind::Trust,
        }
    }

    /// Its bytes, appended. Private keys are in them.
    ///
    /// # Errors
    /// When serde refuses, which it does for no type of the plan.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self {
            Self::Rule(rule) => serde_json::to_writer(out, rule),
            Self::ForwardRule(rule) => serde_json::to_writer(out, rule),
            Self::Host(host, listener, nth, rules) => {
                let Host { hostname, entries } = &**host;
                let entries = entries.iter().zip(&**rules).map(|(entry, rule)| EntryBody::of(entry, *rule));
                let body = HostBody {
                    listener: Cow::Borrowed(listener),
                    nth: *nth,
                    hostname: Cow::Borrowed(hostname),
                    entries: entries.collect(),
                };
                serde_json::to_writer(out, &body)
            }
            Self::Forward(forward, listener, nth, rule) => {
                let Forward { hostname, rule: _ } = forward;
                let body = ForwardBody {
                    listener: Cow::Borrowed(listener),
                    nth: *nth,
                    hostname: Cow::Borrowed(hostname),
                    rule: *rule,
                };
                serde_json::to_writer(out, &body)
            }
            Self::Listener(listener, id) => {
                let Listener {
                    source,
                    hostname,
                    protocol,
                    hosts: _,
                    forwards: _,
                    filters,
                    client_certificate,
                } = &**listener;
                let listener = Listener {
                    source: source.clone(),
                    hostname: hostname.clone(),
                    protocol: protocol.clone(),
                    hosts: Vec::new(),
                    forwards: Vec::new(),
                    filters: filters.clone(),
                    client_certificate: client_certificate.clone(),
                };
                serde_json::to_writer(out, &ListenerBody { id: Cow::Borrowed(id), listener })
            }
            Self::Port(port, listeners) => {
                let Port { address, port, transport, listeners: _ } = &**port;
                let port =
                    Port { address: *address, port: *port, transport: *transport, listeners: Vec::new() };
                serde_json::to_writer(out, &PortBody { port, listeners: listeners.to_vec() })
            }
            Self::Backend(backend) => serde_json::to_writer(out, backend),
            Self::Endpoints(endpoints, backend) => {
                let (backend, endpoints) = (Cow::Borrowed(backend), Cow::Borrowed(&**endpoints));
                serde_json::to_writer(out, &EndpointsBody { backend, endpoints })
            }
            Self::Certificate(certificate, key) => {
                let Certificate { chain, key: private_key, names, not_after } = &**certificate;
                let message = message::Certificate {
                    key: key.0.to_string(),
                    chain: chain.clone(),
                    private_key: private_key.0.clone(),
                    names: names.iter().map(ToString::to_string).collect(),
                    not_after: *not_after,
                };
                out.extend_from_slice(&message.encode_to_vec());
                Ok(())
            }
            Self::Trust(trust, key) => {
                let Trust { certificates } = &**trust;
                let message = message::Trust { key: key.0.to_string(), certificates: certificates.clone() };
                out.extend_from_slice(&message.encode_to_vec());
                Ok(())
            }
        }
    }
}
