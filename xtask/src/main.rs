//! The project's own commands: `cargo xtask <command>`.

use clap::{Parser, Subcommand};

mod bench;
mod churn;
mod ci;
mod cluster;
mod conformance;
mod crds;
mod docs;
mod echo;
mod fleets;
mod logs;
mod manifests;
mod propagation;
mod versions;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures Portway beside its peers.
    Bench(bench::Args),
    /// Sends requests through such a cluster while controllers restart, proxies roll and the API server is away.
    Churn(churn::Args),
    /// Checks all that has to pass before a change lands.
    Ci(ci::Args),
    /// A Kubernetes cluster of processes, for tests.
    Cluster(cluster::Args),
    /// Runs the Gateway API's official conformance suite in such a cluster.
    Conformance(conformance::Args),
    /// Fetches the Gateway API's CRDs and writes them, and the Rust types generated from them.
    Crds(crds::Args),
    /// Writes what of the documentation is made from the code: docs/reference/cli.md.
    Docs,
    /// Makes Gateways with parameters of their own in such a cluster, and looks at what is made for them.
    Fleets(fleets::Args),
    /// Writes the chart, rendered, to deploy/manifests.
    Manifests(manifests::Args),
    /// Measures, in such a cluster, how soon a changed route is served and what memory routes cost.
    Propagation(propagation::Args),
    /// Installs Portway into such clusters with the CRDs of other versions and channels, and looks whether it works.
    Versions(versions::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Conformance(args) => conformance::run(args),
        Command::Crds(args) => crds::run(&args),
        Command::Docs => docs::run(),
        Command::Fleets(args) => fleets::run(&args),
        Command::Manifests(args) => manifests::run(&args),
        Command::Propagation(args) => propagation::run(&args),
        Command::Versions(args) => versions::run(&args),
    }
}
