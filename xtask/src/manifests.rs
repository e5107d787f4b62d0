//! `cargo xtask manifests`: the chart as it is rendered without any value, for those who have no helm.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::{self, NAMESPACE, root};

/// Arguments of `cargo xtask manifests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compares with what is checked in, and writes nothing.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes, or compares, `deploy/manifests/portway.yaml`.
///
/// # Errors
/// When helm cannot be built or refuses the chart, and when what is checked in is another.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let path = root()?.join("deploy/manifests/portway.yaml");
    let rendered = manifests(&render(&[])?);
    if args.check {
        check_policy()?;
        let known = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(known == rendered, "not as rendered (run `cargo xtask manifests`): {}", path.display());
        return Ok(());
    }
    fs::write(&path, rendered).with_context(|| format!("writing {}", path.display()))
}

/// With a NetworkPolicy, whoever has to reach the push server gets through: the other controllers, too.
fn check_policy() -> anyhow::Result<()> {
    let chart = render(&["--set", "networkPolicy.enabled=true"])?;
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&chart, options)?;
    let find = |kind: &str| {
        documents.iter().find(|document| document["kind"] == kind).with_context(|| format!("no {kind}"))
    };
    let controller = &find("Deployment")?["spec"]["template"]["metadata"]["labels"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = list(&find("NetworkPolicy")?["spec"]["ingress"]);
    let to_push = rules.iter().filter(|rule| list(&rule["ports"]).iter().any(|port| port["port"] == "push"));
    // Without a namespaceSelector: those of the same namespace.
    let peers =
        to_push.flat_map(|rule| list(&rule["from"])).filter(|peer| peer["namespaceSelector"].is_null());
    let lets_in = |peer: &Value| {
        let labels = peer["podSelector"]["matchLabels"].as_object();
        labels.is_some_and(|labels| labels.iter().all(|(name, value)| controller[name] == *value))
    };
    ensure!(
        peers.into_iter().any(|peer| lets_in(&peer)),
        "the NetworkPolicy keeps controllers from each other"
    );
    Ok(())
}

fn render(more: &[&str]) -> anyhow::Result<String> {
    let helm = Command::new(cluster::build_helm()?)
        .args(["template", "portway"])
        .arg(root()?.join("deploy/helm/portway"))
        .args(["--namespace", NAMESPACE, "--include-crds"])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .context("running helm")?;
    ensure!(helm.status.success(), "helm: {}", helm.status);
    String::from_utf8(helm.stdout).context("what helm says")
}

fn manifests(chart: &str) -> String {
    format!(
        "# Rendered from deploy/helm/portway by `cargo xtask manifests`; not to be edited.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n{chart}"
    )
}
