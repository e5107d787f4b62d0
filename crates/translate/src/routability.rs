//! Where the addresses of a Gateway are reachable from, and which of those that it asks for it has (GEP-5093).

use portway_api::gateway::{GatewaySpecAddress, GatewayStatusAddress};

use crate::Options;
use crate::class;
use crate::condition::{ADDRESSES_ASSIGNED, Verdict, no, yes};

const IP_ADDRESS: &str = "IPAddress";
/// The address is a Service's own, within the cluster.
const CLUSTER: &str = "Cluster";

/// Whether the CRDs have the field, so that statuses can say it.
pub(crate) fn is_reported(options: &Options) -> bool {
    options.layout.machine().is_none() && class::supports(options, "GatewayAddressRoutability")
}

/// The condition `AddressesAssigned`. None while nothing is known, which is not the same as that there is none:
/// `is_final` tells whether what is missing will not come.
pub(crate) fn assigned(
    asked: &[GatewaySpecAddress],
    have: &[GatewayStatusAddress],
    is_final: bool,
) -> Option<Verdict> {
    let missing = missing(asked, have);
    if missing.is_empty() && !have.is_empty() {
        return Some(yes(ADDRESSES_ASSIGNED, ADDRESSES_ASSIGNED, "the Gateway has its addresses"));
    }
    let message = || format!("not to be had: {}", missing.join(", "));
    if missing.len() < asked.len() {
        return Some(no(ADDRESSES_ASSIGNED, "PartiallyAssigned", message()));
    }
    is_final.then(|| {
        let message = if missing.is_empty() { "the Gateway has no address".to_owned() } else { message() };
        no(ADDRESSES_ASSIGNED, "NotAssigned", message)
    })
}

/// The entries of `spec.addresses` for which there is no address of their own.
fn missing(asked: &[GatewaySpecAddress], have: &[GatewayStatusAddress]) -> Vec<String> {
    let mut left: Vec<&GatewayStatusAddress> = have.iter().collect();
    let mut entries: Vec<(usize, &GatewaySpecAddress)> = asked.iter().enumerate().collect();
    // Who asks for more chooses first: who asks for nothing is content with what is left.
    entries.sort_by_key(|(_, asked)| (filled(&asked.value).is_none(), filled(&asked.routability).is_none()));
    let mut missing = Vec::new();
    for (i, entry) in entries {
        match left.iter().position(|address| matches(entry, address)) {
            Some(found) => {
                left.remove(found);
            }
            None => missing.push(i),
        }
    }
    missing.sort_unstable();
    missing.into_iter().map(|i| format!("spec.addresses[{i}]")).collect()
}

fn matches(asked: &GatewaySpecAddress, have: &GatewayStatusAddress) -> bool {
    let type_ = |type_: &Option<String>| type_.clone().unwrap_or_else(|| IP_ADDRESS.to_owned());
    let routability = have.routability.as_deref().unwrap_or_default();
    type_(&asked.type_) == type_(&have.type_)
        && filled(&asked.value).is_none_or(|value| value == have.value)
        && match filled(&asked.routability) {
            None => routability.is_empty() || routability == CLUSTER,
            Some(wanted) => wanted == routability,
        }
}

fn filled(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|field| !field.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(value: &str, routability: &str) -> GatewaySpecAddress {
        GatewaySpecAddress {
            value: Some(value.to_owned()),
            routability: Some(routability.to_owned()),
            ..GatewaySpecAddress::default()
        }
    }

    fn has(value: &str, routability: &str) -> GatewayStatusAddress {
        GatewayStatusAddress {
            value: value.to_owned(),
            routability: Some(routability.to_owned()),
            ..GatewayStatusAddress::default()
        }
    }

    fn reason(asked: &[GatewaySpecAddress], have: &[GatewayStatusAddress], is_final: bool) -> Option<String> {
        assigned(asked, have, is_final).map(|verdict| verdict.reason)
    }

    #[test]
    fn each_request_has_an_address_of_its_own() {
        let both = [asks("", ""), asks("", CLUSTER)];
        let have = [has("10.96.0.1", CLUSTER), has("203.0.113.1", "")];
        assert_eq!(reason(&both, &have, false).unwrap(), "AddressesAssigned");
        let partial = assigned(&both, &have[..1], true).unwrap();
        assert_eq!((partial.reason.as_str(), partial.holds), ("PartiallyAssigned", false));
        assert!(partial.message.contains("spec.addresses[0]"), "{}", partial.message);
        assert_eq!(reason(&[asks("", CLUSTER)], &have[1..], true).unwrap(), "NotAssigned");
        assert_eq!(reason(&[asks("203.0.113.2", "")], &have, true).unwrap(), "NotAssigned");
    }

    #[test]
    fn what_may_come_yet_is_not_told() {
        assert_eq!(reason(&[asks("", "")], &[], false), None);
        assert_eq!(reason(&[], &[], false), None);
        assert_eq!(reason(&[], &[], true).unwrap(), "NotAssigned");
        assert_eq!(reason(&[], &[has("203.0.113.1", "")], false).unwrap(), "AddressesAssigned");
    }
}
