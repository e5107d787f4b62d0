//! Timeouts and retries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portway_testkit::{Answer, Client, Gateway, Message, Origin};

use crate::{GATEWAY, HOST, documents, route};

async fn through(
    rule: &str,
    behaviour: impl Fn(&Message) -> Answer + Send + Sync + 'static,
) -> anyhow::Result<(Message, Origin)> {
    let origin = Origin::new(behaviour).await?;
    let rules = format!("- backendRefs: [{{name: a, port: 80}}]\n  {rule}");
    let yaml = documents([GATEWAY, &route("r", &rules), &origin.service("apps", "a")]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    Ok((client.get(HOST, "/").await?, origin))
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504() -> anyhow::Result<()> {
    for timeouts in ["{request: 100ms}", "{backendRequest: 100ms}"] {
        let began = Instant::now();
        let (answer, _origin) = through(&format!("timeouts: {timeouts}"), |_| Answer::Hang).await?;
        assert_eq!(answer.status(), 504, "{timeouts}");
        assert!(began.elapsed() >= Duration::from_millis(100), "{timeouts}: {:?}", began.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn codes_that_are_named_are_tried_again() -> anyhow::Result<()> {
    let count = AtomicUsize::new(0);
    let (answer, origin) = through("retry: {codes: [503], attempts: 2, backoff: 1ms}", move |_| match count
        .fetch_add(1, Ordering::Relaxed)
    {
        0 | 1 => Answer::status(503, "busy"),
        _ => Answer::text("at last"),
    })
    .await?;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "at last"));
    assert_eq!(origin.requests().len(), 3);
    Ok(())
}

#[tokio::test]
async fn attempts_end() -> anyhow::Result<()> {
    let rule = "retry: {codes: [503], attempts: 2, backoff: 1ms}";
    let (answer, origin) = through(rule, |_| Answer::status(503, "busy")).await?;
    assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
    assert_eq!(origin.requests().len(), 3);
    Ok(())
}

#[tokio::test]
async fn other_codes_are_passed_on() -> anyhow::Result<()> {
    let rule = "retry: {codes: [503], attempts: 2, backoff: 1ms}";
    let (answer, origin) = through(rule, |_| Answer::status(500, "broken")).await?;
    assert_eq!((answer.status(), origin.requests().len()), (500, 1));
    Ok(())
}
