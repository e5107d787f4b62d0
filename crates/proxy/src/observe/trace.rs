//! Traces: W3C Trace Context (<https://www.w3.org/TR/trace-context/>) in and out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_plan::{BackendKey, Source};

use super::series::RuleLabels;
use super::text::hex_pair;
use crate::fault::FaultKind;
use crate::http::{Headers, Request, Scheme, Version};

/// Decides which requests are traced.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    /// Of all traces begun here, the part that is sampled, scaled to the whole range of `u64`.
    threshold: u64,
}

/// The span of a request, with those of its tries.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) parent_id: Option<[u8; 8]>,
    pub(super) state: Option<Box<str>>,
    /// The request, if the trace is sampled.
    pub(super) asked: Option<Box<Asked>>,
    pub(super) tries: Vec<Try>,
}

/// A request as the client sent it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) scheme: Scheme,
    pub(super) host: Bytes,
    pub(super) target: Bytes,
    pub(super) version: Version,
    pub(super) user_agent: Option<Bytes>,
}

/// A sampled exchange that has ended, on its way to the exporter.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) span: Span,
    pub(super) asked: Box<Asked>,
    pub(super) time: SystemTime,
    pub(super) duration: Duration,
    pub(super) status: Option<StatusCode>,
    pub(super) sent: u64,
    pub(super) fault: Option<FaultKind>,
    pub(super) listener: Option<Arc<Source>>,
    pub(super) rule: Option<Arc<RuleLabels>>,
    pub(super) backend: Option<Arc<BackendKey>>,
}

/// The span of a try.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) span_id: [u8; 8],
    pub(super) endpoint: SocketAddr,
    pub(super) begun: SystemTime,
    pub(super) took: Duration,
    pub(super) outcome: Option<Result<StatusCode, FaultKind>>,
}

/// More tries than this are not recorded one by one.
const MOST_TRIES: usize = 16;

impl Sampler {
    /// Samples that part, from 0.0 to 1.0, of the traces that begin here.
    pub(super) fn new(ratio: f64) -> Self {
        Self { threshold: (ratio.clamp(0.0, 1.0) * u64::MAX as f64) as u64 }
    }

    /// The span of a request.
    pub(super) fn begin(&self, request: &Request) -> Span {
        let (mut span, sampled) = self.span(&request.head.headers);
        span.asked = sampled.then(|| Box::new(Asked::of(request)));
        span
    }

    /// The span of a request with these headers, and whether it is sampled.
    fn span(&self, headers: &Headers) -> (Span, bool) {
        let mut lines = headers.get_all("traceparent");
        let parent = match (lines.next(), lines.next()) {
            (Some(line), None) => parse_parent(line),
            _ => None,
        };
        let (span_id, tries) = (rand::random(), Vec::new());
        match parent {
            Some((trace_id, parent_id, sampled)) => {
                let state = headers.get("tracestate").and_then(|s| std::str::from_utf8(s).ok());
                let state = state.filter(|s| s.len() <= 512).map(Into::into);
                (Span { trace_id, span_id, parent_id: Some(parent_id), state, asked: None, tries }, sampled)
            }
            None => {
                let sampled = self.threshold == u64::MAX || rand::random::<u64>() < self.threshold;
                let trace_id = rand::random();
                (Span { trace_id, span_id, parent_id: None, state: None, asked: None, tries }, sampled)
            }
        }
    }
}

impl Asked {
    fn of(request: &Request) -> Self {
        let head = &request.head;
        Self {
            client: request.connection.peer.ip(),
            method: head.method.clone(),
            scheme: head.scheme,
            host: head.authority.text().clone(),
            target: head.target.text().clone(),
            version: head.version,
            user_agent: head.headers.get("user-agent").map(Bytes::copy_from_slice),
        }
    }
}

impl Span {
    pub(super) fn begin_try(&mut self, endpoint: SocketAddr, headers: &mut Headers) {
        let sent = match self.asked {
            Some(_) => {
                let span_id = rand::random();
                if self.tries.len() < MOST_TRIES {
                    let begun = SystemTime::UNIX_EPOCH;
                    self.tries.push(Try { span_id, endpoint, begun, took: Duration::ZERO, outcome: None });
                }
                span_id
            }
            None => self.parent_id.unwrap_or(self.span_id),
        };
        headers.set("traceparent", parent_text(&self.trace_id, &sent, self.asked.is_some()));
    }

    pub(super) fn end_try(
        &mut self,
        begun: SystemTime,
        took: Duration,
        outcome: Result<StatusCode, FaultKind>,
    ) {
        if let Some(last) = self.tries.last_mut()
            && last.outcome.is_none()
        {
            (last.begun, last.took, last.outcome) = (begun, took, Some(outcome));
        }
    }
}

/// The value of `traceparent`.
fn parent_text(trace_id: &[u8; 16], parent_id: &[u8; 8], sampled: bool) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    for (pair, byte) in text[3..35].chunks_exact_mut(2).zip(trace_id) {
        pair.copy_from_slice(&hex_pair(*byte));
    }
    for (pair, byte) in text[36..52].chunks_exact_mut(2).zip(parent_id) {
        pair.copy_from_slice(&hex_pair(*byte));
    }
    text[54] = b'0' + u8::from(sampled);
    text
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may go on after that (section 3.2.4).
fn parse_parent(line: &[u8]) -> Option<([u8; 16], [u8; 8], bool)> {
    if line.len() < 55 || line[2] != b'-' || line[35] != b'-' || line[52] != b'-' {
        return None;
    }
    let version = unhex::<1>(&line[..2])?[0];
    if version == 0xff || (version == 0 && line.len() != 55) || (line.len() > 55 && line[55] != b'-') {
        return None;
    }
    let trace_id = unhex::<16>(&line[3..35])?;
    let parent_id = unhex::<8>(&line[36..52])?;
    let flags = unhex::<1>(&line[53..55])?[0];
    let valid = trace_id != [0; 16] && parent_id != [0; 8];
    valid.then_some((trace_id, parent_id, flags & 1 == 1))
}

/// Reads lower-case hexadecimal of just that length.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == N * 2).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        let mut text = Vec::new();
        super::super::text::hex(&mut text, bytes);
        String::from_utf8(text).unwrap()
    }

    fn request(headers: Headers) -> Request {
        crate::observe::lines::tests::request(headers)
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_strictly() {
        let (trace, parent, sampled) = parse_parent(PARENT.as_bytes()).unwrap();
        assert_eq!(hex(&trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(hex(&parent), "b7ad6b7169203331");
        assert!(sampled);
        let later = format!("01{}-more", &PARENT[2..]);
        assert!(parse_parent(later.as_bytes()).is_some());
        for bad in [
            &PARENT.to_uppercase(),
            &format!("{PARENT}-more"),
            &format!("ff{}", &PARENT[2..]),
            &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &PARENT[..54],
        ] {
            assert!(parse_parent(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_try_is_the_child_of_the_request_and_its_parents_trace_goes_on() {
        let mut headers = Headers::from([("Traceparent", PARENT), ("tracestate", "a=b")]);
        let mut span = Sampler::new(0.0).begin(&request(headers.clone()));
        assert!(span.asked.is_some(), "the parent decides");
        span.begin_try("127.0.0.1:1".parse().unwrap(), &mut headers);
        let sent = String::from_utf8(headers.get("traceparent").unwrap().to_vec()).unwrap();
        assert_eq!(sent, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", hex(&span.tries[0].span_id)));
        assert_eq!(headers.get_all("traceparent").count(), 1);
    }

    #[test]
    fn an_unsampled_trace_passes_the_parent_on() {
        let parent = format!("{}00", &PARENT[..53]);
        let mut headers = Headers::from([("traceparent", parent.as_str())]);
        let mut span = Sampler::new(1.0).begin(&request(headers.clone()));
        span.begin_try("127.0.0.1:1".parse().unwrap(), &mut headers);
        assert!(span.asked.is_none() && span.tries.is_empty());
        assert_eq!(headers.get("traceparent"), Some(parent.as_bytes()));
    }
}
