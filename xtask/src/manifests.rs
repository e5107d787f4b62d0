//! `cargo xtask manifests`: the chart as it is rendered without any value, for those who have no helm.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

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
    let rendered = rendered()?;
    if args.check {
        let known = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(known == rendered, "not as rendered (run `cargo xtask manifests`): {}", path.display());
        return Ok(());
    }
    fs::write(&path, rendered).with_context(|| format!("writing {}", path.display()))
}

fn rendered() -> anyhow::Result<String> {
    let helm = Command::new(cluster::build_helm()?)
        .args(["template", "portway"])
        .arg(root()?.join("deploy/helm/portway"))
        .args(["--namespace", NAMESPACE, "--include-crds"])
        .stderr(Stdio::inherit())
        .output()
        .context("running helm")?;
    ensure!(helm.status.success(), "helm: {}", helm.status);
    let chart = String::from_utf8(helm.stdout).context("what helm says")?;
    Ok(format!(
        "# Rendered from deploy/helm/portway by `cargo xtask manifests`; not to be edited.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n{chart}"
    ))
}
