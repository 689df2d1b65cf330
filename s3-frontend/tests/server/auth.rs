//! Who may do what.

use crate::client::{Client, Request};
use crate::world::{ACCESS_KEY, SECRET_KEY, with_server};
use std::time::Duration;

#[test]
fn nobody_does_anything_without_a_name() {
    with_server(|world| async move {
        let mut client = world.client().await;
        for line in ["GET /", "PUT /bucket", "GET /bucket/key", "GET /buckets/admin/v1/info"] {
            client.write(format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")).await;
            client.reply("GET").await.expect_error(403, "AccessDenied");
        }
    });
}

#[test]
fn wrong_keys_are_refused() {
    with_server(|world| async move {
        let mut stranger = Client::new(world.env.clone(), world.connect().await, "stranger", SECRET_KEY);
        let reply = stranger.get("/").await.expect_error(403, "InvalidAccessKeyId");
        assert_eq!(reply.element("AWSAccessKeyId").as_deref(), Some("stranger"));
        let mut liar = Client::new(world.env.clone(), world.connect().await, ACCESS_KEY, "another-secret");
        let reply = liar.get("/").await.expect_error(403, "SignatureDoesNotMatch");
        assert!(reply.element("CanonicalRequest").is_some());
        assert!(!reply.text().contains(SECRET_KEY));
    });
}

#[test]
fn presigned_urls_work_until_they_expire() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let put = client.presign("PUT", "/bucket/key", 60);
        client
            .write(format!("PUT {put} HTTP/1.1\r\nHost: server:9000\r\nContent-Length: 5\r\n\r\nhello"))
            .await;
        client.reply("PUT").await.expect(200);
        let get = client.presign("GET", "/bucket/key", 60);
        let request = format!("GET {get} HTTP/1.1\r\nHost: server:9000\r\n\r\n");
        client.write(&request).await;
        assert_eq!(client.reply("GET").await.expect(200).body, b"hello");
        client.write(request.replace("/bucket/key?", "/bucket/other?")).await;
        client.reply("GET").await.expect_error(403, "SignatureDoesNotMatch");
        world.env.sleep(Duration::from_secs(62)).await;
        let mut client = world.client().await;
        client.write(&request).await;
        let reply = client.reply("GET").await.expect_error(403, "AccessDenied");
        assert_eq!(reply.element("Message").as_deref(), Some("Request has expired"));
    });
}

#[test]
fn an_old_request_is_not_taken_again() {
    with_server(|world| async move {
        let mut client = world.client().await;
        let signed = client.sign(&Request::new("GET", "/"));
        client.write(&signed.head).await;
        client.reply("GET").await.expect(200);
        world.env.sleep(Duration::from_secs(16 * 60)).await;
        let mut client = world.client().await;
        client.write(&signed.head).await;
        client.reply("GET").await.expect_error(403, "RequestTimeTooSkewed");
    });
}
