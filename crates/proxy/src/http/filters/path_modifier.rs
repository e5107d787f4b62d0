//! HTTPPathModifier, the part that redirects and rewrites share
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httppathmodifier>).

use std::fmt::Write;

use portway_plan::PathRewrite;

use super::MatchContext;
use crate::http::Target;

/// How a path changes.
#[derive(Debug)]
pub(super) enum PathModifier {
    /// The whole path.
    Full(Box<str>),
    /// The matched prefix, held without trailing slashes.
    Prefix(Box<str>),
}

impl PathModifier {
    pub(super) fn compile(rewrite: &PathRewrite) -> Self {
        match rewrite {
            PathRewrite::Full(path) => Self::Full(escape(path)),
            PathRewrite::Prefix(prefix) => Self::Prefix(escape(prefix.trim_end_matches('/'))),
        }
    }

    /// The new path and the old query. It still has to be normalised.
    pub(super) fn apply(&self, target: &Target, context: &MatchContext) -> String {
        let (replacement, rest) = match self {
            Self::Full(path) => (&**path, ""),
            Self::Prefix(prefix) => {
                let matched = context.prefix_len.unwrap_or_default();
                (&**prefix, target.path().get(matched..).unwrap_or_default())
            }
        };
        let query = target.query();
        let mut text = String::with_capacity(
            2 + replacement.len() + rest.len() + query.map_or(0, |query| query.len() + 1),
        );
        let first = if replacement.is_empty() { rest } else { replacement };
        if !first.starts_with('/') {
            text.push('/');
        }
        text.push_str(replacement);
        text.push_str(rest);
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        text
    }
}

/// Escapes what cannot stand in a path: the API lets any text through.
fn escape(path: &str) -> Box<str> {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'?' | b'#' | b'\\' | 0..=0x20 | 0x7f.. => {
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::http::path;

    fn modified(request: &'static str, prefix: &str, modifier: PathRewrite) -> String {
        let target = path::normalise(&Bytes::from_static(request.as_bytes())).unwrap();
        let prefix_len = Some(prefix.trim_end_matches('/').len());
        let text = PathModifier::compile(&modifier).apply(&target, &MatchContext { prefix_len, port: 80 });
        path::normalise(&text.into()).unwrap().as_str().to_owned()
    }

    #[test]
    fn the_table_of_the_specification() {
        for (request, matched, replacement, wanted) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Not in the table: a trailing slash of the replacement is ignored, as it is everywhere else.
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "/", "/bar"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
        ] {
            let got = modified(request, matched, PathRewrite::Prefix(replacement.into()));
            assert_eq!(got, wanted, "{request} by {matched} to {replacement}");
        }
    }

    #[test]
    fn the_query_stays() {
        assert_eq!(modified("/a/b?c=/d", "/a", PathRewrite::Prefix("/x".into())), "/x/b?c=/d");
        assert_eq!(modified("/a/b?c", "/a", PathRewrite::Full("/y".into())), "/y?c");
        assert_eq!(modified("/a/b", "/a", PathRewrite::Full("".into())), "/");
    }

    #[test]
    fn what_cannot_stand_in_a_path_is_escaped() {
        assert_eq!(modified("/a?b", "/a", PathRewrite::Full("/é x?#\\".into())), "/%C3%A9%20x%3F%23%5C?b");
        assert_eq!(modified("/a/b", "/a", PathRewrite::Prefix("/%7Ex y/".into())), "/~x%20y/b");
    }
}
