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

#[cfg(test)]
mod tests {
    use super::*;

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
