//! Weighted backends, and requests among the endpoints of one.

use portway_testkit::{Client, Gateway, Origin, origin};

use crate::{GATEWAY, HOST, documents, named, route};

#[tokio::test]
async fn each_backend_gets_its_weight() -> anyhow::Result<()> {
    let ([v1, v2, v3], services) = named(["v1", "v2", "v3"]).await?;
    let rules = "\
- backendRefs:
    - {name: v1, port: 80, weight: 90}
    - {name: v2, port: 80, weight: 10}
    - {name: v3, port: 80, weight: 0}";
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for _ in 0..200 {
        assert_eq!(client.get(HOST, "/").await?.status(), 200);
    }
    assert_eq!([&v1, &v2, &v3].map(|origin| origin.requests().len()), [180, 20, 0]);
    Ok(())
}

#[tokio::test]
async fn endpoints_share_the_requests_of_their_backend() -> anyhow::Result<()> {
    let (one, two) = (Origin::named("one").await?, Origin::named("two").await?);
    let service = origin::service("apps", "both", &[one.address(), two.address()]);
    let yaml = documents([GATEWAY, &route("r", "- backendRefs: [{name: both, port: 80}]"), &service]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for _ in 0..100 {
        assert_eq!(client.get(HOST, "/").await?.status(), 200);
    }
    let (one, two) = (one.requests().len(), two.requests().len());
    assert_eq!(one + two, 100);
    assert!(one >= 20 && two >= 20, "{one} and {two}");
    Ok(())
}
