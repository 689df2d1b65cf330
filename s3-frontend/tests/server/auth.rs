//! Who may do what.

use crate::client::{Client, Request};
use crate::world::{ACCESS_KEY, SECRET_KEY, with_server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
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

#[test]
fn a_signature_names_the_region_of_the_server_or_of_the_bucket() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/near", "").await.expect(200);
        let location = "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint>\
            </CreateBucketConfiguration>";
        client.put("/far", location).await.expect(200);
        client.region = "eu-central-1".to_owned();
        client.get("/far").await.expect(200);
        for target in ["/near", "/", "/missing"] {
            let reply = client.get(target).await.expect_error(400, "AuthorizationHeaderMalformed");
            assert_eq!(reply.element("Region").as_deref(), Some("us-east-1"));
        }
    });
}

#[test]
fn urls_presigned_in_the_older_version_work_until_they_expire() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/a%20key", "hello").await.expect(200);
        let end = world.env.unix_millis() / 1000 + 60;
        let text = format!("GET\n\n\n{end}\n/bucket/a%20key?response-content-type=a b");
        let mut hmac = Hmac::<sha1::Sha1>::new_from_slice(SECRET_KEY.as_bytes()).unwrap();
        hmac.update(text.as_bytes());
        let signature = BASE64.encode(hmac.finalize().into_bytes()).replace('+', "%2B").replace('=', "%3D");
        let request = format!(
            "GET /bucket/a%20key?response-content-type=a%20b&AWSAccessKeyId={ACCESS_KEY}&Signature={signature}\
             &Expires={end} HTTP/1.1\r\nHost: h\r\n\r\n"
        );
        client.write(&request).await;
        let reply = client.reply("GET").await.expect(200);
        assert_eq!((reply.text().as_str(), reply.header("content-type")), ("hello", Some("a b")));
        client.write(request.replace("GET", "DELETE")).await;
        client.reply("DELETE").await.expect_error(403, "SignatureDoesNotMatch");
        world.env.sleep(Duration::from_secs(62)).await;
        let mut client = world.client().await;
        client.write(&request).await;
        client.reply("GET").await.expect_error(403, "AccessDenied");
    });
}
