//! The project's own commands: `cargo xtask <command>`.

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod crds;

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
    /// Fetches the Gateway API's CRDs and writes them, and the Rust types generated from them.
    Crds(crds::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Crds(args) => crds::run(&args),
    }
}
