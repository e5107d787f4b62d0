//! RequestMirror: HTTPRequestMirrorFilter, GEP-3171
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httprequestmirrorfilter>).

use std::sync::Arc;

use super::Effects;
use crate::upstream::{Backend, Weights};

/// Sends copies of some of the requests elsewhere.
#[derive(Debug)]
pub(super) struct Mirror {
    backend: Arc<Backend>,
    /// Mirrored against not mirrored.
    shares: Weights,
}

impl Mirror {
    pub(super) fn compile(mirror: &portway_plan::Mirror, backend: Arc<Backend>) -> Self {
        let rest = mirror.denominator.saturating_sub(mirror.numerator);
        Self { backend, shares: Weights::new(&[mirror.numerator, rest]) }
    }

    pub(super) fn on_request(&self, effects: &mut Effects) {
        if self.shares.pick() == Some(0) {
            effects.mirrors.push(self.backend.clone());
        }
    }
}
