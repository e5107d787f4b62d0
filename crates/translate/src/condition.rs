//! Conditions: how statuses say what became of an object.

use std::fmt;

use portway_api::gateway::{Condition, ConditionStatus};
use portway_api::object::Time;

pub(crate) const ACCEPTED: &str = "Accepted";
pub(crate) const PROGRAMMED: &str = "Programmed";
pub(crate) const ADDRESSES_ASSIGNED: &str = "AddressesAssigned";
pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(crate) const CONFLICTED: &str = "Conflicted";
pub(crate) const OVERLAPPING_TLS: &str = "OverlappingTLSConfig";
pub(crate) const PARTIALLY_INVALID: &str = "PartiallyInvalid";
pub(crate) const INSECURE_FRONTEND: &str = "InsecureFrontendValidationMode";
pub(crate) const SUPPORTED_VERSION: &str = "SupportedVersion";
/// Fields that this version of Portway reads past: what they ask for does not happen.
pub(crate) const IGNORED_FIELDS: &str = "portway.dev/IgnoredFields";

/// The types that are Portway's to set and to remove. All others on an object are someone else's.
const OWN: [&str; 10] = [
    ACCEPTED,
    PROGRAMMED,
    ADDRESSES_ASSIGNED,
    RESOLVED_REFS,
    CONFLICTED,
    OVERLAPPING_TLS,
    PARTIALLY_INVALID,
    INSECURE_FRONTEND,
    SUPPORTED_VERSION,
    IGNORED_FIELDS,
];

/// Whether conditions of this type are Portway's to set and to remove, on objects of its own.
#[must_use]
pub fn is_own_condition(type_: &str) -> bool {
    OWN.contains(&type_)
}

/// Something that is wrong: where, what the API calls it, and the sentence for people. Displays as
/// `spec.listeners[0].port: 70000 is no port number`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The field path in the object that is to blame; empty if it is none.
    pub(crate) path: String,
    /// The reason of the condition that says it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(path: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A condition before it is dated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) type_: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The condition is `True`.
pub(crate) fn yes(type_: &'static str, reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { type_, holds: true, reason: reason.to_owned(), message: cut(message.into()) }
}

/// The condition is `False`.
pub(crate) fn no(type_: &'static str, reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { type_, holds: false, reason: reason.to_owned(), message: cut(message.into()) }
}

/// The API's bound on a condition's message, in characters.
const MESSAGE_LIMIT: usize = 32_768;

fn cut(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    message.chars().take(MESSAGE_LIMIT - 1).chain(['…']).collect()
}

/// The conditions so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History<'a> {
    /// What Portway said last.
    pub(crate) said: &'a [Condition],
    /// What the object itself carries.
    pub(crate) object: &'a [Condition],
}

impl<'a> History<'a> {
    /// Takes the conditions out of two statuses: the one that Portway said last, if it remembers, and the one
    /// that the object carries.
    pub(crate) fn of<S>(
        statuses: Past<'a, S>,
        conditions: impl Fn(&'a S) -> Option<&'a Vec<Condition>>,
    ) -> Self {
        let object = statuses.object.and_then(&conditions);
        let said = statuses.said.or(statuses.object).and_then(&conditions);
        let slice = |list: Option<&'a Vec<Condition>>| list.map(Vec::as_slice).unwrap_or_default();
        Self { said: slice(said), object: slice(object) }
    }
}

/// An object's statuses so far.
#[derive(Debug)]
pub(crate) struct Past<'a, S> {
    /// What Portway said last, if it remembers.
    pub(crate) said: Option<&'a S>,
    /// What the object itself carries.
    pub(crate) object: Option<&'a S>,
}

impl<S> Clone for Past<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Past<'_, S> {}

/// Dates verdicts: the time of the last transition stays what it was while the status stays what it was.
/// Conditions of other owners on the object are kept as they are, after Portway's.
pub(crate) fn dated(
    verdicts: &[Verdict],
    generation: i64,
    now: Time,
    history: History<'_>,
) -> Vec<Condition> {
    let own = verdicts.iter().map(|verdict| {
        let status = if verdict.holds { ConditionStatus::True } else { ConditionStatus::False };
        let before =
            history.said.iter().find(|before| before.type_ == verdict.type_ && before.status == status);
        Condition {
            type_: verdict.type_.to_owned(),
            status,
            observed_generation: Some(generation),
            last_transition_time: before.map_or(now, |before| before.last_transition_time),
            reason: verdict.reason.clone(),
            message: verdict.message.clone(),
        }
    });
    let foreign = history.object.iter().filter(|before| !is_own_condition(&before.type_)).cloned();
    own.chain(foreign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(time::OffsetDateTime::from_unix_timestamp(seconds).unwrap())
    }

    #[test]
    fn a_status_that_stays_keeps_its_time() {
        let first = [yes(ACCEPTED, "Accepted", "a"), no(PROGRAMMED, "Pending", "")];
        let first = dated(&first, 1, at(1), History::default());
        let second = [yes(ACCEPTED, "Other", "b"), yes(PROGRAMMED, "Programmed", "")];
        let second = dated(&second, 2, at(2), History { said: &first, object: &[] });
        assert_eq!(second[0].last_transition_time, at(1));
        assert_eq!(second[0].reason, "Other");
        assert_eq!(second[0].observed_generation, Some(2));
        assert_eq!(second[1].last_transition_time, at(2));
    }

    #[test]
    fn conditions_of_others_stay_and_own_ones_go() {
        let partial = [yes(PARTIALLY_INVALID, "UnsupportedValue", "")];
        let mut before = dated(&partial, 1, at(1), History::default());
        before.push(Condition { type_: "example.com/Seen".to_owned(), ..before[0].clone() });
        let history = History { said: &before, object: &before };
        let after = dated(&[yes(ACCEPTED, "Accepted", "")], 1, at(1), history);
        let types: Vec<_> = after.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, [ACCEPTED, "example.com/Seen"]);
    }
}
