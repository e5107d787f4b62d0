//! HTTPPathModifier, the part that redirects and rewrites share
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httppathmodifier>).

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
            PathRewrite::Full(path) => Self::Full((**path).into()),
            PathRewrite::Prefix(prefix) => Self::Prefix(prefix.trim_end_matches('/').into()),
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
        if !replacement.starts_with('/') && !(replacement.is_empty() && rest.starts_with('/')) {
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
        assert_eq!(modified("/a/b", "/a", PathRewrite::Full(String::new().into())), "/");
    }
}
