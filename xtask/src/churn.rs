//! `cargo xtask churn`: traffic through a Gateway of the test bed while controllers restart, proxies roll, and the API
//! server hangs or is gone. No request may fail, what changes afterwards must be served, and no controller may write
//! one line again and again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::cluster::{self, Cluster, run_quietly, signal, wait_until};
use crate::echo::{self, Echo};
use crate::logs::Logs;

/// How often a controller may write a line in one disturbance: one for each of some causes, not for each try.
const REPEATS: usize = 3;

/// Arguments of `cargo xtask churn`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this disturbance (repeatable).
    #[arg(long, value_enum)]
    only: Vec<Disturbance>,
    /// For how many seconds the API server is away.
    #[arg(long, default_value_t = 120)]
    away: u64,
    /// Leaves the cluster up.
    #[arg(long)]
    keep: bool,
    /// The cluster's name.
    #[arg(long, default_value = "churn")]
    name: String,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// What happens to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Disturbance {
    /// One controller after the other is deleted.
    Controllers,
    /// The proxies' Deployment is rolled.
    Proxies,
    /// The API server does not answer (SIGSTOP).
    Hang,
    /// The API server is killed, and started again later.
    Kill,
}

/// Runs the disturbances, one after the other.
///
/// # Errors
/// When something does not go as it should.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::named(&args.name)?;
    cluster.up(&args.cluster)?;
    let result = disturb(args, &cluster);
    if !args.keep {
        cluster.down()?;
    }
    result
}

fn disturb(args: &Args, cluster: &Cluster) -> anyhow::Result<()> {
    let echo = Echo::new(cluster)?;
    let away = Duration::from_secs(args.away);
    let all = if args.only.is_empty() { Disturbance::value_variants() } else { &args.only };
    let mut wrong = Vec::new();
    for disturbance in all {
        let name = disturbance.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        println!("{name}");
        let before = Logs::of(cluster);
        let load = echo.load()?;
        let start = Instant::now();
        match disturbance {
            Disturbance::Controllers => controllers(cluster, &echo)?,
            Disturbance::Proxies => proxies(cluster)?,
            Disturbance::Hang => hang(cluster, away)?,
            Disturbance::Kill => kill(cluster, away)?,
        }
        println!("  over after {:.1} s", start.elapsed().as_secs_f64());
        let took = echo.revise(&format!("after-{name}"))?;
        println!("  a change is served {:.1} s later", took.as_secs_f64());
        let failed = load.end()?;
        if failed > 0 {
            wrong.push(format!("{name}: {failed} requests failed"));
        }
        for (line, times) in before.repeated(cluster) {
            println!("  {times} times: {line}");
            if times > REPEATS {
                wrong.push(format!("{name}: a controller writes {times} times: {line}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The names of the pods of a namespace with these labels.
fn pods(cluster: &Cluster, namespace: &str, labels: &str) -> anyhow::Result<Vec<String>> {
    let list = cluster.get(&["pods", "--namespace", namespace, "--selector", labels])?;
    let names = list["items"].as_array().into_iter().flatten().map(|pod| pod["metadata"]["name"].as_str());
    Ok(names.flatten().map(str::to_owned).collect())
}

fn rolled_out(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let wait = ["--namespace", namespace, "rollout", "status", "deployment", "--timeout=120s"];
    run_quietly(cluster.kubectl().args(wait))
}

fn controllers(cluster: &Cluster, echo: &Echo<'_>) -> anyhow::Result<()> {
    let running = pods(cluster, cluster::NAMESPACE, "app.kubernetes.io/name=portway")?;
    ensure!(running.len() > 1, "there is only one controller: {running:?}");
    for (i, pod) in running.iter().enumerate() {
        let delete = ["--namespace", cluster::NAMESPACE, "delete", "pod", pod];
        run_quietly(cluster.kubectl().args(delete))?;
        let took = echo.revise(&format!("without-{i}"))?;
        println!("  a change without {pod}: served after {:.1} s", took.as_secs_f64());
        rolled_out(cluster, cluster::NAMESPACE)?;
    }
    Ok(())
}

fn proxies(cluster: &Cluster) -> anyhow::Result<()> {
    let labels = "gateway.networking.k8s.io/gateway-name=edge";
    let old = pods(cluster, echo::NAMESPACE, labels)?;
    let restart = ["--namespace", echo::NAMESPACE, "rollout", "restart", "deployment", "--selector", labels];
    run_quietly(cluster.kubectl().args(restart))?;
    let mut left = Ok(old.clone());
    let gone = wait_until(Duration::from_secs(180), || {
        left = pods(cluster, echo::NAMESPACE, labels);
        left.as_ref().is_ok_and(|now| !now.iter().any(|pod| old.contains(pod)))
    });
    ensure!(gone, "of {old:?} there are still {left:?}");
    rolled_out(cluster, echo::NAMESPACE)
}

fn hang(cluster: &Cluster, away: Duration) -> anyhow::Result<()> {
    let server = api_server(cluster)?;
    signal(server, "STOP")?;
    pass(away);
    signal(server, "CONT")?;
    answers(cluster)
}

fn kill(cluster: &Cluster, away: Duration) -> anyhow::Result<()> {
    let hold = cluster.dir.join("kube-apiserver.hold");
    fs::write(&hold, "")?;
    signal(api_server(cluster)?, "KILL")?;
    pass(away);
    fs::remove_file(hold)?;
    answers(cluster)
}

fn api_server(cluster: &Cluster) -> anyhow::Result<u32> {
    let pid = fs::read_to_string(cluster.dir.join("kube-apiserver.pid"))?;
    pid.trim().parse().context("kube-apiserver.pid")
}

fn answers(cluster: &Cluster) -> anyhow::Result<()> {
    let answers = || run_quietly(cluster.kubectl().args(["get", "--raw", "/readyz"]));
    ensure!(wait_until(Duration::from_secs(60), || answers().is_ok()), "the API server is not back");
    Ok(())
}

/// Lets time pass: that is what the disturbance is.
fn pass(time: Duration) {
    wait_until(time, || false);
}
