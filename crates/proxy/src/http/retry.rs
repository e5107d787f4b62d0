//! When a request is tried again (HTTPRoute `retry`, GEP-1731; RFC 9110 section 9.2.2).
//!
//! | what happened | `retry` of the rule | without |
//! |-|-|-|
//! | an idle connection was closed before it took a byte | at once, free | at once, free |
//! | an idle connection broke before the answer | idempotent: at once, free | idempotent: at once, free |
//! | an HTTP/2 connection went away ahead of the request | at once, free, up to 20 times, or 5 if it took none | the same |
//! | no connection, one gone before it was used, or the request was refused unprocessed | `attempts` | once |
//! | a fresh connection broke before the answer | idempotent: `attempts` | no |
//! | the try took too long | idempotent or 504 among `codes`: `attempts` | no |
//! | a status among `codes` | `attempts` | no |
//!
//! Free ones of an idle connection happen once per request. `attempts: 0` turns off all but those of
//! requests that were not sent, or were left behind. Never without the whole body at hand, nor beyond the
//! backend's retry budget, nor past the request's timeout.

use std::time::Duration;

use http::{Method, StatusCode};
use portway_plan::Retry;
use rand::Rng;

use crate::fault::{FaultKind, Side};
use crate::http::h1::Progress;

/// The pause before the first retry, where the rule does not say; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(25);
/// No pause is longer than this, unless the rule's own is.
const MOST_BACKOFF: Duration = Duration::from_secs(10);

/// The retries of one request.
pub(crate) struct Retries<'a> {
    policy: Option<&'a Retry>,
    idempotent: bool,
    /// Retries that counted.
    used: u32,
    free_used: bool,
    /// How often a connection went away ahead of the request.
    left_behind: u32,
}

/// A backend that takes ten requests from each connection, say, may leave one behind several times when many are
/// under way.
const MOST_LEFT_BEHIND: u32 = 20;
/// A connection that has taken none counts for so many of those: one that never does must not be asked for long.
const TOOK_NONE: u32 = 4;

/// What a try came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// No answer.
    Failed {
        /// Why.
        kind: FaultKind,
        /// How far the request had got.
        progress: Progress,
        /// The connection had idled before.
        reused: bool,
    },
    /// An answer.
    Status(StatusCode),
}

/// A further try that may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// Not before this time has passed.
    pub(crate) pause: Duration,
    /// It takes from the backend's budget.
    pub(crate) counted: bool,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(policy: Option<&'a Retry>, method: &Method) -> Self {
        Self { policy, idempotent: method.is_idempotent(), used: 0, free_used: false, left_behind: 0 }
    }

    /// Whether a further try could be needed that sends the body again.
    pub(crate) fn wants_replay(&self) -> bool {
        self.policy.map_or(self.idempotent, |policy| policy.attempts > 0)
    }

    /// Whether there is a further try after this outcome, apart from the body and the budget.
    pub(crate) fn next(&mut self, outcome: Outcome) -> Option<Again> {
        let off = self.policy.is_some_and(|policy| policy.attempts == 0);
        if let Outcome::Failed { progress: Progress::LeftBehind { others }, .. } = outcome
            && self.left_behind < MOST_LEFT_BEHIND
        {
            self.left_behind += if others { 1 } else { TOOK_NONE };
            return Some(Again { pause: Duration::ZERO, counted: false });
        }
        if let Outcome::Failed { kind, progress, reused: true } = outcome
            && kind.side() == Side::Upstream
            && kind != FaultKind::UpstreamTimeout
        {
            let safe = match progress {
                Progress::Unsent => true,
                Progress::LeftBehind { .. } | Progress::Refused => false,
                Progress::Unanswered => self.idempotent && !off,
                Progress::Answered => false,
            };
            if safe && !self.free_used {
                self.free_used = true;
                return Some(Again { pause: Duration::ZERO, counted: false });
            }
        }
        let most = self.policy.map_or(1, |policy| policy.attempts);
        if self.used >= most || !self.covers(outcome) {
            return None;
        }
        let pause = self.pause(outcome);
        self.used += 1;
        Some(Again { pause, counted: true })
    }

    fn covers(&self, outcome: Outcome) -> bool {
        let codes = self.policy.map_or(&[][..], |policy| &policy.codes);
        match outcome {
            Outcome::Status(status) => codes.contains(&status.as_u16()),
            Outcome::Failed { kind: FaultKind::Connect | FaultKind::UpstreamTls, .. } => true,
            Outcome::Failed { kind: FaultKind::UpstreamTimeout, .. } => {
                self.policy.is_some() && (self.idempotent || codes.contains(&504))
            }
            Outcome::Failed { kind: FaultKind::UpstreamClosed, progress, .. } => match progress {
                Progress::Unsent | Progress::LeftBehind { .. } | Progress::Refused => true,
                Progress::Unanswered => self.policy.is_some() && self.idempotent,
                Progress::Answered => false,
            },
            Outcome::Failed { .. } => false,
        }
    }

    /// Exponential, with jitter on top of the rule's least time, or below the default's.
    fn pause(&self, outcome: Outcome) -> Duration {
        let doubled = 1u32 << self.used.min(10);
        match self.policy.and_then(|policy| policy.backoff) {
            Some(least) => {
                let pause = least.saturating_mul(doubled).min(MOST_BACKOFF.max(least));
                pause.mul_f64(rand::rng().random_range(1.0..1.25))
            }
            // Another endpoint is at hand most of the time.
            None if self.used == 0 && matches!(outcome, Outcome::Failed { .. }) => Duration::ZERO,
            None => BACKOFF
                .saturating_mul(doubled)
                .min(Duration::from_millis(250))
                .mul_f64(rand::rng().random_range(0.5..1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(codes: &[u16], attempts: u32, backoff: Option<u64>) -> Retry {
        Retry { codes: codes.to_vec(), attempts, backoff: backoff.map(Duration::from_millis) }
    }

    fn failed(kind: FaultKind, progress: Progress, reused: bool) -> Outcome {
        Outcome::Failed { kind, progress, reused }
    }

    /// How many retries follow when the same thing happens each time, up to 30.
    fn count(policy: Option<&Retry>, method: Method, outcome: Outcome) -> usize {
        let mut retries = Retries::new(policy, &method);
        (0..30).take_while(|_| retries.next(outcome).is_some()).count()
    }

    #[test]
    fn the_table() {
        use FaultKind::{Connect, UpstreamClosed, UpstreamProtocol, UpstreamTimeout};
        use Progress::{Answered, LeftBehind, Refused, Unanswered, Unsent};
        let (few, none) = (LeftBehind { others: true }, LeftBehind { others: false });
        let three = policy(&[500, 503], 3, None);
        let with_504 = policy(&[504], 3, None);
        let off = policy(&[500], 0, None);
        let stale = |progress| failed(UpstreamClosed, progress, true);
        let fresh = |progress| failed(UpstreamClosed, progress, false);
        let (get, post) = (Method::GET, Method::POST);
        let cases: &[(Option<&Retry>, &Method, Outcome, usize)] = &[
            (None, &get, failed(Connect, Unsent, false), 1),
            (None, &post, failed(Connect, Unsent, false), 1),
            (Some(&three), &post, failed(Connect, Unsent, false), 3),
            (Some(&off), &get, failed(Connect, Unsent, false), 0),
            (None, &post, stale(Unanswered), 0),
            (None, &get, stale(Unanswered), 1),
            (Some(&off), &get, stale(Unanswered), 0),
            (Some(&off), &post, stale(Unsent), 1),
            (Some(&off), &post, stale(few), 20),
            (None, &post, fresh(few), 21),
            (Some(&off), &post, stale(none), 5),
            (None, &post, fresh(none), 6),
            (None, &post, stale(Refused), 1),
            (Some(&three), &post, stale(Refused), 3),
            (Some(&off), &post, stale(Refused), 0),
            (None, &get, fresh(Unanswered), 0),
            (Some(&three), &get, fresh(Unanswered), 3),
            (Some(&three), &post, fresh(Unanswered), 0),
            (Some(&three), &get, fresh(Answered), 0),
            (Some(&three), &get, failed(UpstreamProtocol, Unanswered, false), 0),
            (None, &get, failed(UpstreamTimeout, Unanswered, false), 0),
            (Some(&three), &get, failed(UpstreamTimeout, Unanswered, false), 3),
            (Some(&three), &post, failed(UpstreamTimeout, Unanswered, false), 0),
            (Some(&with_504), &post, failed(UpstreamTimeout, Unanswered, false), 3),
            (Some(&three), &get, failed(FaultKind::ClientGone, Answered, false), 0),
            (None, &get, Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR), 0),
            (Some(&three), &post, Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR), 3),
            (Some(&three), &get, Outcome::Status(StatusCode::BAD_GATEWAY), 0),
            (Some(&off), &get, Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR), 0),
        ];
        for (index, (policy, method, outcome, want)) in cases.iter().enumerate() {
            assert_eq!(count(*policy, (*method).clone(), *outcome), *want, "case {index}: {outcome:?}");
        }
    }

    #[test]
    fn pauses_grow_from_the_least() {
        let policy = policy(&[500], 5, Some(100));
        let mut retries = Retries::new(Some(&policy), &Method::GET);
        for least in [100, 200, 400, 800, 1600] {
            let again = retries.next(Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR)).expect("a retry");
            let least = Duration::from_millis(least);
            assert!(again.pause >= least && again.pause <= least.mul_f64(1.25), "{again:?}");
        }
    }

    #[test]
    fn a_stale_connection_does_not_use_up_an_attempt() {
        let policy = policy(&[], 1, None);
        let mut retries = Retries::new(Some(&policy), &Method::GET);
        let stale = failed(FaultKind::UpstreamClosed, Progress::Unanswered, true);
        assert_eq!(retries.next(stale), Some(Again { pause: Duration::ZERO, counted: false }));
        assert!(retries.next(failed(FaultKind::Connect, Progress::Unsent, false)).is_some());
        assert!(retries.next(failed(FaultKind::Connect, Progress::Unsent, false)).is_none());
    }
}
