//! Portway's own kind.

use super::*;

fn parameters(spec: &str) -> String {
    let indented = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "apiVersion: portway.dev/v1alpha1\nkind: GatewayParameters\nmetadata:\n  name: edge\nspec:\n{indented}"
    )
}

#[test]
fn parameters_with_every_part_are_valid() {
    let spec = "\
workload:
  kind: Deployment
  autoscaling: {minReplicas: 2, maxReplicas: 10, targetCPUUtilization: 60}
proxy:
  workers: 4
  trustedHops: 1
  accessLog: {format: JSON}
  drain: {minSeconds: 10, maxSeconds: 300}
pod:
  image: registry.example/portway:1
  imagePullSecrets: [{name: pull}]
  labels: {team: edge}
  resources: {requests: {cpu: 500m, memory: 128Mi}, limits: {memory: 1Gi}}
  tolerations: [{key: edge, operator: Exists, effect: NoSchedule}]
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {team: edge}}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  hostPorts: true
service:
  type: LoadBalancer
  externalTrafficPolicy: Local
  annotations: {a/b: c}
podDisruptionBudget: {minAvailable: 50%}
";
    let found = one(&parameters(spec));
    assert_eq!(found.diagnostics, []);
    assert!(found.is_usable());
}

#[test]
fn parameters_that_contradict_themselves_are_refused() {
    for (spec, wanted) in [
        ("workload: {replicas: 2, autoscaling: {maxReplicas: 3}}\n", "replicas and autoscaling exclude"),
        ("workload: {kind: DaemonSet, replicas: 2}\n", "a DaemonSet has one proxy per node"),
        ("workload: {autoscaling: {minReplicas: 4, maxReplicas: 3}}\n", "minReplicas must not exceed"),
        ("proxy: {drain: {minSeconds: 9, maxSeconds: 8}}\n", "minSeconds must not exceed maxSeconds"),
        ("podDisruptionBudget: {}\n", "exactly one of minAvailable and maxUnavailable"),
        ("pod: {resources: {requests: {cpu: some}}}\n", "spec.pod.resources.requests[cpu]"),
        ("proxy: {threads: 2}\n", "spec.proxy.threads: unknown field"),
        ("service: {type: ExternalName}\n", "Unsupported value"),
    ] {
        let found = lines(&parameters(spec));
        assert_eq!(found.len(), 1, "{spec}: {found:?}");
        assert!(found[0].contains(wanted), "{spec}: {found:?}");
    }
}

#[test]
fn a_version_or_kind_that_portway_does_not_have_is_told() {
    let text = parameters("{}\n");
    let version = lines(&text.replace("v1alpha1", "v1"));
    assert!(
        version[0].contains("is not served as portway.dev/v1 by Portway: use portway.dev/v1alpha1"),
        "{version:?}"
    );
    let kind = lines(&text.replace("GatewayParameters", "GatewayParameter"));
    assert!(kind[0].contains("did you mean GatewayParameters?"), "{kind:?}");
}
