//! CEL's values, as far as lowered rules meet them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value;

/// A value; JSON's lists and maps are used where they are.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// Nanoseconds.
    Duration(i128),
    List(&'a [Value]),
    Map(&'a serde_json::Map<String, Value>),
    /// A list that the rule itself made.
    Made(Rc<Vec<Val<'a>>>),
}

impl<'a> From<&'a Value> for Val<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Val::Null,
            Value::Bool(bool) => Val::Bool(*bool),
            Value::Number(number) => match number.as_i64() {
                Some(int) => Val::Int(int),
                None => Val::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Val::Text(Cow::Borrowed(text)),
            Value::Array(items) => Val::List(items),
            Value::Object(map) => Val::Map(map),
        }
    }
}

impl<'a> Val<'a> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Val::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The length of a list or a map's keys, which are what CEL iterates over.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Val::List(items) => Some(items.len()),
            Val::Made(items) => Some(items.len()),
            Val::Map(map) => Some(map.len()),
            _ => None,
        }
    }

    pub(super) fn item(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Val::List(items) => items.get(index).map(Val::from),
            Val::Made(items) => items.get(index).cloned(),
            Val::Map(map) => map.keys().nth(index).map(|key| Val::Text(Cow::Borrowed(key))),
            _ => None,
        }
    }

    pub(super) fn equals(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Text(a), Val::Text(b)) => a == b,
            (Val::Map(a), Val::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| Val::from(a).equals(&Val::from(b))))
            }
            (Val::List(_) | Val::Made(_), Val::List(_) | Val::Made(_)) => {
                let length = self.length().unwrap_or(0);
                other.length() == Some(length)
                    && (0..length).all(|at| match (self.item(at), other.item(at)) {
                        (Some(a), Some(b)) => a.equals(&b),
                        _ => false,
                    })
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of numbers, strings, booleans and durations; `None` where CEL has none.
    pub(super) fn compare(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Float(a), Val::Float(b)) => a.partial_cmp(b),
            (Val::Int(a), Val::Float(b)) => (*a as f64).partial_cmp(b),
            (Val::Float(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Text(a), Val::Text(b)) => Some(a.cmp(b)),
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        // Sixteen digits are finer than a nanosecond in an hour.
        let fraction = &fraction[..fraction.len().min(16)];
        if !fraction.is_empty() {
            let power = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
            total = total.checked_add(fraction.parse::<i128>().ok()? * scale / power)?;
        }
        rest = next;
    }
    // Go's durations are 64 bits wide.
    i64::try_from(total).ok().map(|total| i128::from(if negative { -total } else { total }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        let cases = [
            ("0", Some(0)),
            ("1s", Some(1_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5ms", Some(500_000)),
            ("-2m", Some(-120_000_000_000)),
            ("100us1ns", Some(100_001)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999h", None),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(parse_duration(text), nanoseconds, "{text}");
        }
    }
}
