//! Which listeners may share a port, and who yields (Gateway `listeners`, "Distinct Listeners").
//!
//! Objects enter by precedence: Gateways by age, then all ListenerSets, by their Gateway's age and then their
//! own, so that a set takes nothing away from a Gateway, be it another's. A listener that is in the way of one
//! that entered before yields to it. Listeners of one object that are in each other's way all yield ("MUST NOT
//! pick one conflicting Listener as the winner"). Listeners that yielded hold nothing: what is not served keeps
//! nobody else from serving.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use portway_plan::HostPattern;

use crate::condition::Finding;
use crate::listener::{ListenerNode, Protocol};

/// One socket: an address (`None` for all), and a port number, TCP unless UDP.
type Slot = (Option<IpAddr>, u16, bool);

/// Protocols that can share a socket, because the first bytes tell by hostname whom they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Family {
    Http,
    /// HTTPS and TLS: told apart by server name.
    Tls,
    Tcp,
    Udp,
}

impl Family {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http,
            Protocol::Https | Protocol::Tls => Self::Tls,
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }

    fn shares_by_hostname(self) -> bool {
        matches!(self, Self::Http | Self::Tls)
    }
}

/// Who holds a socket: by family the first, and by hostname the one.
#[derive(Default)]
struct Held {
    families: BTreeMap<Family, String>,
    hostnames: HashMap<HostPattern, (Protocol, String)>,
}

/// The sockets and who holds them so far.
#[derive(Default)]
pub(crate) struct Contest {
    held: HashMap<Slot, Held>,
}

impl Contest {
    /// Enters the listeners of one object, which all bind the same addresses.
    pub(crate) fn enter(&mut self, addresses: &[Option<IpAddr>], listeners: &mut [ListenerNode]) {
        for node in listeners.iter_mut() {
            node.conflict = self.rival(addresses, node);
        }
        let conflicts: Vec<_> = listeners.iter().map(|node| within(node, listeners)).collect();
        for (node, conflict) in listeners.iter_mut().zip(conflicts) {
            let Some(protocol) = contender(node) else { continue };
            if conflict.is_some() {
                node.conflict = conflict;
                continue;
            }
            let holder = node.source.to_string();
            for slot in slots(addresses, node.port, protocol) {
                let held = self.held.entry(slot).or_default();
                held.families.entry(Family::of(protocol)).or_insert_with(|| holder.clone());
                held.hostnames.entry(node.hostname.clone()).or_insert_with(|| (protocol, holder.clone()));
            }
        }
    }

    /// What a listener that entered before has against this one.
    fn rival(&self, addresses: &[Option<IpAddr>], node: &ListenerNode) -> Option<Finding> {
        // Refused ones have worse to be said about them.
        let protocol = node.protocol.filter(|_| node.refused.is_none())?;
        slots(addresses, node.port, protocol).find_map(|slot| {
            let held = self.held.get(&slot)?;
            let family = Family::of(protocol);
            let other =
                held.families.iter().find(|(other, _)| **other != family || !family.shares_by_hostname());
            if let Some((_, holder)) = other {
                return Some(protocol_conflict(node, holder));
            }
            let (other, holder) = held.hostnames.get(&node.hostname)?;
            Some(if *other == protocol {
                hostname_conflict(node, holder)
            } else {
                protocol_conflict(node, holder)
            })
        })
    }
}

fn slots(
    addresses: &[Option<IpAddr>],
    port: u16,
    protocol: Protocol,
) -> impl Iterator<Item = Slot> + use<'_> {
    addresses.iter().map(move |address| (*address, port, protocol == Protocol::Udp))
}

/// The protocol of a listener that is still in the contest.
fn contender(node: &ListenerNode) -> Option<Protocol> {
    node.protocol.filter(|_| node.is_accepted())
}

/// What another listener of the same object has against this one.
fn within(node: &ListenerNode, all: &[ListenerNode]) -> Option<Finding> {
    let protocol = contender(node)?;
    let family = Family::of(protocol);
    all.iter().find_map(|other| {
        let theirs = contender(other)?;
        let same_socket = other.port == node.port && (theirs == Protocol::Udp) == (protocol == Protocol::Udp);
        if other.id == node.id || !same_socket {
            return None;
        }
        let holder = other.source.to_string();
        if Family::of(theirs) != family || !family.shares_by_hostname() {
            return Some(protocol_conflict(node, &holder));
        }
        if other.hostname != node.hostname {
            return None;
        }
        Some(if theirs == protocol {
            hostname_conflict(node, &holder)
        } else {
            protocol_conflict(node, &holder)
        })
    })
}

fn hostname_conflict(node: &ListenerNode, holder: &str) -> Finding {
    let what = match &node.hostname {
        HostPattern::Any => format!("port {} without a hostname", node.port),
        hostname => format!("hostname {hostname} on port {}", node.port),
    };
    Finding::new(
        format!("{}.hostname", node.source.path),
        "HostnameConflict",
        format!("{what} is also asked for by {holder}; give one of the two another hostname or port"),
    )
}

fn protocol_conflict(node: &ListenerNode, holder: &str) -> Finding {
    Finding::new(
        format!("{}.protocol", node.source.path),
        "ProtocolConflict",
        format!(
            "port {} is also asked for by {holder}, whose protocol cannot share it; give one of the two another port",
            node.port
        ),
    )
}

/// Marks the listeners whose TLS settings overlap: their hostnames on one port are different, and some
/// names match both (condition OverlappingTLSConfig, GEP-3567). `nodes` are all that bind one address.
pub(crate) fn mark_overlaps(nodes: &mut [&mut ListenerNode]) {
    let mut ports: BTreeMap<u16, Vec<(HostPattern, usize)>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        if matches!(contender(node), Some(Protocol::Https | Protocol::Tls)) {
            ports.entry(node.port).or_default().push((node.hostname.clone(), i));
        }
    }
    for group in ports.into_values().filter(|group| group.len() > 1) {
        let by_hostname: HashMap<&HostPattern, usize> = group.iter().map(|(h, i)| (h, *i)).collect();
        for (hostname, i) in &group {
            for wider in wider(hostname) {
                if let Some(j) = by_hostname.get(&wider) {
                    note_overlap(nodes, *i, *j);
                    note_overlap(nodes, *j, *i);
                }
            }
        }
    }
}

/// The patterns that match all that this one does, and more.
fn wider(hostname: &HostPattern) -> Vec<HostPattern> {
    let (tail, skip) = match hostname {
        HostPattern::Any => return Vec::new(),
        // `.a.b` itself is this very wildcard.
        HostPattern::Wildcard(suffix) => (suffix, 1),
        HostPattern::Exact(name) => (name, 0),
    };
    let wildcards =
        tail.match_indices('.').skip(skip).map(|(at, _)| HostPattern::Wildcard(tail[at..].into()));
    wildcards.chain([HostPattern::Any]).collect()
}

/// More peers than this are not named.
const NAMED_PEERS: usize = 4;

fn note_overlap(nodes: &mut [&mut ListenerNode], node: usize, peer: usize) {
    let name = nodes[peer].source.to_string();
    match &mut nodes[node].overlap {
        None => {
            nodes[node].overlap = Some(format!("hostnames overlap with those of {name}"));
        }
        Some(text) if text.contains(&name) => {}
        Some(text) if text.matches(", ").count() + 1 < NAMED_PEERS => {
            text.push_str(", ");
            text.push_str(&name);
        }
        Some(_) => {}
    }
}
