use portway_api::gateway::LabelSelector;
use portway_store::NamespaceLabels;

/// Why a selector selects nothing at all.
pub(crate) fn fault(selector: &LabelSelector) -> Option<String> {
    selector.match_expressions.iter().find_map(|requirement| match requirement.operator.as_str() {
        "In" | "NotIn" if requirement.values.is_empty() => {
            Some(format!("the selector's {:?} on {:?} has no values", requirement.operator, requirement.key))
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => None,
        other => Some(format!(
            "the selector's operator {other:?} is not one of In, NotIn, Exists and DoesNotExist"
        )),
    })
}

/// Whether a namespace with these labels is selected.
pub(crate) fn selects(selector: &LabelSelector, labels: NamespaceLabels<'_>) -> bool {
    fault(selector).is_none()
        && selector.match_labels.iter().all(|(key, wanted)| labels.get(key) == Some(wanted))
        && selector.match_expressions.iter().all(|requirement| {
            let held = labels.get(&requirement.key);
            let listed = held.is_some_and(|held| requirement.values.iter().any(|listed| listed == held));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => held.is_some(),
                _ => held.is_none(),
            }
        })
}

#[cfg(test)]
mod tests {
    use portway_api::object::KindId;
    use portway_store::{AnyObject, Resources};
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_follow_kubernetes() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": {"team": "a"}}});
        let mut resources = Resources::default();
        resources.insert(AnyObject::read(KindId::Namespace, namespace, None, |_| {}).unwrap());
        let holds = |selector| {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            selects(&selector, resources.namespace_labels("ns"))
        };
        assert!(holds(json!({})));
        assert!(holds(json!({"matchLabels": {"team": "a", "kubernetes.io/metadata.name": "ns"}})));
        assert!(!holds(json!({"matchLabels": {"team": "b"}})));
        let one = |key: &str, operator: &str, values: &[&str]| {
            holds(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(one("team", "In", &["a", "b"]) && !one("team", "In", &["b"]) && !one("x", "In", &["a"]));
        assert!(one("team", "NotIn", &["b"]) && !one("team", "NotIn", &["a"]) && one("x", "NotIn", &["a"]));
        assert!(one("team", "Exists", &[]) && !one("x", "Exists", &[]));
        assert!(one("x", "DoesNotExist", &[]) && !one("team", "DoesNotExist", &[]));
        assert!(!one("team", "Has", &[]) && !one("team", "In", &[]));
    }
}
