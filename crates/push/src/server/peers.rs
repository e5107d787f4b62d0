//! Listens to the other controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::service::REPORT_PATH;
use super::{Server, lock};
use crate::auth::Refusal;
use crate::client::connect::{self, ConnectError};
use crate::limits;
use crate::message::{Report, ReportRequest};
use crate::tls::{self, TlsError};

/// How long until another controller is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How controllers listen to each other.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// The name in the certificates of all controllers.
    pub server_name: String,
    /// The file of this controller's own ServiceAccount token, for [`crate::AUDIENCE`].
    pub token_file: PathBuf,
}

/// Why another controller cannot be heard.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("there is no authority yet")]
    NoAuthority,
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("it has closed the stream")]
    Closed,
    /// It is this one.
    #[error("it is this controller")]
    Self_,
}

impl Server {
    /// Listens to the controllers at these addresses, among which this one may be, so that [`Server::state`] tells
    /// of their proxies too; and lets them listen to this one. `authorities` are those of their certificates, in
    /// PEM. Ends never.
    pub async fn follow_peers(
        &self,
        mut peers: watch::Receiver<BTreeSet<SocketAddr>>,
        authorities: watch::Receiver<String>,
        options: PeerOptions,
    ) {
        self.know_controllers(&options).await;
        let mut tasks: BTreeMap<SocketAddr, AbortOnDrop> = BTreeMap::new();
        loop {
            let now = peers.borrow_and_update().clone();
            let gone: Vec<SocketAddr> = tasks.keys().filter(|peer| !now.contains(peer)).copied().collect();
            for peer in gone {
                tasks.remove(&peer);
                self.0.unheard(peer);
                let shared = std::sync::Arc::downgrade(&self.0);
                tokio::spawn(async move {
                    tokio::time::sleep(limits::GONE).await;
                    if let Some(shared) = shared.upgrade() {
                        shared.forget_if_gone(peer);
                    }
                });
            }
            for peer in now {
                tasks.entry(peer).or_insert_with(|| {
                    let listening = self.clone().listen_to(peer, authorities.clone(), options.clone());
                    AbortOnDrop(tokio::spawn(listening).abort_handle())
                });
            }
            if peers.changed().await.is_err() {
                // Nobody says any more who they are; those that are known stay.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Finds out which ServiceAccount is the controllers': that of this one.
    async fn know_controllers(&self, options: &PeerOptions) {
        let mut told = false;
        loop {
            let why = match connect::token(&options.token_file).await {
                Err(error) => error.to_string(),
                Ok(token) => match self.0.authenticator.authenticate(&token).await {
                    Ok(identity) => {
                        *lock(&self.0.controllers) = Some(identity.account);
                        return;
                    }
                    Err(refusal @ (Refusal::Invalid(_) | Refusal::Unavailable(_))) => refusal.to_string(),
                },
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(why, "it is not known who the other controllers are");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen_to(self, peer: SocketAddr, authorities: watch::Receiver<String>, options: PeerOptions) {
        let mut said: Option<String> = None;
        loop {
            let Err(why) = self.hear(peer, &authorities, &options, &mut said).await;
            self.0.unheard(peer);
            if matches!(why, Unheard::Self_) {
                return;
            }
            let why = why.to_string();
            if said.as_ref() == Some(&why) {
                tracing::debug!(%peer, why, "another controller is still not heard");
            } else {
                tracing::info!(%peer, why, "another controller is not heard");
            }
            said = Some(why);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes in what another controller says until it says no more.
    async fn hear(
        &self,
        peer: SocketAddr,
        authorities: &watch::Receiver<String>,
        options: &PeerOptions,
        said: &mut Option<String>,
    ) -> Result<Infallible, Unheard> {
        let pem = authorities.borrow().clone();
        let config = tls::trusting(pem.as_bytes())?.ok_or(Unheard::NoAuthority)?;
        let token = connect::token(&options.token_file).await?;
        let mut request = Request::new(ReportRequest {});
        let authorization = connect::authorization(&token, &options.token_file)?;
        request.metadata_mut().insert("authorization", authorization);
        let channel = connect::channel(&peer.to_string(), &options.server_name, config).await?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(limits::REPORT);
        let unknown = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        grpc.ready().await.map_err(unknown)?;
        let path = PathAndQuery::from_static(REPORT_PATH);
        let codec = ProstCodec::<ReportRequest, Report>::default();
        let mut reports: Streaming<Report> = grpc.server_streaming(request, path, codec).await?.into_inner();
        while let Some(report) = reports.message().await? {
            if *report.controller == *self.0.identity {
                return Err(Unheard::Self_);
            }
            if said.take().is_some() {
                tracing::info!(%peer, "another controller is heard again");
            }
            self.0.hear(peer, report);
        }
        Err(Unheard::Closed)
    }
}

/// A task that ends with this.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
