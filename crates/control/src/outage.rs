//! What cannot be reached: told once, counted always.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::watcher;

/// The first pause before a retry; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// When this long nothing has failed, it works again: connecting takes less than this.
pub(crate) const RECOVERED: Duration = Duration::from_secs(15);

/// What requests to the API server fail at present.
///
/// The log has one line when the API server goes away, whatever asks it for whatever, and one when it is back; and
/// likewise for each thing that it refuses.
#[derive(Debug, Default)]
pub struct Outages {
    failing: Mutex<BTreeMap<String, Cause>>,
    errors: AtomicU64,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// There was no answer.
    Unreachable,
    /// The answer was an error with this HTTP status.
    Refused(u16),
}

impl Outages {
    /// How many requests and watches have failed since the start.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// How many things fail at present.
    pub fn failing(&self) -> usize {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A request about `what` failed.
    pub fn failed(&self, what: &str, error: &kube::Error) {
        match error {
            // Shorter than the error's own text, which has the whole answer.
            kube::Error::Api(status) => self.note(what, Cause::of(error), &status.message),
            error => self.note(what, Cause::of(error), error),
        }
    }

    /// A watch of `what` failed.
    pub(crate) fn watch_failed(&self, what: &str, error: &watcher::Error) {
        let status = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => match error {
                kube::Error::Api(status) => status,
                error => return self.failed(what, error),
            },
            watcher::Error::WatchError(status) => status,
            watcher::Error::NoResourceVersion => return self.note(what, Cause::Refused(0), error),
        };
        if status.code == 410 {
            // The API server has forgotten what we saw last; a relist follows, and nothing is lost.
            self.errors.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(what, "the watch is too far behind, listing again");
        } else {
            self.note(what, Cause::Refused(status.code), &status.message);
        }
    }

    fn note(&self, what: &str, cause: Cause, error: &dyn Display) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match cause {
            Cause::Unreachable => failing.values().any(|known| *known == Cause::Unreachable),
            Cause::Refused(_) => failing.get(what) == Some(&cause),
        };
        failing.insert(what.to_owned(), cause);
        drop(failing);
        match cause {
            _ if known => tracing::debug!(what, %error, "still failing"),
            Cause::Unreachable => {
                tracing::warn!(what, %error, "the API server does not answer; what is known stays in use");
            }
            Cause::Refused(_) => {
                tracing::warn!(what, %error, "the API server refuses; what is known stays in use");
            }
        }
    }

    /// Nobody asks about `what` any more, whether it works or not.
    pub(crate) fn forget(&self, what: &str) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// A request about `what` was answered as it should be.
    pub fn works(&self, what: &str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cause) = failing.remove(what) else { return };
        let others = failing.values().any(|known| *known == Cause::Unreachable);
        drop(failing);
        match cause {
            Cause::Unreachable if others => {}
            Cause::Unreachable => tracing::info!("the API server answers again"),
            Cause::Refused(_) => tracing::info!(what, "the API server no longer refuses"),
        }
    }
}

impl Cause {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status.code),
            _ => Self::Unreachable,
        }
    }
}

/// How long to wait before the next try.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    /// How long this time; longer each time.
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        now
    }

    /// Waits; longer each time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }
}
