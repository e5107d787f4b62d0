//! The controller's admin server: `/livez`, `/readyz` and `/metrics`. It only reads.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portway_control::controller::Controller;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How many clients are served at once; further ones wait.
const CLIENTS: usize = 64;
/// How long a client may take for its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may stay.
const STAY: Duration = Duration::from_secs(60);

const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, controller: Arc<Controller>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let controller = Arc::clone(&controller);
                tokio::spawn(async move {
                    // A client that breaks off or overstays is just closed.
                    let _ = timeout(STAY, converse(stream, controller)).await;
                    drop(place);
                });
            }
            // No descriptors left: they may come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, controller: Arc<Controller>) -> Result<(), hyper::Error> {
    let answer = service_fn(move |request| {
        let answer = answer(&request, &controller);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(request: &Request<Incoming>, controller: &Controller) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/livez" if controller.is_alive() => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/livez" => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the controller has ended\n".to_owned()),
        "/readyz" => match controller.obstacle() {
            None => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(obstacle) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{obstacle}\n")),
        },
        "/metrics" => page(StatusCode::OK, OPENMETRICS, controller.metrics()),
        _ => page(StatusCode::NOT_FOUND, TEXT, "/livez, /readyz and /metrics\n".to_owned()),
    }
}

fn page(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
