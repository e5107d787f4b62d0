//! One connection to a backend, which many share: what one does must not stop the others.

use portway_proxy::http::h1::Answer;
use portway_proxy::http::h2::client::Client;
use portway_testkit::engine::drained;
use tokio::task::spawn_local;

use crate::peer::{DATA, END, HEADERS, OK, Peer, RESET, WHOLE, get, run};

/// The head of an answer to `GET /` on that stream.
async fn answered(peer: &mut Peer, client: &Client, stream: u32) -> Answer {
    let answering = async {
        peer.until(HEADERS, stream).await;
        peer.frame(HEADERS, WHOLE, stream, OK).await;
    };
    let (answer, ()) = tokio::join!(get(client), answering);
    answer.expect("an answer")
}

#[test]
fn answers_that_nobody_reads_do_not_stop_the_others() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let mut unread = Vec::new();
        for n in 0..32 {
            let stream = 1 + 2 * n;
            unread.push(answered(&mut peer, &client, stream).await);
            for _ in 0..4 {
                peer.data(stream, 15_000, 0).await;
            }
        }
        let mut answer = answered(&mut peer, &client, 65).await;
        let read = spawn_local(async move { drained(&mut answer.body).await.0.len() });
        for _ in 0..100 {
            peer.data(65, 10_000, 0).await;
        }
        peer.frame(DATA, END, 65, b"").await;
        assert_eq!(read.await.expect("no panic"), 1_000_000);
        // Those that waited have lost nothing.
        for (n, mut answer) in (0..).zip(unread) {
            peer.frame(DATA, END, 1 + 2 * n, b"").await;
            assert_eq!(drained(&mut answer.body).await.0.len(), 60_000);
        }
    });
}

#[test]
fn an_answer_that_is_reset_before_its_end_is_not_whole() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        for (stream, flags, fault) in [(1, 0, Some("upstream_closed")), (3, END, None)] {
            let mut answer = answered(&mut peer, &client, stream).await;
            peer.frame(DATA, flags, stream, b"half").await;
            peer.frame(RESET, 0, stream, &[0; 4]).await;
            let (data, _, got) = drained(&mut answer.body).await;
            assert_eq!((&data[..], got), (&b"half"[..], fault));
        }
    });
}
