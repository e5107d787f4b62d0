//! Traces: W3C Trace Context (<https://www.w3.org/TR/trace-context/>) in and out.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::fault::FaultKind;
use crate::http::Headers;

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
    pub(super) sampled: bool,
    pub(super) tries: Vec<Try>,
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

    /// The span of a request with these headers.
    pub(super) fn begin(&self, headers: &Headers) -> Option<Box<Span>> {
        let mut lines = headers.get_all("traceparent");
        let parent = match (lines.next(), lines.next()) {
            (Some(line), None) => parse_parent(line),
            _ => None,
        };
        let span_id = rand::random::<[u8; 8]>();
        Some(Box::new(match parent {
            Some((trace_id, parent_id, sampled)) => {
                let state = headers.get("tracestate").and_then(|s| std::str::from_utf8(s).ok());
                let state = state.filter(|s| s.len() <= 512).map(Into::into);
                Span { trace_id, span_id, parent_id: Some(parent_id), state, sampled, tries: Vec::new() }
            }
            None => Span {
                trace_id: rand::random(),
                span_id,
                parent_id: None,
                state: None,
                sampled: rand::random::<u64>() < self.threshold || self.threshold == u64::MAX,
                tries: Vec::new(),
            },
        }))
    }
}

impl Span {
    pub(super) fn begin_try(&mut self, endpoint: SocketAddr, headers: &mut Headers) {
        let span_id = rand::random();
        if self.sampled && self.tries.len() < MOST_TRIES {
            let begun = SystemTime::UNIX_EPOCH;
            self.tries.push(Try { span_id, endpoint, begun, took: Duration::ZERO, outcome: None });
        }
        let sent = if self.sampled { span_id } else { self.parent_id.unwrap_or(self.span_id) };
        let flags = if self.sampled { "01" } else { "00" };
        headers.set("traceparent", format!("00-{}-{}-{flags}", hex(&self.trace_id), hex(&sent)));
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

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
        let mut span = Sampler::new(0.0).begin(&headers).unwrap();
        assert!(span.sampled, "the parent decides");
        span.begin_try("127.0.0.1:1".parse().unwrap(), &mut headers);
        let sent = String::from_utf8(headers.get("traceparent").unwrap().to_vec()).unwrap();
        assert_eq!(sent, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", hex(&span.tries[0].span_id)));
        assert_eq!(headers.get_all("traceparent").count(), 1);
    }

    #[test]
    fn an_unsampled_trace_passes_the_parent_on() {
        let parent = format!("{}00", &PARENT[..53]);
        let mut headers = Headers::from([("traceparent", parent.as_str())]);
        let mut span = Sampler::new(1.0).begin(&headers).unwrap();
        span.begin_try("127.0.0.1:1".parse().unwrap(), &mut headers);
        assert!(!span.sampled && span.tries.is_empty());
        assert_eq!(headers.get("traceparent"), Some(parent.as_bytes()));
    }
}
