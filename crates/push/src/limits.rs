//! What bounds the push on both sides.

use std::time::Duration;

/// How long a part of a revision may be on the wire, in bytes, apart from the frame around it. Longer shards are
/// cut into pieces.
pub const PART: usize = 256 * 1024;

/// The longest message that a proxy takes from the controller, in bytes.
pub(crate) const FROM_CONTROLLER: usize = 2 * PART;

/// The longest message that the controller takes from a proxy, in bytes.
pub(crate) const FROM_PROXY: usize = 256 * 1024;

/// How many hashes one message holds.
pub(crate) const HASHES: usize = 8 * 1024;

/// How many shards a proxy may say that it has. A proxy with more says none, and gets all of them again.
pub const SHARDS: usize = 1 << 20;

/// The longest shard that a proxy takes, in bytes.
pub const SHARD: usize = 64 * 1024 * 1024;

/// How many connections the controller holds at once; further ones wait for a place.
pub const CONNECTIONS: usize = 4096;

/// How long a TLS handshake may take.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long after the handshake a connection may be without a valid token.
pub const PROOF: Duration = Duration::from_secs(10);

/// How long a proxy may take for each message until it has said what it has.
pub(crate) const GREETING: Duration = Duration::from_secs(10);

/// How long a proxy waits for its Gateway to be published before it is told to come again.
pub(crate) const UNPUBLISHED: Duration = Duration::from_secs(10);

/// How long a proxy may take to receive and apply one revision.
pub const REVISION: Duration = Duration::from_secs(60);

/// How often either side asks whether the other is still there (HTTP/2 PING), and how long it waits for the answer.
pub(crate) const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// How often the token of an open stream is reviewed again.
pub const REVIEW: Duration = Duration::from_secs(300);

/// How long a proxy that has gone is still told of by [`crate::Server::state`], so that one that comes right back
/// changes nothing.
pub const GONE: Duration = Duration::from_secs(30);

/// The longest reason that is told, in bytes.
pub(crate) const REASON: usize = 1024;

/// How many replicas one report between controllers tells of.
pub(crate) const REPORTED: usize = 500;

/// The longest report between controllers, in bytes.
pub(crate) const REPORT: usize = 64 * 1024 * 1024;

/// How long a controller waits for more to report after something has changed.
pub(crate) const REPORT_SETTLES: Duration = Duration::from_millis(5);

/// How many of a Gateway's last plans are known by their sums when another controller tells of them.
pub(crate) const RECENT: usize = 32;

/// How many ports and listeners an outcome names at most, each.
pub(crate) const OUTCOME: usize = 100;

/// Keys of tickets in one message; more are not looked at.
pub(crate) const TICKET_KEYS: usize = 8;
