//! The pods of a Gateway's proxies.

use portway_api::portway::{AccessLogFormat, PodParameters};
use portway_plan::Transport;
use serde_json::{Map, Value, json};

use super::Settings;
use super::desired::{labels, selector};
use super::names::Names;
use super::wanted::Wanted;

/// The file of the authority in its ConfigMap.
pub(super) const AUTHORITY_FILE: &str = "ca.crt";

const AUTHORITY_FOLDER: &str = "/etc/portway/ca";
const TOKEN_FOLDER: &str = "/var/run/secrets/portway";
const STATE_FOLDER: &str = "/var/lib/portway";
/// How long a token is valid, in seconds. The kubelet renews it after four fifths of that.
const TOKEN_LIFE: u32 = 3600;
/// The drain where nobody says, in seconds: at least, at most.
const DRAIN: (i32, i32) = (5, 60);
/// What a pod may take to stop, in seconds, after the drain.
const MARGIN: i64 = 10;
/// Nobody's user and group, as in the image.
const USER: u32 = 65532;

/// The pod template. It depends on no listener (but for the ports of nodes, if they are to be opened), so that
/// listeners come and go without a new pod.
pub(super) fn template(wanted: &Wanted, names: &Names, settings: &Settings) -> Value {
    let none = PodParameters::default();
    let given = wanted.parameters.pod.as_deref().unwrap_or(&none);
    let (labels, annotations) = labels(wanted, names, [&given.labels, &given.annotations]);
    let (_, most) = drain(wanted);
    let mut spec = json!({
        "serviceAccountName": names.base,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Low ports without a capability.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        // The proxy drains by itself when it is told to stop.
        "terminationGracePeriodSeconds": i64::from(most) + MARGIN,
        "containers": [container(wanted, given, settings)],
        "volumes": [
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": portway_push::AUDIENCE, "expirationSeconds": TOKEN_LIFE, "path": "token",
            }}]}},
            {"name": "ca", "configMap": {"name": names.config}},
            {"name": "state", "emptyDir": {}},
        ],
        "topologySpreadConstraints": spread(given, names),
    });
    placement(&mut spec, given);
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec})
}

fn placement(spec: &mut Value, given: &PodParameters) {
    if !given.image_pull_secrets.is_empty() {
        spec["imagePullSecrets"] = json!(given.image_pull_secrets);
    }
    if !given.node_selector.is_empty() {
        spec["nodeSelector"] = json!(given.node_selector);
    }
    if !given.tolerations.is_empty() {
        spec["tolerations"] = json!(given.tolerations);
    }
    if let Some(affinity) = &given.affinity {
        spec["affinity"] = affinity.clone();
    }
    if let Some(class) = &given.priority_class_name {
        spec["priorityClassName"] = class.as_str().into();
    }
}

/// As given, each about the Gateway's own pods unless it says otherwise; or over nodes and zones, if possible.
fn spread(given: &PodParameters, names: &Names) -> Vec<Value> {
    let own = json!({"matchLabels": selector(names)});
    if given.topology_spread_constraints.is_empty() {
        let over = |key: &str| {
            json!({
                "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": own,
            })
        };
        return vec![over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")];
    }
    let mut constraints = given.topology_spread_constraints.clone();
    for constraint in constraints.iter_mut().filter_map(Value::as_object_mut) {
        constraint.entry("labelSelector").or_insert_with(|| own.clone());
    }
    constraints
}

fn drain(wanted: &Wanted) -> (i32, i32) {
    let given = wanted.parameters.proxy.as_ref().and_then(|proxy| proxy.drain.as_ref());
    let least = given.and_then(|drain| drain.min_seconds);
    let most = given.and_then(|drain| drain.max_seconds);
    // Where only one is given, the other's default follows it.
    let most = most.unwrap_or(DRAIN.1.max(least.unwrap_or(0)));
    (least.unwrap_or(DRAIN.0.min(most)), most)
}

fn container(wanted: &Wanted, given: &PodParameters, settings: &Settings) -> Value {
    let admin = wanted.admin_port();
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": admin, "scheme": "HTTP"},
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3,
        })
    };
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut ports = vec![json!({"name": "admin", "containerPort": admin, "protocol": "TCP"})];
    if wanted.host_ports() {
        ports.extend(wanted.ports.iter().map(|(port, transport)| {
            let protocol = match transport {
                Transport::Tcp => "TCP",
                Transport::Udp => "UDP",
            };
            json!({"containerPort": port, "hostPort": port, "protocol": protocol})
        }));
    }
    let resources = given.resources.clone();
    let mut container = Map::from_iter([
        ("name".to_owned(), "proxy".into()),
        ("image".to_owned(), given.image.clone().unwrap_or_else(|| settings.image.clone()).into()),
        ("args".to_owned(), args(wanted, settings, admin).into()),
        ("env".to_owned(), json!([field("POD_NAME", "metadata.name"), field("POD_UID", "metadata.uid")])),
        ("ports".to_owned(), ports.into()),
        ("readinessProbe".to_owned(), probe("/readyz", 2, 2)),
        ("livenessProbe".to_owned(), probe("/livez", 10, 6)),
        (
            "resources".to_owned(),
            resources.unwrap_or_else(|| json!({"requests": {"cpu": "100m", "memory": "64Mi"}})),
        ),
        (
            "securityContext".to_owned(),
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            }),
        ),
        (
            "volumeMounts".to_owned(),
            json!([
                {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true},
                {"name": "ca", "mountPath": AUTHORITY_FOLDER, "readOnly": true},
                {"name": "state", "mountPath": STATE_FOLDER},
            ]),
        ),
    ]);
    if let Some(policy) = &given.image_pull_policy {
        container.insert("imagePullPolicy".to_owned(), policy.as_str().into());
    }
    container.into()
}

fn args(wanted: &Wanted, settings: &Settings, admin: u16) -> Vec<String> {
    let key = &wanted.gateway.key;
    let (least, most) = drain(wanted);
    let mut args = vec![
        "proxy".to_owned(),
        format!("--controller={}", settings.controller),
        format!("--server-name={}", settings.server_name),
        format!("--gateway={}/{}", key.namespace, key.name),
        format!("--token-file={TOKEN_FOLDER}/token"),
        format!("--ca-file={AUTHORITY_FOLDER}/{AUTHORITY_FILE}"),
        format!("--state-dir={STATE_FOLDER}"),
        format!("--admin=[::]:{admin}"),
        format!("--min-drain={least}s"),
        format!("--max-drain={most}s"),
    ];
    if let Some(proxy) = &wanted.parameters.proxy {
        args.extend(proxy.workers.map(|workers| format!("--workers={workers}")));
        args.extend(proxy.trusted_hops.map(|hops| format!("--trusted-hops={hops}")));
        let format = proxy.access_log.as_ref().map(|log| &log.format);
        args.extend(match format {
            Some(AccessLogFormat::Json) => Some("--access-log=json".to_owned()),
            Some(AccessLogFormat::Common) => Some("--access-log=common".to_owned()),
            _ => None,
        });
    }
    args
}
