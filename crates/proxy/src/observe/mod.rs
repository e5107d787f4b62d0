//! Seeing what the proxy does: access log, metrics, traces.

use crate::fault::FaultKind;

/// The record of one exchange. Created when a request begins, handed to the engine with the response, and
/// closed when it is dropped: that is when the access log line is written and the metrics are counted.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Body bytes sent to the client.
    pub sent: u64,
    /// What went wrong while the response was sent, if anything.
    pub fault: Option<FaultKind>,
    /// The response was sent to its end.
    pub complete: bool,
}

impl Exchange {
    /// The engine has written this many bytes of the body.
    #[inline]
    pub fn count_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}
