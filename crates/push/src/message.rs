//! The messages of `proto/push.proto`, which documents them.
#![allow(missing_docs, reason = "documented in proto/push.proto; a test compares the two")]

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FromProxy {
    #[prost(oneof = "from_proxy::Message", tags = "1, 2, 3, 4")]
    pub(crate) message: Option<from_proxy::Message>,
}

pub(crate) mod from_proxy {
    use super::{Have, Hello, Outcome, Token};

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Message {
        #[prost(message, tag = "1")]
        Hello(Hello),
        #[prost(message, tag = "2")]
        Have(Have),
        #[prost(message, tag = "3")]
        Outcome(Outcome),
        #[prost(message, tag = "4")]
        Token(Token),
    }
}

impl From<from_proxy::Message> for FromProxy {
    fn from(message: from_proxy::Message) -> Self {
        Self { message: Some(message) }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) pod_name: String,
    #[prost(string, tag = "4")]
    pub(crate) pod_uid: String,
    #[prost(string, tag = "5")]
    pub(crate) version: String,
    #[prost(uint32, tag = "6")]
    pub(crate) have: u32,
    #[prost(bool, tag = "7")]
    pub(crate) ticket_keys: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Have {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) hashes: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Outcome {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(string, tag = "2")]
    pub(crate) rejected: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) unavailable: Vec<UnavailablePort>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) failed: Vec<FailedListener>,
    #[prost(bool, tag = "5")]
    pub(crate) kept: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UnavailablePort {
    #[prost(string, tag = "1")]
    pub(crate) address: String,
    #[prost(uint32, tag = "2")]
    pub(crate) port: u32,
    #[prost(bool, tag = "3")]
    pub(crate) udp: bool,
    #[prost(string, tag = "4")]
    pub(crate) reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FailedListener {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) path: String,
    #[prost(string, optional, tag = "5")]
    pub(crate) section: Option<String>,
    #[prost(string, tag = "6")]
    pub(crate) reason: String,
    #[prost(bool, tag = "7")]
    pub(crate) serves: bool,
}

/// Not `Debug`: it is a secret.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Token {
    #[prost(string, tag = "1")]
    pub(crate) token: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token([redacted])")
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FromController {
    #[prost(message, optional, tag = "1")]
    pub(crate) part: Option<Part>,
    #[prost(message, optional, tag = "2")]
    pub(crate) ticket_keys: Option<TicketKeys>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TicketKeys {
    #[prost(message, repeated, tag = "1")]
    pub(crate) keys: Vec<TicketKey>,
}

/// Not `Debug`: it is a secret.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct TicketKey {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) key: Vec<u8>,
}

/// What is left of it when it was sent, or when the key was taken out.
impl Drop for TicketKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketKey({}, [redacted])", self.epoch)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Part {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) shards: Vec<Shard>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) removed: bytes::Bytes,
    #[prost(bool, tag = "4")]
    pub(crate) last: bool,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) sum: bytes::Bytes,
}

/// Its body may hold a private key.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Shard {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) hash: bytes::Bytes,
    #[prost(enumeration = "Kind", tag = "2")]
    pub(crate) kind: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) body: bytes::Bytes,
    #[prost(bool, tag = "4")]
    pub(crate) more: bool,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({:?}, {} bytes)", self.kind(), self.body.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Unspecified = 0,
    Rule = 1,
    ForwardRule = 2,
    Host = 3,
    Forward = 4,
    Listener = 5,
    Port = 6,
    Backend = 7,
    Endpoints = 8,
    Certificate = 9,
    Trust = 10,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Certificate {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) private_key: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    pub(crate) names: Vec<String>,
    #[prost(int64, tag = "5")]
    pub(crate) not_after: i64,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.key)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Trust {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) certificates: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReportRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Report {
    #[prost(string, tag = "1")]
    pub(crate) controller: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) replicas: Vec<ReportedReplica>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReportedReplica {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) pod_name: String,
    #[prost(string, tag = "4")]
    pub(crate) pod_uid: String,
    #[prost(string, tag = "5")]
    pub(crate) version: String,
    #[prost(bool, tag = "6")]
    pub(crate) connected: bool,
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) acknowledged: bytes::Bytes,
    #[prost(message, optional, tag = "8")]
    pub(crate) outcome: Option<Outcome>,
    #[prost(bytes = "bytes", tag = "9")]
    pub(crate) rejected: bytes::Bytes,
    #[prost(string, tag = "10")]
    pub(crate) reason: String,
    #[prost(bool, tag = "11")]
    pub(crate) forgotten: bool,
}
