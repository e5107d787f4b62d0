//! The project's own commands: `cargo xtask <command>`.

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod cluster;
mod crds;
mod docs;

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
    /// Checks all that has to pass before a change lands.
    Ci(ci::Args),
    /// A Kubernetes cluster of processes, for tests.
    Cluster(cluster::Args),
    /// Fetches the Gateway API's CRDs and writes them, and the Rust types generated from them.
    Crds(crds::Args),
    /// Writes what of the documentation is made from the code: docs/reference/cli.md.
    Docs,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Crds(args) => crds::run(&args),
        Command::Docs => docs::run(),
    }
}
