//! `cargo xtask versions`: Portway with the CRDs of each version and channel of the Gateway API that it supports.
//!
//! What the official suite shows for some of them is not shown again: here it is that Portway installs, that it says
//! the truth about what it found, that a Gateway and a route serve, and that it does not complain of kinds and fields
//! that are not there.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::{self, Channel, Cluster};
use crate::crds;
use crate::echo::Echo;
use crate::logs::Logs;

/// What is tried. The experimental channel of the newest is what all other tests use.
const ALL: [(&str, Channel); 7] = [
    ("v1.4.1", Channel::Standard),
    ("v1.4.1", Channel::Experimental),
    ("v1.5.1", Channel::Standard),
    ("v1.5.1", Channel::Experimental),
    ("v1.6.3", Channel::Standard),
    ("v1.6.3", Channel::Experimental),
    (crds::VERSION, Channel::Standard),
];

/// Arguments of `cargo xtask versions`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only this version (repeatable).
    #[arg(long)]
    version: Vec<String>,
    /// The `portway` program to run [default: target/release/portway, which is built when it is not there]
    #[arg(long)]
    portway: Option<PathBuf>,
    /// Leaves the last cluster up.
    #[arg(long)]
    keep: bool,
}

/// Tries one after the other.
///
/// # Errors
/// When Portway does not work with one of them.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::named("versions")?;
    let mut failed = Vec::new();
    for (version, channel) in ALL {
        if !args.version.is_empty() && !args.version.iter().any(|wanted| wanted == version) {
            continue;
        }
        let name = format!("{version} {}", channel.name());
        let start = Instant::now();
        let options = cluster::Options {
            portway: args.portway.clone(),
            channel,
            crds: Some(version.to_owned()),
            ..Default::default()
        };
        let tried = cluster.up(&options).and_then(|()| works(&cluster, version, channel));
        match tried {
            Ok(()) => println!("{name}: ok, {:.0} s", start.elapsed().as_secs_f64()),
            Err(error) => {
                println!("{name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    }
    if !args.keep {
        cluster.down()?;
    }
    ensure!(failed.is_empty(), "Portway does not work with {}", failed.join(", "));
    Ok(())
}

fn works(cluster: &Cluster, version: &str, channel: Channel) -> anyhow::Result<()> {
    let echo = Echo::new(cluster)?;
    echo.revise("1")?;
    let class = cluster.get(&["gatewayclass/portway"])?;
    let conditions = class["status"]["conditions"].as_array().context("the class has no conditions")?;
    for (name, wanted) in [("Accepted", "is served"), ("SupportedVersion", version)] {
        let found = conditions.iter().find(|condition| condition["type"] == name);
        let found = found.with_context(|| format!("the class has no condition {name}"))?;
        let is_so =
            found["status"] == "True" && found["message"].as_str().is_some_and(|m| m.contains(wanted));
        ensure!(is_so, "{name} is {found}");
    }
    features(&class, version, channel)?;
    let complaints: Vec<_> =
        Logs::default().repeated(cluster).into_keys().filter(|line| is_complaint(line)).collect();
    ensure!(complaints.is_empty(), "the controllers complain:\n{}", complaints.join("\n"));
    Ok(())
}

/// What the class claims is in these CRDs.
fn features(class: &Value, version: &str, channel: Channel) -> anyhow::Result<()> {
    let claimed = class["status"]["supportedFeatures"].as_array().context("the class names no features")?;
    let claims = |name: &str| claimed.iter().any(|feature| feature["name"] == name);
    ensure!(claims("HTTPRoute"), "the class does not claim HTTPRoutes");
    let is_standard = channel == Channel::Standard;
    for (name, is_there) in [
        ("TLSRoute", !(is_standard && version.starts_with("v1.4."))),
        ("UDPRoute", !(is_standard && (version.starts_with("v1.4.") || version.starts_with("v1.5.")))),
        ("ListenerSet", !version.starts_with("v1.4.")),
        ("HTTPRouteDestinationPortMatching", !is_standard),
    ] {
        ensure!(claims(name) == is_there, "{name}: claimed {}, there {is_there}", claims(name));
    }
    Ok(())
}

fn is_complaint(line: &str) -> bool {
    let level = line.split_whitespace().next();
    matches!(level, Some("WARN" | "ERROR"))
}
