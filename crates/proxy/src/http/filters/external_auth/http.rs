//! Asking by a plain HTTP request: 200 lets pass.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use portway_plan::RuleKind;

use super::{ExternalAuth, Question, Refusal, is_free};
use crate::fault::FaultKind;
use crate::http::h1::Answer;
use crate::http::{Headers, RequestHead, Response, Version, path};

pub(super) async fn ask(
    auth: &ExternalAuth,
    question: &mut Question<'_>,
    body: Bytes,
    prefix: &str,
    response_headers: &[Arc<str>],
) -> Result<(), Refusal> {
    let head = told(auth, question.head, prefix)?;
    let Answer { head: answer, body, tunnel: _ } = auth.send(question, head, body, RuleKind::Http).await?;
    if answer.status == StatusCode::OK {
        take(&mut question.head.headers, &answer.headers, response_headers);
        return Ok(());
    }
    // Another success would tell the client that all is well though nothing was done.
    if answer.status.is_success() {
        return Err(FaultKind::AuthDenied.into());
    }
    Err(Refusal::Denied(Response { head: answer, body, tunnel: None, exchange: None }))
}

/// The request as the service is told of it.
fn told(auth: &ExternalAuth, head: &RequestHead, prefix: &str) -> Result<RequestHead, FaultKind> {
    let mut headers = Headers::default();
    for (name, value) in head.headers.iter() {
        if name.eq_ignore_ascii_case(b"authorization") || (auth.tells(name) && is_free(name)) {
            headers.append(name, value);
        }
    }
    // HTTPAuthConfig: said even where there is none. The engine writes the length that it is.
    headers.append("content-length", "0");
    let target = match prefix.trim_end_matches('/') {
        "" => head.target.clone(),
        prefix => {
            let own = head.target.text();
            let mut text = BytesMut::with_capacity(prefix.len() + 1 + own.len());
            if !prefix.starts_with('/') {
                text.extend_from_slice(b"/");
            }
            text.extend_from_slice(prefix.as_bytes());
            text.extend_from_slice(own);
            path::normalise(&text.freeze()).map_err(|_| FaultKind::InvalidRoute)?
        }
    };
    Ok(RequestHead {
        method: head.method.clone(),
        scheme: head.scheme,
        authority: head.authority.clone(),
        target,
        version: Version::Http11,
        headers,
    })
}

/// Copies headers of the service's answer to the request. Those that the route names come from the service
/// or not at all: what the client has sent under such a name goes. Without names, all are copied but those
/// that speak of the answer's own body.
fn take(request: &mut Headers, answer: &Headers, names: &[Arc<str>]) {
    let wanted = |name: &[u8]| match names {
        [] => !starts_with(name, b"content-"),
        names => names.iter().any(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name)),
    };
    let copied = |name: &[u8]| is_free(name) && wanted(name);
    request.remove_if(|name, _| {
        is_free(name)
            && match names {
                [] => copied(name) && answer.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)),
                _ => wanted(name),
            }
    });
    for (name, value) in answer.iter().filter(|(name, _)| copied(name)) {
        request.append(name, value);
    }
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_header_is_the_services_or_nobodys() {
        let names = ["x-user".into(), "x-groups".into(), "host".into()];
        let mut request = Headers::from([("X-User", "root"), ("x-groups", "admin"), ("a", "1")]);
        let answer =
            Headers::from([("x-user", "ann"), ("x-user", "bob"), ("host", "evil"), ("x-other", "2")]);
        take(&mut request, &answer, &names);
        assert_eq!(request, Headers::from([("a", "1"), ("x-user", "ann"), ("x-user", "bob")]));
    }

    #[test]
    fn without_names_all_are_copied_but_what_speaks_of_the_answers_body() {
        let mut request = Headers::from([("content-type", "application/json"), ("x-user", "root")]);
        let answer = Headers::from([
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("x-user", "ann"),
            ("Host", "evil"),
            ("connection", "x"),
        ]);
        take(&mut request, &answer, &[]);
        assert_eq!(request, Headers::from([("content-type", "application/json"), ("x-user", "ann")]));
    }
}
