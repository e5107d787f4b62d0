//! The admin server: `/livez`, `/readyz`, `/metrics`, `/status`, `/plan` and `/version`, on a thread and an
//! address apart from the traffic. It only reads.
//!
//! A page that a browser has open may ask for `http://something:9901/plan` with a name that it lets point
//! here (DNS rebinding); so the server answers only when it is asked for by an IP address, as `localhost`,
//! or by a name from [`Options::admin_hosts`](crate::Options::admin_hosts).

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::http::Authority;
use crate::proxy::{Shared, StartError};
use crate::worker::Command;

/// How many clients are served at once; further ones wait.
const CLIENTS: usize = 64;
/// How long a client may take for its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may stay.
const STAY: Duration = Duration::from_secs(60);
/// How long the workers may take to answer.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Binds the address and serves on the runtime given. Gives the address that was bound.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn start(
    address: SocketAddr,
    shared: &Arc<Shared>,
    background: &Handle,
) -> Result<SocketAddr, StartError> {
    let failed = |error| StartError::Admin { address, error };
    let listener = crate::listen(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let listener = {
        let _entered = background.enter();
        TcpListener::from_std(listener).map_err(failed)?
    };
    background.spawn(accept(listener, shared.clone()));
    Ok(bound)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // A client that breaks off or overstays is just closed.
                    let _ = timeout(STAY, serve(stream, shared)).await;
                    drop(place);
                });
            }
            // No descriptors left: they may come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Result<(), hyper::Error> {
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    if !may_ask(host, &shared.options.admin_hosts) {
        let text = "ask for this address by IP address or as localhost\n";
        return page(StatusCode::MISDIRECTED_REQUEST, TEXT, text);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
    }
    match request.uri().path() {
        "/livez" => live(shared).await,
        "/readyz" => ready(shared).await,
        "/metrics" => {
            let metrics = shared.metrics.clone();
            aside(OPENMETRICS, move || metrics.expose()).await
        }
        "/status" => match &shared.options.status {
            Some(status) => {
                let status = status.0.clone();
                aside(JSON, move || status()).await
            }
            None => page(StatusCode::NOT_FOUND, TEXT, "there are no statuses here\n"),
        },
        "/plan" => {
            let plan = shared.serving.load().snapshot.plan.clone();
            // Keys serialise as "[redacted]" (portway_plan::PrivateKey).
            aside(JSON, move || serde_json::to_string_pretty(&*plan).unwrap_or_default()).await
        }
        "/version" => {
            let text = concat!("{\"name\":\"portway\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");
            page(StatusCode::OK, JSON, text)
        }
        "/" => page(StatusCode::OK, TEXT, "/livez\n/readyz\n/metrics\n/status\n/plan\n/version\n"),
        _ => page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

/// Whether the server may be asked under that name.
fn may_ask(host: Option<&[u8]>, allowed: &[String]) -> bool {
    let authority = host.and_then(|host| Authority::parse(Bytes::copy_from_slice(host)).ok());
    let Some(authority) = authority else { return false };
    let host = authority.host();
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || host == "localhost"
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// All workers run their tasks.
async fn live(shared: &Shared) -> Response<Full<Bytes>> {
    match ask_workers(shared).await {
        Ok(()) => page(StatusCode::OK, TEXT, "ok\n"),
        Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
    }
}

/// The workers serve a plan, on at least one port if it has any, and are not about to go away.
async fn ready(shared: &Shared) -> Response<Full<Bytes>> {
    let unready = |why: &'static str| page(StatusCode::SERVICE_UNAVAILABLE, TEXT, why);
    if shared.draining.load(Ordering::Relaxed) {
        return unready("shutting down\n");
    }
    let serving = shared.serving.load();
    if serving.snapshot.revision == 0 {
        return unready("no plan has been applied yet\n");
    }
    if shared.options.complete.as_ref().is_some_and(|complete| !complete.load(Ordering::Relaxed)) {
        return unready("the plan is not complete: its certificates are not there yet\n");
    }
    if !serving.bound {
        return unready("no port of the plan could be bound\n");
    }
    live(shared).await
}

async fn ask_workers(shared: &Shared) -> Result<(), &'static str> {
    let ask = |worker: &mpsc::UnboundedSender<Command>| {
        let (reply, answer) = oneshot::channel();
        // An ended worker shows in its answer.
        let _ = worker.send(Command::Ping(reply));
        answer
    };
    let asked: Vec<_> = shared.commands.iter().map(ask).collect();
    for answer in asked {
        match timeout(WORKERS_TIMEOUT, answer).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("a worker has ended\n"),
            Err(_) => return Err("a worker does not answer\n"),
        }
    }
    Ok(())
}

/// A page that takes a while to make.
async fn aside(
    content_type: &'static str,
    make: impl FnOnce() -> String + Send + 'static,
) -> Response<Full<Bytes>> {
    match tokio::task::spawn_blocking(make).await {
        Ok(text) => page(StatusCode::OK, content_type, text),
        Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "it failed\n"),
    }
}

fn page(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_stranger_can_point_here() {
        let allowed = ["gateway.internal".to_owned()];
        for yes in ["127.0.0.1:9901", "[::1]:9901", "localhost", "LOCALHOST:1", "Gateway.internal:9901"] {
            assert!(may_ask(Some(yes.as_bytes()), &allowed), "{yes}");
        }
        for no in ["evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@127.0.0.1"]
        {
            assert!(!may_ask(Some(no.as_bytes()), &allowed), "{no}");
        }
        assert!(!may_ask(None, &allowed));
    }
}
