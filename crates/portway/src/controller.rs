//! `portway controller`: makes Gateways in a Kubernetes cluster serve.
//!
//! ```text
//! main thread:    watches, statuses, fleet, Lease, push server, admin server        (one runtime)
//! portway-rounds: what has changed ─► translate ─► plans and statuses               (one round at a time)
//! ```

mod admin;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use portway_control::controller::{Controller, Settings};
use portway_translate::CONTROLLER_NAME;
use tokio::net::TcpListener;

use crate::signals;

/// The arguments of `portway controller`. The cluster is found as kubectl finds it: by KUBECONFIG, ~/.kube/config, or
/// as a pod in it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The controller's own namespace: of its Lease, its Secret and its Service
    #[arg(long, env = "POD_NAMESPACE", default_value = "portway-system", value_name = "NAME")]
    namespace: String,
    /// The Service at which proxies find this controller
    #[arg(long, default_value = "portway", value_name = "NAME")]
    service: String,
    /// The image of the proxies
    #[arg(long, env = "PORTWAY_IMAGE", value_name = "IMAGE")]
    image: String,
    /// Where proxies connect
    #[arg(long, default_value = "[::]:9910", value_name = "ADDR")]
    push: SocketAddr,
    /// The controller's own ServiceAccount token, for the audience portway.dev/push; several controllers need it to
    /// hear from each other what proxies say
    #[arg(long, env = "PORTWAY_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where /livez, /readyz and /metrics answer
    #[arg(long, default_value = "127.0.0.1:9900", value_name = "ADDR")]
    admin: SocketAddr,
    /// GatewayClasses with this controllerName are served
    #[arg(long, default_value = CONTROLLER_NAME, value_name = "NAME")]
    controller_name: String,
    /// The Lease by which one of several controllers is the one that writes
    #[arg(long, default_value = "portway", value_name = "NAME")]
    lease: String,
    /// The Secret with the authority by which proxies know the controllers
    #[arg(long, default_value = "portway-authority", value_name = "NAME")]
    authority: String,
    /// What tells this controller from the others (default: the host's name)
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
}

/// Runs until the process is told to end.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(control(args, runtime.handle()));
    // Not longer for a resolver that waits for a server that does not answer.
    runtime.shutdown_timeout(crate::proxy::LAST);
    outcome
}

async fn control(args: Args, runtime: &tokio::runtime::Handle) -> anyhow::Result<ExitCode> {
    let config = kube::Config::infer().await.context("no cluster is configured")?;
    let client = portway_control::client(config).context("the cluster's configuration cannot be used")?;
    let listen = |what: &str, address: SocketAddr| {
        let listener = portway_proxy::listen(address).and_then(TcpListener::from_std);
        listener.with_context(|| format!("the {what} server cannot listen on {address}"))
    };
    let (admin, push) = (listen("admin", args.admin)?, listen("push", args.push)?);
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let settings = Settings {
        controller_name: args.controller_name,
        namespace: args.namespace,
        service: args.service,
        lease: args.lease,
        authority: args.authority,
        identity: args.identity.unwrap_or_else(host),
        image: args.image,
        token: args.token_file,
    };
    let controller =
        Controller::start(client, settings, push, runtime).context("the controller cannot start")?;
    let controller = Arc::new(controller);
    tokio::select! {
        () = admin::serve(admin, Arc::clone(&controller)) => {}
        ended = signals::ended() => ended.context("signals cannot be awaited")?,
    }
    tracing::info!("ending");
    tokio::select! {
        () = controller.end() => Ok(ExitCode::SUCCESS),
        _ = signals::ended() => {
            signals::end_now();
            Ok(ExitCode::FAILURE)
        }
    }
}
