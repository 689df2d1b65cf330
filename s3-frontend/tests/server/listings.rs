//! Listings in their three forms.

use crate::client::Client;
use crate::world::with_server;

async fn fill(client: &mut Client, keys: &[&str]) {
    client.put("/bucket", "").await.expect(200);
    for key in keys {
        client.put(&format!("/bucket/{key}"), "x").await.expect(200);
    }
}

#[test]
fn pages_follow_each_other_without_a_gap() {
    with_server(|world| async move {
        let mut client = world.client().await;
        fill(&mut client, &["a", "b/1", "b/2", "c", "d/1"]).await;
        for max in 1..7 {
            let (mut found, mut token, mut pages) = (Vec::new(), None::<String>, 0);
            loop {
                let after =
                    token.as_ref().map(|token| format!("&continuation-token={token}")).unwrap_or_default();
                let target = format!("/bucket?list-type=2&delimiter=%2F&max-keys={max}{after}");
                let page = client.get(&target).await.expect(200);
                assert_eq!(page.element("MaxKeys"), Some(max.to_string()));
                let entries: Vec<_> =
                    page.elements("Key").into_iter().chain(page.elements("CommonPrefixes")).collect();
                assert_eq!(page.element("KeyCount"), Some(entries.len().to_string()));
                found.extend(entries);
                pages += 1;
                token = page.element("NextContinuationToken");
                assert_eq!(page.element("IsTruncated").as_deref() == Some("true"), token.is_some());
                if token.is_none() {
                    break;
                }
            }
            found.sort();
            assert_eq!(found, ["<Prefix>b/", "<Prefix>d/", "a", "c"], "{max}");
            assert_eq!(pages, 4usize.div_ceil(max));
        }
    });
}

#[test]
fn the_first_version_goes_on_from_markers() {
    with_server(|world| async move {
        let mut client = world.client().await;
        fill(&mut client, &["a", "b/1", "c"]).await;
        let page = client.get("/bucket?max-keys=1").await.expect(200);
        assert_eq!(page.elements("Key"), ["a"]);
        // Only with a delimiter, as S3 does.
        assert_eq!(page.element("NextMarker"), None);
        let page = client.get("/bucket?max-keys=1&marker=a&delimiter=%2F").await.expect(200);
        assert_eq!(page.element("NextMarker").as_deref(), Some("b/"));
        let page = client.get("/bucket?marker=b%2F&delimiter=%2F").await.expect(200);
        assert_eq!(page.elements("Key"), ["c"]);
        assert_eq!(page.element("Marker").as_deref(), Some("b/"));
        assert!(page.element("Owner").is_some());
        assert_eq!(client.get("/bucket?prefix=b").await.elements("Key"), ["b/1"]);
        let none = client.get("/bucket?max-keys=0").await.expect(200);
        assert_eq!((none.elements("Key").len(), none.element("IsTruncated").as_deref()), (0, Some("false")));
    });
}

#[test]
fn versions_are_the_current_objects() {
    with_server(|world| async move {
        let mut client = world.client().await;
        fill(&mut client, &["a", "b"]).await;
        let page = client.get("/bucket?versions&max-keys=1").await.expect(200);
        assert_eq!(page.elements("Key"), ["a"]);
        assert_eq!(page.element("VersionId").as_deref(), Some("null"));
        assert_eq!(page.element("NextKeyMarker").as_deref(), Some("a"));
        let page = client.get("/bucket?versions&key-marker=a&version-id-marker=null").await.expect(200);
        assert_eq!(page.elements("Key"), ["b"]);
    });
}

#[test]
fn every_legal_key_is_listed_as_asked() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/%01%26%3C%20%2B%25%E2%82%AC", "x").await.expect(200);
        let plain = client.get("/bucket?list-type=2").await.expect(200);
        assert_eq!(plain.elements("Key"), ["&#x1;&amp;&lt; +%\u{20ac}"]);
        let encoded = client.get("/bucket?list-type=2&encoding-type=url&prefix=%01").await.expect(200);
        assert_eq!(encoded.elements("Key"), ["%01%26%3C%20%2B%25%E2%82%AC"]);
        assert_eq!(encoded.element("Prefix").as_deref(), Some("%01"));
        assert_eq!(encoded.element("EncodingType").as_deref(), Some("url"));
    });
}

#[test]
fn parameters_that_cannot_be_are_refused() {
    with_server(|world| async move {
        let mut client = world.client().await;
        fill(&mut client, &["a"]).await;
        for query in [
            "max-keys=-1",
            "max-keys=x",
            "max-keys=99999999999",
            "encoding-type=base64",
            "list-type=2&continuation-token=nonsense",
            "list-type=2&continuation-token=",
        ] {
            client.get(&format!("/bucket?{query}")).await.expect_error(400, "InvalidArgument");
        }
        client.get("/missing").await.expect_error(404, "NoSuchBucket");
        // More than a page holds is a page.
        let page = client.get("/bucket?max-keys=100000").await.expect(200);
        assert_eq!(page.element("MaxKeys").as_deref(), Some("1000"));
        // What nobody knows is ignored.
        client.get("/bucket?no-such-parameter=1").await.expect(200);
    });
}
