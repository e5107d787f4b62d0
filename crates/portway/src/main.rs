//! `portway`: the Kubernetes Gateway API in one binary.
//!
//! ```text
//! run DIR…      files ─► store ─► translate ─► proxy: serves, and follows the files
//! check, get, explain    the same store, translate and route tables, and no sockets
//! echo          the demo backend
//! ```

mod demo;
mod echo;
mod get;
mod signals;
mod style;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Kubernetes Gateway API: Gateways and routes in YAML, traffic served
#[derive(Parser, Debug)]
#[command(name = "portway", version, max_term_width = 100)]
struct Cli {
    /// What to log to standard error: error, warn, info, debug, trace, or per module as RUST_LOG has it
    #[arg(long, global = true, env = "RUST_LOG", default_value = "warn", value_name = "LEVEL")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The demo backend: tells what arrived (HTTP/1.1, h2c, gRPC, WebSocket)
    Echo(echo::Args),
}

/// The exit code for what the user got wrong in the command itself; clap's own.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match EnvFilter::builder().parse(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("portway: --log {}: {error}", cli.log);
            return ExitCode::from(USAGE);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match cli.command {
        Command::Echo(args) => echo::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
