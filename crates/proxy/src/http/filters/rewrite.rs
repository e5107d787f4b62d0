//! URLRewrite: HTTPURLRewriteFilter
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httpurlrewritefilter>).

use bytes::Bytes;

use super::MatchContext;
use super::path_modifier::PathModifier;
use crate::http::{Authority, RequestHead, path};

/// Changes the host and path of a request.
#[derive(Debug)]
pub(super) struct Rewrite {
    authority: Option<Authority>,
    path: Option<PathModifier>,
}

impl Rewrite {
    /// `None` when the hostname is none.
    pub(super) fn compile(rewrite: &portway_plan::Rewrite) -> Option<Self> {
        let authority = match &rewrite.hostname {
            Some(name) => Some(Authority::parse(Bytes::copy_from_slice(name.as_bytes())).ok()?),
            None => None,
        };
        Some(Self { authority, path: rewrite.path.as_ref().map(PathModifier::compile) })
    }

    /// Says whether it could be done: the result is normalised, so that no `..` is left, and a path that
    /// climbs above its root cannot be.
    pub(super) fn on_request(&self, head: &mut RequestHead, context: &MatchContext) -> bool {
        if let Some(authority) = &self.authority {
            head.authority = authority.clone();
        }
        if let Some(modifier) = &self.path {
            match path::normalise(&modifier.apply(&head.target, context).into()) {
                Ok(target) => head.target = target,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use portway_plan::PathRewrite;
    use proptest::prelude::*;

    use super::super::tests::request;
    use super::*;

    fn rewritten(hostname: Option<&str>, path: Option<PathRewrite>, url: &str) -> Option<String> {
        let hostname = hostname.map(Into::into);
        let rewrite = Rewrite::compile(&portway_plan::Rewrite { hostname, path })?;
        let mut head = request("GET", url);
        let context = MatchContext { prefix_len: Some("/prefix".len()), port: 80 };
        rewrite
            .on_request(&mut head, &context)
            .then(|| format!("{}{}", head.authority.as_str(), head.target.as_str()))
    }

    #[test]
    fn host_and_path() {
        let host = Some("one.example.org");
        assert_eq!(rewritten(host, None, "http://a:8080/x?y").as_deref(), Some("one.example.org/x?y"));
        let prefix = |text: &str| Some(PathRewrite::Prefix(text.into()));
        assert_eq!(rewritten(None, prefix("/"), "http://a/prefix").as_deref(), Some("a/"));
        assert_eq!(
            rewritten(host, prefix("/b"), "http://a/prefix/c").as_deref(),
            Some("one.example.org/b/c")
        );
        assert_eq!(rewritten(Some("a b"), None, "http://a/"), None);
    }

    #[test]
    fn no_dots_are_left() {
        let full = |text: &str| Some(PathRewrite::Full(text.into()));
        assert_eq!(rewritten(None, full("/a/../b"), "http://h/prefix").as_deref(), Some("h/b"));
        assert_eq!(rewritten(None, full("/../b"), "http://h/prefix"), None);
        let prefix = Some(PathRewrite::Prefix("/..".into()));
        assert_eq!(rewritten(None, prefix, "http://h/prefix/b"), None);
    }

    proptest! {
        /// What is sent is normal whatever is asked for and whatever the route makes of it.
        #[test]
        fn what_is_sent_is_normal(
            rest in "(/|//|\\.|%2e|%2F|;|a|\\?|%5C|#|\\\\){0,8}",
            to in "(/|\\.|%2e|%2F|a|;){0,6}",
            full in any::<bool>(),
        ) {
            let Ok(target) = path::normalise(&format!("/prefix/{rest}").into()) else { return Ok(()) };
            if target.path() != "/prefix" && !target.path().starts_with("/prefix/") {
                return Ok(());
            }
            let to = if full { PathRewrite::Full(to.into()) } else { PathRewrite::Prefix(to.into()) };
            if let Some(sent) = rewritten(None, Some(to), &format!("http://h{}", target.as_str())) {
                let sent = sent.strip_prefix('h').unwrap_or_default();
                let again = path::normalise(&sent.to_owned().into());
                prop_assert_eq!(again.as_ref().map(|target| target.as_str()), Ok(sent));
                let query = |text: &str| text.split_once('?').map(|(_, query)| query.to_owned());
                prop_assert_eq!(query(sent), target.query().map(str::to_owned));
            }
        }
    }
}
