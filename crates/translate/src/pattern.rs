use std::fmt::Write as _;
use std::sync::Arc;

use portway_plan::Regex;

/// Compiles an expression once, within the limits that the plan promises, and throws the result away.
///
/// # Errors
/// Says for people why it does not compile.
pub(crate) fn regex(text: &str) -> Result<Regex, String> {
    // By itself first: `a)|(?:b` would break out of the group that anchors it.
    regex_syntax::ast::parse::ParserBuilder::new()
        .nest_limit(Regex::NEST_LIMIT)
        .build()
        .parse(text)
        .map_err(|error| format!("not a regular expression of the Rust regex syntax: {}", error.kind()))?;
    let regex = Regex(Arc::from(text));
    let compiled = regex::RegexBuilder::new(&regex.anchored())
        .size_limit(Regex::SIZE_LIMIT)
        .dfa_size_limit(Regex::SIZE_LIMIT)
        .nest_limit(Regex::NEST_LIMIT)
        .build();
    match compiled {
        Ok(_) => Ok(regex),
        Err(regex::Error::CompiledTooBig(limit)) => {
            Err(format!("the expression takes more than {limit} bytes when compiled; make it simpler"))
        }
        Err(regex::Error::Syntax(message)) => {
            // The last line says what is wrong; those before it draw the expression.
            let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("not a regular expression of the Rust regex syntax: {reason}"))
        }
        Err(other) => Err(other.to_string()),
    }
}

/// A path in the form that requests' paths have when they are compared: escapes of unreserved characters
/// decoded, the digits of all others in upper case (RFC 3986 section 6.2.2). Two spellings of one path so
/// count as equally long, and none outranks the other.
pub(crate) fn path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = &after[2..];
            }
            Some(byte) => {
                let _ = write!(out, "%{byte:02X}");
                rest = &after[2..];
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        assert_eq!(path("/%7euser/%61%c3%A9%2fb"), "/~user/a%C3%A9%2Fb");
        assert_eq!(path("/100%/%4/%+1/%é"), "/100%/%4/%+1/%é");
    }

    #[test]
    fn expressions_are_bounded() {
        assert!(regex("/v[0-9]+/.*").is_ok());
        assert!(regex("a{1000}{1000}").unwrap_err().contains("simpler"));
        assert!(regex("(").unwrap_err().contains("unclosed group"));
        assert!(regex(&"(".repeat(100)).is_err());
        assert!(regex("a)|(?:b").unwrap_err().contains("unopened group"));
        assert!(regex(r"(a)\1").is_err(), "no back-references");
    }
}
