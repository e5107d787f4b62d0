//! Connects to the controller.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::ClientOptions;
use crate::tls::TlsError;
use crate::{limits, tls};

/// How long it may take to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the authorities of the controller: {0}")]
    Tls(#[from] TlsError),
    #[error("the token {path}: {error}")]
    Token { path: std::path::PathBuf, error: io::Error },
    #[error("the token {0} has characters that no token has")]
    NoToken(std::path::PathBuf),
    #[error("{0:?} is no server name")]
    ServerName(String),
    #[error("{controller}: {error}")]
    Transport { controller: String, error: String },
}

/// The token as it is in its file now.
pub(crate) async fn token(file: &Path) -> Result<String, ConnectError> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    let failed = |error| ConnectError::Token { path: file.to_owned(), error };
    let token = read.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    Ok(token.trim().to_owned())
}

/// The metadata that proves who one is, by the token from that file.
pub(crate) fn authorization(token: &str, file: &Path) -> Result<AsciiMetadataValue, ConnectError> {
    let value = AsciiMetadataValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| ConnectError::NoToken(file.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A connection to the controller.
pub(super) async fn connect(options: &ClientOptions) -> Result<Channel, ConnectError> {
    let config = tls::client(&options.ca_file)?;
    channel(&options.controller, &options.server_name, config).await
}

/// A connection to a controller at `HOST:PORT`, whose certificate has that name.
pub(crate) async fn channel(
    controller: &str,
    server_name: &str,
    config: ClientConfig,
) -> Result<Channel, ConnectError> {
    let name = ServerName::try_from(server_name.to_owned());
    let name = name.map_err(|_| ConnectError::ServerName(server_name.to_owned()))?;
    let failed = |error: String| ConnectError::Transport { controller: controller.to_owned(), error };
    let (every, patience) = limits::PING;
    // The scheme says only that tonic is not the one to speak TLS.
    let endpoint = Endpoint::from_shared(format!("http://{controller}"))
        .map_err(|error| failed(error.to_string()))?
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(2 * 1024 * 1024);
    let connector = Connector { controller: controller.to_owned(), config: Arc::new(config), name };
    match timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(failed(innermost(&error))),
        Err(_) => Err(failed("it takes too long to connect".to_owned())),
    }
}

/// What the cause says, without the layers around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Connects, and speaks TLS.
#[derive(Clone)]
struct Connector {
    controller: String,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { controller, config, name } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(controller).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}
