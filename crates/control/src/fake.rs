//! An API server that is a function.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A request as tests look at it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// The path and the query.
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Asked {
    /// Whether it is a watch.
    pub(crate) fn is_watch(&self) -> bool {
        self.path.contains("watch=true")
    }
}

/// The body of an answer.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A client of an API server that answers as the function says.
pub(crate) fn client<F, Fut>(answer: F) -> Client
where
    F: Fn(Asked) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            Ok::<_, kube::Error>(
                answer(Asked { method: head.method, path: head.uri.to_string(), body }).await,
            )
        }
    });
    Client::new(service, "default")
}

/// An answer of one JSON document.
pub(crate) fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

/// The API server's way to say no.
pub(crate) fn refusal(status: StatusCode) -> Answer {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": status.as_u16(),
    });
    json_answer(status, &body)
}

/// An answer whose lines come one by one, until the sender is dropped.
pub(crate) fn stream_answer(mut lines: mpsc::UnboundedReceiver<Value>) -> Answer {
    let frames = futures_util::stream::poll_fn(move |context| {
        lines
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(http_body::Frame::data(Bytes::from(format!("{line}\n"))))))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}
