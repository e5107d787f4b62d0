//! What the API server's own code checks of the core kinds and no schema can say.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::findings::{Findings, Hint};
use super::names::{is_dns1123_label, is_dns1123_subdomain, is_qualified_name};
use crate::core::SERVICE_NAME_LABEL;
use crate::diagnostic::Severity;
use crate::path::At;

/// Runs after the structure passed, so that types can be relied on.
pub(super) fn check(kind: &str, object: &Value, out: &mut Findings) {
    match kind {
        "Service" => service(object, out),
        "EndpointSlice" => endpoint_slice(object, out),
        "Secret" => secret(object, out),
        "ConfigMap" => config_map(object, out),
        "ClusterTrustBundle" => cluster_trust_bundle(object, out),
        _ => {}
    }
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    object.get(field).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn required(at: At<'_>, out: &mut Findings) {
    out.error(at, "Required value".to_owned(), Hint::None);
}

fn service(object: &Value, out: &mut Findings) {
    let Some(spec) = object.get("spec") else { return };
    let at = At::ROOT.field("spec");
    let is_external = text(spec, "type") == "ExternalName";
    if is_external {
        let name = text(spec, "externalName");
        let at = at.field("externalName");
        if name.is_empty() {
            required(at, out);
        } else if !is_dns1123_subdomain(name.strip_suffix('.').unwrap_or(name)) {
            out.error(at, format!("Invalid value: {name:?}: must be a lowercase DNS name"), Hint::None);
        }
    }
    let count = items(spec, "ports").count();
    let at = at.field("ports");
    if count == 0 && !is_external && text(spec, "clusterIP") != "None" {
        return required(at, out);
    }
    ports(spec, at, count > 1, out);
    let mut numbers = HashSet::new();
    for (index, port) in items(spec, "ports") {
        if !numbers.insert((text(port, "protocol"), port.get("port"))) {
            let shown = out.show(port.get("port").unwrap_or(&Value::Null));
            out.error(
                at.index(index),
                format!("Duplicate value: port {shown} with the same protocol"),
                Hint::None,
            );
        }
    }
}

/// What Services' and EndpointSlices' ports have in common.
fn ports(object: &Value, at: At<'_>, name_required: bool, out: &mut Findings) {
    let mut names = HashSet::new();
    for (index, port) in items(object, "ports") {
        let at = at.index(index);
        let name = text(port, "name");
        if name.is_empty() && name_required {
            required(at.field("name"), out);
        } else if !name.is_empty() && !is_dns1123_label(name) {
            out.error(
                at.field("name"),
                format!("Invalid value: {name:?}: must be an RFC 1123 label"),
                Hint::None,
            );
        } else if !names.insert(name) {
            out.error(at.field("name"), format!("Duplicate value: {name:?}"), Hint::None);
        }
        let protocol = text(port, "appProtocol");
        if !protocol.is_empty() && !is_qualified_name(protocol) {
            let message = format!(
                "Invalid value: {protocol:?}: must be a name such as \"http\" or \"kubernetes.io/h2c\""
            );
            out.error(at.field("appProtocol"), message, Hint::None);
        }
    }
}

fn endpoint_slice(object: &Value, out: &mut Findings) {
    let at = At::ROOT.field("endpoints");
    let address_type = text(object, "addressType");
    for (index, endpoint) in items(object, "endpoints") {
        let at = at.index(index);
        let at = at.field("addresses");
        for (index, address) in items(endpoint, "addresses") {
            let address = address.as_str().unwrap_or_default();
            if let Some(wanted) = unfit(address_type, address) {
                out.error(
                    at.index(index),
                    format!("Invalid value: {address:?}: must be {wanted}"),
                    Hint::None,
                );
            }
        }
    }
    ports(object, At::ROOT.field("ports"), false, out);
    let metadata = At::ROOT.field("metadata");
    let labels = metadata.field("labels");
    if object.pointer("/metadata/labels").and_then(|labels| labels.get(SERVICE_NAME_LABEL)).is_none() {
        out.push(
            Severity::Warning,
            labels.to_path(),
            format!("without the label {SERVICE_NAME_LABEL}, this EndpointSlice belongs to no Service"),
            Hint::Text(format!("add {SERVICE_NAME_LABEL}: NAME-OF-THE-SERVICE")),
        );
    }
}

/// What the address should be and is not. The API server refuses loopback addresses too; on one machine, they
/// are what most backends have.
fn unfit(address_type: &str, address: &str) -> Option<&'static str> {
    let usable = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_link_local() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local() && !ip.is_multicast(),
    };
    let (fits, wanted) = match address_type {
        "IPv4" => (
            address.parse::<Ipv4Addr>().is_ok_and(|ip| usable(ip.into())),
            "an IPv4 address, not unspecified, link-local or multicast",
        ),
        "IPv6" => (
            address.parse::<Ipv6Addr>().is_ok_and(|ip| usable(ip.into())),
            "an IPv6 address, not unspecified, link-local or multicast",
        ),
        _ => (is_dns1123_subdomain(address.strip_suffix('.').unwrap_or(address)), "a lowercase DNS name"),
    };
    (!fits).then_some(wanted)
}

fn keys<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a String> {
    object.get(field).and_then(Value::as_object).into_iter().flat_map(|map| map.keys())
}

fn check_keys(object: &Value, fields: [&str; 2], out: &mut Findings) {
    for field in fields {
        let at = At::ROOT.field(field);
        for key in keys(object, field) {
            let valid = key.len() <= 253
                && !key.is_empty()
                && key != "."
                && !key.starts_with("..")
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !valid {
                let message = format!("Invalid value: {key:?}: a key is letters, digits, '-', '_' and '.'");
                out.key_error(at.key(key), message, Hint::None);
            }
        }
    }
}

fn secret(object: &Value, out: &mut Findings) {
    check_keys(object, ["data", "stringData"], out);
    if text(object, "type") == "kubernetes.io/tls" {
        let present: BTreeSet<_> = keys(object, "data").chain(keys(object, "stringData")).collect();
        for key in ["tls.crt", "tls.key"] {
            if !present.contains(&key.to_owned()) {
                let data = At::ROOT.field("data");
                let hint = "a Secret of type kubernetes.io/tls has both tls.crt and tls.key";
                out.error(data.key(key), "Required value".to_owned(), Hint::Text(hint.to_owned()));
            }
        }
    }
}

fn config_map(object: &Value, out: &mut Findings) {
    check_keys(object, ["data", "binaryData"], out);
    let data: BTreeSet<_> = keys(object, "data").collect();
    let at = At::ROOT.field("binaryData");
    for key in keys(object, "binaryData").filter(|key| data.contains(key)) {
        out.key_error(at.key(key), format!("Duplicate value: {key:?} is in data as well"), Hint::None);
    }
}

/// A bundle of a signer has the signer's name in front of its own; one of no signer has no `:` in it.
fn cluster_trust_bundle(object: &Value, out: &mut Findings) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let signer = object.get("spec").map(|spec| text(spec, "signerName")).unwrap_or_default();
    let wanted = if signer.is_empty() { String::new() } else { format!("{}:", signer.replace('/', ":")) };
    let fits = name.strip_prefix(&wanted).is_some_and(|own| !own.is_empty() && !own.contains(':'));
    if !fits {
        let message = match signer {
            "" => format!("Invalid value: {name:?}: without a signerName, the name has no ':'"),
            _ => format!("Invalid value: {name:?}: the name of a bundle of {signer} begins with {wanted:?}"),
        };
        out.error(At::ROOT.field("metadata").field("name"), message, Hint::None);
    }
    let spec = At::ROOT.field("spec");
    if !signer.is_empty() && !is_signer_name(signer) {
        let message = format!("Invalid value: {signer:?}: must be a name such as \"example.com/my-signer\"");
        out.error(spec.field("signerName"), message, Hint::None);
    }
}

fn is_signer_name(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, path)| is_dns1123_subdomain(domain) && is_dns1123_subdomain(path))
}
