//! The Services in front of a Gateway's proxies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portway_api::portway::ServiceType;
use portway_plan::Transport;
use serde_json::{Value, json};

use super::desired::{metadata, selector};
use super::names::Names;
use super::wanted::{ServiceRole, Wanted};

/// One of the Gateway's Services.
pub(super) fn service(wanted: &Wanted, names: &Names, role: &ServiceRole<'_>) -> Value {
    let none = BTreeMap::new();
    let parameters = wanted.service_parameters();
    let given = parameters.map_or([&none, &none], |given| [&given.labels, &given.annotations]);
    let ports: Vec<Value> = wanted
        .ports
        .iter()
        .map(|(port, transport)| {
            let (protocol, prefix) = match transport {
                Transport::Tcp => ("TCP", "tcp"),
                Transport::Udp => ("UDP", "udp"),
            };
            let name = format!("{prefix}-{port}");
            json!({"name": name, "port": port, "targetPort": port, "protocol": protocol})
        })
        .collect();
    let mut spec = json!({"type": role.kind.as_str(), "selector": selector(names), "ports": ports});
    if let Some(address) = role.address {
        let field = if role.kind == ServiceType::LoadBalancer { "loadBalancerIP" } else { "clusterIP" };
        spec[field] = address.into();
    }
    match role.address.and_then(|address| address.parse::<IpAddr>().ok()) {
        Some(address) if !role.is_main => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            spec["ipFamilyPolicy"] = "SingleStack".into();
            spec["ipFamilies"] = json!([family]);
        }
        _ => {
            let policy = parameters.and_then(|given| given.ip_family_policy.as_ref());
            spec["ipFamilyPolicy"] = policy.map_or("PreferDualStack", |policy| policy.as_str()).into();
            let families = parameters.map_or(&[][..], |given| &given.ip_families);
            if !families.is_empty() {
                spec["ipFamilies"] = json!(families);
            }
        }
    }
    if let Some(given) = parameters {
        if let Some(policy) = &given.internal_traffic_policy {
            spec["internalTrafficPolicy"] = policy.as_str().into();
        }
        if role.kind != ServiceType::ClusterIP
            && let Some(policy) = &given.external_traffic_policy
        {
            spec["externalTrafficPolicy"] = policy.as_str().into();
        }
        if role.kind == ServiceType::LoadBalancer {
            if let Some(class) = &given.load_balancer_class {
                spec["loadBalancerClass"] = class.as_str().into();
            }
            if !given.load_balancer_source_ranges.is_empty() {
                spec["loadBalancerSourceRanges"] = json!(given.load_balancer_source_ranges);
            }
        }
    }
    let meta = metadata(wanted, names, &role.name, given);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
}
