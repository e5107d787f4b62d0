//! The client of the API server.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the API server may take to begin an answer. It does so at once also where the answer goes on for long: for
/// watches. Without this, a request on a connection that leads nowhere any more (a server that has lost its power, a
/// firewall that has forgotten) would wait for as long as TCP sends again, which is a quarter of an hour.
const ANSWER: Duration = Duration::from_secs(30);

/// A client that waits for no answer for ever.
///
/// # Errors
/// When the configuration cannot be used.
pub fn client(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(ANSWER)).build())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::Api;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_a_request_and_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
            }
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let secrets = Api::<Secret>::namespaced(client(config).unwrap(), "store");
        let began = Instant::now();
        let got = tokio::time::timeout(Duration::from_secs(900), secrets.get_opt("cart")).await;
        assert!(got.expect("it would wait for ever").is_err());
        assert!(began.elapsed() <= 2 * ANSWER, "{:?}", began.elapsed());
        silent.abort();
    }
}
