//! `portway`: the Kubernetes Gateway API in one binary.
//!
//! ```text
//! run DIR…      files ─► store ─► translate ─► proxy: serves, and follows the files
//! proxy         the controller's push ─► plan: serves it, and says what became of it
//! check, get, explain    the same store, translate and route tables, and no sockets
//! echo          the demo backend
//! ```

// They panic where the output cannot be written.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod check;
#[cfg(feature = "controller")]
mod controller;
mod data_plane;
mod demo;
mod echo;
mod explain;
mod get;
mod open_files;
mod places;
mod print;
mod proxy;
#[cfg(test)]
mod reference;
mod run;
mod signals;
mod style;
mod world;

use std::io::IsTerminal as _;
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
    /// Serves the Gateways in files and folders, and follows them as they change
    Run(run::Args),
    /// Makes the Gateways in a Kubernetes cluster serve: plans for their proxies, statuses
    #[cfg(feature = "controller")]
    Controller(controller::Args),
    /// Serves what a controller says: what the pods of a Gateway run
    Proxy(proxy::Args),
    /// Tells what is wrong with files, without serving them: exit 0, 1 (errors) or 2 (usage)
    Check(check::Args),
    /// Tells what happens to one request: listener, rule, filters, backends, and the lines that have it so
    Explain(explain::Args),
    /// Prints objects with the statuses that Kubernetes would show
    Get(get::Args),
    /// The demo backend: tells what arrived (HTTP/1.1, h2c, gRPC, WebSocket)
    Echo(echo::Args),
}

/// The exit code for what the user got wrong in the command itself; clap's own.
pub(crate) const USAGE: u8 = 2;

/// What is logged. The Kubernetes client writes a line, with the whole answer at times, for each try that fails:
/// that the controller tells once for what fails, and counts, so its lines are only for who asks for them by name.
fn filter(directives: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(format!("kube_client=off,kube_runtime=off,{directives}"))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match filter(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            print::complaint(format_args!("portway: --log {}: {error}", cli.log));
            return ExitCode::from(USAGE);
        }
    };
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(|| print::Log)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    open_files::allow_all();
    let outcome = match cli.command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "controller")]
        Command::Controller(args) => controller::run(args),
        Command::Proxy(args) => proxy::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(args),
        Command::Get(args) => get::run(&args),
        Command::Echo(args) => echo::run(args).map(|()| ExitCode::SUCCESS),
    };
    print::finish();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            print::complaint(format_args!("portway: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The targets that get a line with these directives.
    fn logged(directives: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_env_filter(filter(directives).unwrap())
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_runtime::watcher", "a");
            tracing::error!(target: "kube_client::client::builder", "b");
            tracing::warn!(target: "portway_control::outage", "c");
        });
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter_map(|line| line.split_whitespace().last()).collect::<Vec<_>>().join("")
    }

    #[test]
    fn the_kubernetes_client_is_silent_unless_it_is_named() {
        assert_eq!(logged("info"), "c");
        assert_eq!(logged("debug"), "c");
        assert_eq!(logged("warn,kube_runtime=warn"), "ac");
        assert_eq!(logged("kube_client=error,error"), "b");
    }
}
