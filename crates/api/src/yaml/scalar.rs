//! What a plain scalar means.

use serde_json::{Number, Value};

/// Reads an unquoted scalar as `sigs.k8s.io/yaml` does; `None` for infinities and NaN, which JSON, and with
/// it the Kubernetes API, cannot express.
pub(super) fn resolve(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match number(text) {
            Some(number) => number?,
            None => Value::String(text.to_owned()),
        },
    })
}

/// Whether Kubernetes, whose YAML library keeps YAML 1.1's rule, reads this unquoted scalar as a boolean
/// although it is none in YAML 1.2.
pub fn legacy_boolean(text: &str) -> bool {
    matches!(
        text,
        "y" | "Y"
            | "n"
            | "N"
            | "yes"
            | "Yes"
            | "YES"
            | "no"
            | "No"
            | "NO"
            | "on"
            | "On"
            | "ON"
            | "off"
            | "Off"
            | "OFF"
    )
}

/// `None`: no number. `Some(None)`: a number that JSON lacks.
fn number(text: &str) -> Option<Option<Value>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(None);
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(integer) = integer(text, unsigned) {
        return Some(Some(Value::Number(integer)));
    }
    if !is_float(unsigned) {
        return None;
    }
    let float: f64 = text.replace('_', "").parse().ok()?;
    // Go's encoding/json, through which the text goes to the API server, writes 80.0 as 80.
    if float.fract() == 0.0 && float.abs() < 9e15 {
        return Some(Some(Value::from(float as i64)));
    }
    Some(Number::from_f64(float).map(Value::Number))
}

/// Go's `strconv.ParseInt(text, 0, 64)`: decimal, `0x`, `0o`, `0b`, and octal after a leading zero.
fn integer(text: &str, unsigned: &str) -> Option<Number> {
    let digits = unsigned.replace('_', "");
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    if text.starts_with('-') {
        i64::from_str_radix(&format!("-{digits}"), radix).ok().map(Number::from)
    } else {
        u64::from_str_radix(digits, radix).ok().map(Number::from)
    }
}

/// `[0-9_]* (. [0-9]*)? ([eE] [-+]? [0-9]+)?` with a digit in it.
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    whole.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && all_digits(e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_what_kubernetes_makes_of_them() {
        let cases = [
            ("", json!(null)),
            ("~", json!(null)),
            ("true", json!(true)),
            ("FALSE", json!(false)),
            ("yes", json!("yes")),
            ("80", json!(80)),
            ("-5", json!(-5)),
            ("+7", json!(7)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("017", json!(15)),
            ("019", json!(19)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("1.10", json!(1.1)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("1e", json!("1e")),
            (".", json!(".")),
            ("-", json!("-")),
            ("0x", json!("0x")),
            ("12h", json!("12h")),
            ("2001-01-01", json!("2001-01-01")),
            ("::1", json!("::1")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615u64)),
        ];
        for (text, value) in cases {
            assert_eq!(resolve(text), Some(value), "{text}");
        }
    }

    #[test]
    fn json_has_no_infinity() {
        for text in [".inf", "-.INF", "+.Inf", ".nan", "1e999"] {
            assert_eq!(resolve(text), None, "{text}");
        }
    }
}
