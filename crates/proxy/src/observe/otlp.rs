//! Export of spans with OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), with the
//! attribute names of the semantic conventions for HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, Status, span::SpanKind, status::StatusCode,
};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::metrics::Metrics;
use super::trace::{Span, Traced, Try};
use crate::options::Tracing;
use crate::proxy::StartError;

/// How many spans may wait to be sent; further ones are dropped and counted.
const WAITING: usize = 8192;
/// How many spans go in one request.
const BATCH: usize = 512;
/// How long a batch waits for more spans.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to the collector.
pub(super) struct Exporter {
    spans: mpsc::Sender<OtlpSpan>,
    metrics: Arc<Metrics>,
}

impl Exporter {
    /// # Errors
    /// When the endpoint is no `http://` address.
    pub(super) fn start(
        tracing: &Tracing,
        metrics: Arc<Metrics>,
        background: &Handle,
    ) -> Result<Self, StartError> {
        if tracing.endpoint.scheme_str() != Some("http") || tracing.endpoint.authority().is_none() {
            return Err(StartError::Tracing(tracing.endpoint.clone()));
        }
        let (spans, receiver) = mpsc::channel(WAITING);
        background.spawn(send(receiver, tracing.clone(), metrics.clone()));
        Ok(Self { spans, metrics })
    }

    /// Sends the spans of an exchange on. Never waits.
    pub(super) fn export(&self, traced: &Traced) {
        let span = &traced.span;
        let spans = span.tries.iter().map(|t| try_span(span, t)).chain([server_span(traced)]);
        for span in spans {
            if self.spans.try_send(span).is_err() {
                self.metrics.spans_dropped(1);
            }
        }
    }
}

async fn send(mut receiver: mpsc::Receiver<OtlpSpan>, tracing: Tracing, metrics: Arc<Metrics>) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        // A batch that is not full waits a moment for more. The error is the end of that moment.
        let fill = async { while batch.len() < BATCH && receiver.recv_many(&mut batch, BATCH).await > 0 {} };
        let _ = timeout(LINGER, fill).await;
        let spans = std::mem::take(&mut batch);
        let count = spans.len() as u64;
        let body = request(&tracing.service_name, spans).encode_to_vec();
        let request = http::Request::post(&tracing.endpoint)
            .header("content-type", "application/x-protobuf")
            .body(Full::new(Bytes::from(body)));
        let Ok(request) = request else { return };
        let failure = match timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => continue,
            Ok(Ok(response)) => response.status().to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        metrics.spans_dropped(count);
        tracing::warn!(endpoint = %tracing.endpoint, failure, "cannot export traces");
    }
}

fn request(service: &str, spans: Vec<OtlpSpan>) -> ExportTraceServiceRequest {
    let attributes = vec![text("service.name", service)];
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

fn server_span(traced: &Traced) -> OtlpSpan {
    let Traced { span, asked, .. } = traced;
    let target = String::from_utf8_lossy(&asked.target);
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    let method = asked.method.as_str();
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.scheme", asked.scheme.as_str()),
        text("url.path", path),
        text("server.address", String::from_utf8_lossy(&asked.host)),
        text("client.address", asked.client.to_string()),
        text("network.protocol.version", asked.version.as_str().trim_start_matches("HTTP/")),
        number("http.response.body.size", traced.sent),
    ];
    attributes.extend(query.map(|query| text("url.query", query)));
    attributes.extend(traced.status.map(|s| number("http.response.status_code", s.as_u16().into())));
    attributes
        .extend(asked.user_agent.as_ref().map(|a| text("user_agent.original", String::from_utf8_lossy(a))));
    attributes.extend(traced.fault.map(|fault| text("error.type", fault.reason())));
    attributes.extend(traced.listener.as_ref().map(|l| text("portway.listener", l.to_string())));
    attributes.extend(traced.rule.as_ref().map(|r| text("http.route", r.source.to_string())));
    attributes.extend(traced.backend.as_ref().map(|b| text("portway.backend", b.to_string())));
    // Semantic conventions: for a server, 5xx is an error and 4xx is not.
    let failed = traced.status.is_none_or(|s| s.is_server_error());
    OtlpSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: span.parent_id.map(Vec::from).unwrap_or_default(),
        trace_state: span.state.as_deref().unwrap_or_default().to_owned(),
        name: match &traced.rule {
            Some(rule) => format!("{method} {}", rule.source.object),
            None => method.to_owned(),
        },
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(traced.time),
        end_time_unix_nano: nanos(traced.time + traced.duration),
        attributes,
        status: failed.then(error),
        ..OtlpSpan::default()
    }
}

fn try_span(span: &Span, attempt: &Try) -> OtlpSpan {
    let mut attributes = vec![
        text("server.address", attempt.endpoint.ip().to_string()),
        number("server.port", attempt.endpoint.port().into()),
    ];
    let failed = match attempt.outcome {
        Some(Ok(status)) => {
            attributes.push(number("http.response.status_code", status.as_u16().into()));
            // For a client, 4xx is an error too.
            status.is_client_error() || status.is_server_error()
        }
        Some(Err(fault)) => {
            attributes.push(text("error.type", fault.reason()));
            true
        }
        None => true,
    };
    OtlpSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: attempt.span_id.to_vec(),
        parent_span_id: span.span_id.to_vec(),
        name: "try".to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: nanos(attempt.begun),
        end_time_unix_nano: nanos(attempt.begun + attempt.took),
        attributes,
        status: failed.then(error),
        ..OtlpSpan::default()
    }
}

fn error() -> Status {
    Status { code: StatusCode::Error.into(), ..Status::default() }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
