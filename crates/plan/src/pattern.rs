use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A hostname as listeners and routes write it (Gateway API `Hostname`): lower case, no port, no trailing dot.
///
/// Ordered from the least specific to the most: any, then wildcards by length, then exact names by length;
/// names of the same length by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// Every host, also none at all.
    Any,
    /// `*.example.com`, held as `.example.com`: one or more labels before it.
    Wildcard(Arc<str>),
    /// `www.example.com`.
    Exact(Arc<str>),
}

/// A pattern that is no hostname or no regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern(pub String);

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidPattern {}

impl HostPattern {
    /// Parses a Gateway API `Hostname`; an empty one is [`HostPattern::Any`].
    ///
    /// # Errors
    /// When it is no RFC 1123 hostname, with `*` allowed as the whole first label.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = text.to_ascii_lowercase();
        if text.is_empty() || text == "*" {
            return Ok(Self::Any);
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(InvalidPattern(format!("{text:?} is no hostname (RFC 1123)")));
        }
        Ok(if wildcard { Self::Wildcard(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    /// Whether a host (lower case, without port) falls under the pattern. A wildcard stands for one or more
    /// whole labels (Gateway API: `*.example.com` matches `a.b.example.com`, and not `example.com`).
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Exact(name) => **name == *host,
        }
    }

    /// The narrower of the two where one contains the other, else `None`.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.contains(other) {
            Some(other.clone())
        } else if other.contains(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Whether each host that `other` matches is matched by `self` too.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Wildcard(a), Self::Wildcard(b)) => b.ends_with(&**a),
            (Self::Wildcard(_), Self::Exact(name)) => self.matches(name),
            (Self::Exact(_), Self::Wildcard(_)) => false,
            (Self::Exact(a), Self::Exact(b)) => a == b,
        }
    }

    fn rank(&self) -> (u8, usize, &str) {
        match self {
            Self::Any => (0, 0, ""),
            Self::Wildcard(suffix) => (1, suffix.len(), suffix),
            Self::Exact(name) => (2, name.len(), name),
        }
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

/// A regular expression of the `regex` crate's syntax that translate has compiled once, within its size
/// limits, so that whoever compiles it again with the same limits may expect success.
///
/// It is anchored: it must match the whole value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Regex(pub Arc<str>);

impl Regex {
    /// The most bytes that one compiled expression may take.
    pub const SIZE_LIMIT: usize = 256 * 1024;
    /// How deep groups may nest.
    pub const NEST_LIMIT: u32 = 64;

    /// The text to compile: the expression, anchored at both ends.
    pub fn anchored(&self) -> String {
        format!("^(?:{})$", self.0)
    }
}

/// How a header's or query parameter's value is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// Byte for byte.
    Exact(Arc<str>),
    /// The whole value matches.
    Regex(Regex),
}
