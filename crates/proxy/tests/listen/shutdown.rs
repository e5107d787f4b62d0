//! Going away.

use std::sync::Arc;
use std::time::Duration;

use portway_proxy::{DrainTimes, Options};
use portway_testkit::{Client, Http2, Origin, soon};

use crate::plans::{listener, plan, port};
use crate::{options, serving, until};

fn going_away(min: Duration, max: Duration) -> Options {
    Options { drain: DrainTimes { min, max }, ..options(2) }
}

#[tokio::test]
async fn what_is_under_way_ends_and_nothing_new_begins() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let (proxy, address) = serving(going_away(Duration::ZERO, Duration::from_secs(60)), planned);

    let mut idle = Client::connect(address).await?;
    assert_eq!(idle.get("x", "/").await?.status(), 200);
    let mut busy = Client::connect(address).await?;
    busy.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab").await?;
    let http2 = Http2::connect(address).await?;
    let request = http::Request::post("http://x/").body(())?;
    let (response, mut body) = http2.open(request, false).await?;
    until(&proxy, "portway_requests_in_flight", 2.0).await?;

    let proxy = Arc::new(proxy);
    let draining = tokio::task::spawn_blocking({
        let proxy = proxy.clone();
        move || proxy.drain()
    });
    assert!(idle.response().await.is_err(), "closed while it waited");
    // Each worker closes what it has by itself: one may still listen when the other has closed the idle connection.
    let deaf = async { while Client::connect(address).await.is_ok() {} };
    soon("nobody listens any more", deaf).await?;
    busy.write("cde").await?;
    let answer = busy.response().await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    body.send_data("x".into(), true)?;
    assert_eq!(soon("the stream's answer", response).await??.status(), 200);
    drop(body);
    // GOAWAY has told the client, which still holds its connection.
    let drained = soon("the drain", draining).await??;
    assert_eq!(drained.cut, 0);
    let request = http::Request::get("http://x/").body(bytes::Bytes::new())?;
    assert!(http2.send(request).await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_counted() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let (proxy, address) = serving(going_away(Duration::ZERO, Duration::from_millis(50)), planned);
    let mut stuck = Client::connect(address).await?;
    stuck.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab").await?;
    until(&proxy, "portway_requests_in_flight", 1.0).await?;
    let drained = soon("the end", tokio::task::spawn_blocking(move || proxy.shutdown())).await??;
    assert_eq!(drained.cut, 1);
    assert!(stuck.response().await.is_err());
    Ok(())
}

#[tokio::test]
async fn until_others_have_heard_of_it_everything_is_served() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let admin = Some(([127, 0, 0, 1], 0).into());
    // Long enough that what follows happens within it, which the drain's length shows.
    let times = going_away(Duration::from_secs(2), Duration::from_secs(60));
    let (proxy, address) = serving(Options { admin, ..times }, planned);
    let admin = proxy.admin_address().expect("an admin address");
    let mut waiting = Client::connect(address).await?;
    assert_eq!(waiting.get("x", "/").await?.header("connection"), None);
    let http2 = Http2::connect(address).await?;
    let request = || http::Request::get("http://x/").body(bytes::Bytes::new());
    assert_eq!(http2.send(request()?).await?.head.status(), 200);

    let draining = tokio::task::spawn_blocking(move || proxy.drain());
    let unready = async {
        loop {
            let status = Client::connect(admin).await?.get("localhost", "/readyz").await?.status();
            if status == 503 {
                return anyhow::Ok(());
            }
        }
    };
    soon("not ready", unready).await??;
    let answer = waiting.get("x", "/").await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    let answer = Client::connect(address).await?.get("x", "/").await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    assert_eq!(http2.send(request()?).await?.head.status(), 200);
    let goaway = async {
        while http2.send(request()?).await.is_ok() {}
        anyhow::Ok(())
    };
    soon("GOAWAY", goaway).await??;
    let drained = soon("the drain", draining).await??;
    assert!(drained.took >= Duration::from_secs(2) && drained.cut == 0, "{drained:?}");
    Ok(())
}
