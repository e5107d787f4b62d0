//! `cargo xtask fleets`: Gateways of the test bed with parameters of their own: what is made for them, how they are
//! reached, and that one loses no request whose proxies change from a Deployment to a DaemonSet.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, root, run_quietly, wait_until};
use crate::echo::{Echo, NAMESPACE};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Arguments of `cargo xtask fleets`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves the cluster up.
    #[arg(long)]
    keep: bool,
    /// The cluster's name.
    #[arg(long, default_value = "fleets")]
    name: String,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// Makes the Gateways and looks at them.
///
/// # Errors
/// When something is not as it should be.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::named(&args.name)?;
    cluster.up(&args.cluster)?;
    let result = look(&cluster);
    if !args.keep {
        cluster.down()?;
    }
    result
}

fn look(cluster: &Cluster) -> anyhow::Result<()> {
    let echo = Echo::new(cluster)?;
    run_quietly(
        cluster.kubectl().args(["apply", "--filename"]).arg(root()?.join("tests/cluster/fleets.yaml")),
    )?;
    for gateway in ["node-ports", "host-ports", "scaled"] {
        let what = format!("gateway/{gateway}");
        let wait = ["--namespace", NAMESPACE, "wait", "--for=condition=Programmed", &what, "--timeout=90s"];
        run_quietly(cluster.kubectl().args(wait)).with_context(|| gateway.to_owned())?;
    }
    let node = &cluster.get(&["nodes"])?["items"][0]["status"]["addresses"][0]["address"];

    let service = get(cluster, "service/node-ports-portway")?;
    is("the type of the Service", &service["spec"]["type"], &json!("NodePort"))?;
    is("the address of node-ports", address(&get(cluster, "gateway/node-ports")?), node)?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
    echo.answers(&format!("http://{}:{port}/", text(node)), "fleets")?;
    println!("node ports: served at {}:{port}", text(node));

    let workload = get(cluster, "daemonset/host-ports-portway")?;
    let ports = &workload["spec"]["template"]["spec"]["containers"][0]["ports"];
    let open = ports.as_array().into_iter().flatten().filter(|port| port["hostPort"] == 8080).count();
    ensure!(open == 1, "the DaemonSet does not open the port 8080 of its nodes: {ports}");
    is("the address of host-ports", address(&get(cluster, "gateway/host-ports")?), node)?;
    is("its Service", &get(cluster, "service/host-ports-portway")?["spec"]["type"], &json!("ClusterIP"))?;
    println!("host ports: a DaemonSet that opens them");

    let scaler = get(cluster, "horizontalpodautoscaler/scaled-portway")?;
    is("the scaler's target", &scaler["spec"]["scaleTargetRef"]["name"], &json!("scaled-portway"))?;
    is("the fewest replicas", &scaler["spec"]["minReplicas"], &json!(1))?;
    is("the most replicas", &scaler["spec"]["maxReplicas"], &json!(3))?;
    let target = &scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"];
    is("the utilization", target, &json!(60))?;
    let budget = get(cluster, "poddisruptionbudget/scaled-portway")?;
    is("the budget", &budget["spec"]["minAvailable"], &json!(1))?;
    // As the autoscaler's controller does, of which there is none here.
    let scale = ["--namespace", NAMESPACE, "scale", "deployment/scaled-portway", "--replicas=2"];
    run_quietly(cluster.kubectl().args(scale))?;
    let rollout =
        ["--namespace", NAMESPACE, "rollout", "status", "deployment/scaled-portway", "--timeout=90s"];
    run_quietly(cluster.kubectl().args(rollout))?;
    // What the controller has taken since comes after it.
    echo.revise("scaled")?;
    is("the replicas", &get(cluster, "deployment/scaled-portway")?["spec"]["replicas"], &json!(2))?;
    println!("autoscaling: what the autoscaler sets stays");

    let load = echo.load()?;
    let parameters = json!({"apiVersion": "portway.dev/v1alpha1", "kind": "GatewayParameters",
        "metadata": {"name": "edge", "namespace": NAMESPACE}, "spec": {"workload": {"kind": "DaemonSet"}}});
    cluster.apply(&parameters)?;
    let reference = json!({"group": "portway.dev", "kind": "GatewayParameters", "name": "edge"});
    let patch = json!({"spec": {"infrastructure": {"parametersRef": reference}}}).to_string();
    let change = ["--namespace", NAMESPACE, "patch", "gateway/edge", "--type=merge", "--patch", &patch];
    run_quietly(cluster.kubectl().args(change))?;
    let changed = wait_until(PATIENCE, || {
        get(cluster, "deployment/edge-portway").is_err() && get(cluster, "daemonset/edge-portway").is_ok()
    });
    ensure!(changed, "the Deployment of edge has not become a DaemonSet");
    let pods =
        ["pods", "--namespace", NAMESPACE, "--selector", "gateway.networking.k8s.io/gateway-name=edge"];
    let left =
        || cluster.get(&pods).is_ok_and(|pods| pods["items"].as_array().is_some_and(|pods| pods.len() == 1));
    ensure!(wait_until(PATIENCE, left), "the Deployment's pods do not go");
    echo.revise("daemon")?;
    let failed = load.end()?;
    ensure!(failed == 0, "{failed} requests failed while a Deployment became a DaemonSet");
    println!("a Deployment becomes a DaemonSet: no request failed");
    Ok(())
}

fn get(cluster: &Cluster, what: &str) -> anyhow::Result<Value> {
    cluster.get(&[what, "--namespace", NAMESPACE])
}

fn address(gateway: &Value) -> &Value {
    &gateway["status"]["addresses"][0]["value"]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is(what: &str, found: &Value, wanted: &Value) -> anyhow::Result<()> {
    ensure!(found == wanted, "{what} is {found}, not {wanted}");
    Ok(())
}
