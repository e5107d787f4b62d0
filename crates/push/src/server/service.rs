//! The gRPC service, as tonic's code generator would write it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, ServerStreamingService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Shared, report, session};
use crate::limits;
use crate::message::{FromController, FromProxy, Report, ReportRequest};

/// The path of the method for proxies.
pub(crate) const PATH: &str = "/portway.push.v1.Push/Stream";
/// The path of the method for other controllers.
pub(super) const REPORT_PATH: &str = "/portway.push.v1.Push/Report";

/// Answers gRPC requests.
#[derive(Clone)]
pub(super) struct PushService {
    pub(super) shared: Arc<Shared>,
    /// Completes when the server ends.
    pub(super) closing: tokio::sync::watch::Receiver<bool>,
}

type Messages = ReceiverStream<Result<FromController, Status>>;

impl StreamingService<FromProxy> for PushService {
    type Response = FromController;
    type ResponseStream = Messages;
    type Future = BoxFuture<'static, Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<FromProxy>>) -> Self::Future {
        let service = self.clone();
        Box::pin(
            async move { session::open(service.shared, service.closing, request).await.map(Response::new) },
        )
    }
}

impl ServerStreamingService<ReportRequest> for PushService {
    type Response = Report;
    type ResponseStream = ReceiverStream<Result<Report, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<ReportRequest>) -> Self::Future {
        let service = self.clone();
        Box::pin(
            async move { report::open(service.shared, service.closing, request).await.map(Response::new) },
        )
    }
}

impl Service<http::Request<Body>> for PushService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() == REPORT_PATH {
                let codec = ProstCodec::<Report, ReportRequest>::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(limits::FROM_PROXY);
                return Ok(grpc.server_streaming(service, request).await);
            }
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("there are only the methods Stream and Report").into_http());
            }
            let codec = ProstCodec::<FromController, FromProxy>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(limits::FROM_PROXY);
            Ok(grpc.streaming(service, request).await)
        })
    }
}
