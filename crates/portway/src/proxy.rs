//! `portway proxy`: serves what a controller says. The pods of a Gateway run it.
//!
//! ```text
//! main thread:   the push stream ─► plan ─► (blocking thread) proxy.apply ─► what became of it, back to the controller
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use portway_plan::{Plan, TicketKey};
use portway_proxy::{Applied, DrainTimes, Options, Proxy, StatusSource};
use portway_push::{
    Apply, Client, ClientOptions, ClientState, FailedListener, GatewayName, Outcome, Pod, UnavailablePort,
};
use serde_json::json;
use tokio::sync::watch;

use crate::data_plane::DataPlane;
use crate::signals;

/// How long the end waits for what blocks.
pub(crate) const LAST: Duration = Duration::from_secs(1);

/// The arguments of `portway proxy`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The controller's push server
    #[arg(long, env = "PORTWAY_CONTROLLER", value_name = "HOST:PORT")]
    controller: String,
    /// The Gateway whose proxy this is
    #[arg(long, env = "PORTWAY_GATEWAY", value_name = "NAMESPACE/NAME")]
    gateway: GatewayName,
    /// The ServiceAccount token, for the audience portway.dev/push; read again when it is rotated
    #[arg(long, env = "PORTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// The authorities of the controller's certificate, PEM; read for each connection
    #[arg(long, env = "PORTWAY_CA_FILE", value_name = "FILE")]
    ca_file: PathBuf,
    /// The name in the controller's certificate (default: the host of --controller)
    #[arg(long, env = "PORTWAY_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
    /// Where the last good plan is kept, without its certificates
    #[arg(long, env = "PORTWAY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The pod's name; the controller believes the token before this
    #[arg(long, env = "POD_NAME", default_value = "", value_name = "NAME")]
    pod_name: String,
    /// The pod's uid; the controller believes the token before this
    #[arg(long, env = "POD_UID", default_value = "", value_name = "UID")]
    pod_uid: String,
    #[command(flatten)]
    data_plane: DataPlane,
    /// After SIGTERM, new connections are still accepted for this long: `10s`, or a number of seconds
    #[arg(long, default_value = "0s", value_parser = seconds, value_name = "TIME")]
    min_drain: Duration,
    /// After SIGTERM, what is still open after this long is cut: `30s`, or a number of seconds
    #[arg(long, default_value = "30s", value_parser = seconds, value_name = "TIME")]
    max_drain: Duration,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs)
}

/// Serves until the process is told to end, then drains.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let host = args.controller.rsplit_once(':').map_or(&*args.controller, |(host, _)| host);
    let server_name = args.server_name.clone().unwrap_or_else(|| host.to_owned());
    let complete = Arc::new(AtomicBool::new(false));
    let state = Arc::new(OnceLock::<watch::Receiver<ClientState>>::new());
    let told = Arc::clone(&state);
    let controller = args.controller.clone();
    let status = move || {
        let state = told.get().map(|state| state.borrow().clone()).unwrap_or_default();
        json!({"controller": controller, "push": state}).to_string()
    };
    let proxy = Arc::new(Proxy::start(Options {
        status: Some(StatusSource(Arc::new(status))),
        complete: Some(Arc::clone(&complete)),
        drain: DrainTimes { min: args.min_drain, max: args.max_drain },
        ..args.data_plane.options()
    })?);
    let options = ClientOptions {
        controller: args.controller,
        server_name,
        gateway: args.gateway,
        pod: Pod { name: args.pod_name.into(), uid: args.pod_uid.into() },
        token_file: args.token_file,
        ca_file: args.ca_file,
        state_dir: args.state_dir,
    };
    let (client, receiver) = Client::new(options, Serving { proxy: Arc::clone(&proxy), complete });
    // Nothing has been put there before.
    let _ = state.set(receiver);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // It goes on while the proxy drains: endpoints change until the end.
            () = client.run() => Ok(ExitCode::SUCCESS),
            drained = drain(proxy) => drained,
        }
    });
    // Not longer for a resolver that waits for a server that does not answer.
    runtime.shutdown_timeout(LAST);
    outcome
}

/// Waits for the signal, then drains. At a second signal, the process ends at once.
async fn drain(proxy: Arc<Proxy>) -> anyhow::Result<ExitCode> {
    signals::ended().await.context("signals cannot be awaited")?;
    tracing::info!("draining: new connections are accepted for the least drain time");
    let draining = tokio::task::spawn_blocking(move || proxy.drain());
    tokio::select! {
        drained = draining => {
            let drained = drained.context("the drain has panicked")?;
            tracing::info!(cut = drained.cut, took = ?drained.took, "drained");
            Ok(ExitCode::SUCCESS)
        }
        _ = signals::ended() => {
            signals::end_now();
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Serves the plans that are pushed.
struct Serving {
    proxy: Arc<Proxy>,
    complete: Arc<AtomicBool>,
}

impl Apply for Serving {
    fn apply(&mut self, plan: Arc<Plan>, complete: bool) -> Result<Outcome, String> {
        let applied = self.proxy.apply(plan);
        // A plan that once was complete stays: what is not there is not asked for any more.
        self.complete.fetch_or(complete, Ordering::Relaxed);
        Ok(outcome(applied))
    }

    fn set_ticket_keys(&mut self, keys: Vec<TicketKey>) {
        self.proxy.set_ticket_keys(&keys);
    }
}

fn outcome(applied: Applied) -> Outcome {
    let unavailable = applied.ports.into_iter().filter_map(|port| {
        let reason = port.bound.err()?;
        let key = port.key;
        Some(UnavailablePort { address: key.address, port: key.port, transport: key.transport, reason })
    });
    let failed = applied.failed.into_iter().map(|failed| FailedListener {
        listener: failed.listener,
        reason: failed.reason,
        serves: failed.serves,
    });
    Outcome { unavailable: unavailable.collect(), failed: failed.collect() }
}
