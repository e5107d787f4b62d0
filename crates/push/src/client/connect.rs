//! Connects to the controller.

use std::io;
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
pub(super) enum ConnectError {
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
pub(super) async fn token(options: &ClientOptions) -> Result<String, ConnectError> {
    let path = options.token_file.clone();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    let failed = |error| ConnectError::Token { path: options.token_file.clone(), error };
    let token = read.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    Ok(token.trim().to_owned())
}

/// The metadata that proves who the proxy is.
pub(super) fn authorization(
    token: &str,
    options: &ClientOptions,
) -> Result<AsciiMetadataValue, ConnectError> {
    let value = AsciiMetadataValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| ConnectError::NoToken(options.token_file.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A connection to the controller.
pub(super) async fn connect(options: &ClientOptions) -> Result<Channel, ConnectError> {
    let config = tls::client(&options.ca_file)?;
    let name = ServerName::try_from(options.server_name.clone());
    let name = name.map_err(|_| ConnectError::ServerName(options.server_name.clone()))?;
    let failed = |error: String| ConnectError::Transport { controller: options.controller.clone(), error };
    let (every, patience) = limits::PING;
    // The scheme says only that tonic is not the one to speak TLS.
    let endpoint = Endpoint::from_shared(format!("http://{}", options.controller))
        .map_err(|error| failed(error.to_string()))?
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(2 * 1024 * 1024);
    let connector = Connector { controller: options.controller.clone(), config: Arc::new(config), name };
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
