//! Objects: put, get, head, copy, delete.

use crate::client::Request;
use crate::world::{with_options, with_server};
use buckets_engine::object::api::ObjectError;
use buckets_s3::server::Options;

fn head(target: &str) -> Request {
    Request::new("HEAD", target)
}

#[test]
fn an_object_comes_back_with_its_headers() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let put = Request::new("PUT", "/bucket/a%20key/%C3%A9%2B")
            .header("content-type", "text/plain")
            .header("cache-control", "no-cache")
            .header("x-amz-meta-color", "Blue")
            .header("x-amz-storage-class", "STANDARD")
            .header("x-amz-acl", "private")
            .body("hello world");
        let reply = client.send(put).await.expect(200);
        assert_eq!(reply.header("etag"), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
        assert_eq!(world.model.stored("bucket", "a key/\u{e9}+").unwrap(), "hello world");

        let got = client.get("/bucket/a%20key/%C3%A9%2B").await.expect(200);
        let described = client.send(head("/bucket/a%20key/%C3%A9%2B")).await.expect(200);
        assert_eq!(got.body, b"hello world");
        for reply in [&got, &described] {
            assert_eq!(reply.header("content-type"), Some("text/plain"));
            assert_eq!(reply.header("content-length"), Some("11"));
            assert_eq!(reply.header("cache-control"), Some("no-cache"));
            assert_eq!(reply.header("x-amz-meta-color"), Some("Blue"));
            assert_eq!(reply.header("accept-ranges"), Some("bytes"));
            assert!(reply.header("last-modified").unwrap().ends_with("GMT"));
            assert_eq!(reply.header("x-amz-checksum-crc64nvme"), None);
        }
        let checked =
            Request::new("GET", "/bucket/a%20key/%C3%A9%2B").header("x-amz-checksum-mode", "ENABLED");
        assert!(client.send(checked).await.expect(200).header("x-amz-checksum-crc64nvme").is_some());
        client.put("/bucket/plain", "x").await.expect(200);
        let plain = client.get("/bucket/plain").await.expect(200);
        assert_eq!(plain.header("content-type"), Some("binary/octet-stream"));
    });
}

#[test]
fn large_objects_come_back_whole() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let data: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 / 3) as u8).collect();
        client.put("/bucket/large", data.clone()).await.expect(200);
        assert!(client.get("/bucket/large").await.expect(200).body == data);
    });
}

#[test]
fn what_is_not_there_is_told_so() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.get("/bucket/key").await.expect_error(404, "NoSuchBucket");
        client.put("/bucket", "").await.expect(200);
        let reply = client.get("/bucket/key").await.expect_error(404, "NoSuchKey");
        assert_eq!(reply.element("Key").as_deref(), Some("key"));
        assert_eq!(reply.element("Resource").as_deref(), Some("/bucket/key"));
        let reply = client.send(head("/bucket/key")).await.expect(404);
        assert!(reply.body.is_empty());
        client.get("/bucket/key?versionId=abc").await.expect_error(400, "InvalidArgument");
        client.delete("/bucket/key").await.expect(204);
        let long = "k".repeat(1025);
        client.put(&format!("/bucket/{long}"), "").await.expect_error(400, "KeyTooLongError");
        client.put(&format!("/bucket/{}", &long[1..]), "").await.expect(200);
    });
}

#[test]
fn ranges_are_served() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", "0123456789").await.expect(200);
        let get = |range: &str| Request::new("GET", "/bucket/key").header("range", range);
        for (range, status, body, content_range) in [
            ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
            ("bytes=8-100", 206, "89", Some("bytes 8-9/10")),
            ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
            ("bytes=4-", 206, "456789", Some("bytes 4-9/10")),
            ("bytes=4-2", 200, "0123456789", None),
            ("bytes=0-1,3-4", 200, "0123456789", None),
            ("lines=0-1", 200, "0123456789", None),
        ] {
            let reply = client.send(get(range)).await.expect(status);
            assert_eq!(
                (reply.text().as_str(), reply.header("content-range")),
                (body, content_range),
                "{range}"
            );
        }
        let reply = client.send(get("bytes=10-")).await.expect_error(416, "InvalidRange");
        assert_eq!(reply.header("content-range"), Some("bytes */10"));
        let described = client.send(head("/bucket/key").header("range", "bytes=2-3")).await.expect(206);
        assert_eq!(described.header("content-length"), Some("2"));
        let other = client.send(get("bytes=0-3").header("if-range", "\"other\"")).await.expect(200);
        assert_eq!(other.body.len(), 10);
        let part = client.get("/bucket/key?partNumber=1").await.expect(206);
        assert_eq!(part.body.len(), 10);
        client.get("/bucket/key?partNumber=2").await.expect_error(416, "InvalidPartNumber");
        // There is no byte in an empty object.
        client.put("/bucket/key", "").await.expect(200);
        client.send(get("bytes=0-")).await.expect_error(416, "InvalidRange");
    });
}

#[test]
fn readers_choose_headers_of_the_response() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client
            .send(Request::new("PUT", "/bucket/key").header("content-type", "text/plain").body("x"))
            .await
            .expect(200);
        let reply = client
            .get("/bucket/key?response-content-type=text%2Fhtml&response-content-disposition=a%0D%0ASet-Cookie%3A%20b")
            .await
            .expect(200);
        assert_eq!(reply.header("content-type"), Some("text/html"));
        assert_eq!(reply.header("content-disposition"), Some("a  Set-Cookie: b"));
        assert_eq!(reply.header("set-cookie"), None);
    });
}

#[test]
fn conditions_of_reads_are_kept() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let etag = client.put("/bucket/key", "x").await.expect(200).header("etag").unwrap().to_owned();
        let get = |name: &str, value: &str| Request::new("GET", "/bucket/key").header(name, value);
        client.send(get("if-match", &etag)).await.expect(200);
        client.send(get("if-match", "\"other\"")).await.expect_error(412, "PreconditionFailed");
        let reply = client.send(get("if-none-match", &etag)).await.expect(304);
        assert_eq!(reply.header("etag"), Some(etag.as_str()));
        client.send(get("if-none-match", "\"other\"")).await.expect(200);
        client.send(get("if-modified-since", "Fri, 31 Dec 9999 00:00:00 GMT")).await.expect(304);
        let old = "Thu, 01 Jan 1970 00:00:00 GMT";
        client.send(get("if-unmodified-since", old)).await.expect_error(412, "PreconditionFailed");
        // The connection is in order after answers without a body.
        client.send(head("/bucket/key").header("if-none-match", &etag)).await.expect(304);
        client.get("/bucket/key").await.expect(200);
    });
}

#[test]
fn conditions_of_writes_are_kept() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let put = |name: &str, value: &str| Request::new("PUT", "/bucket/key").header(name, value).body("x");
        client.send(put("if-match", "\"a\"")).await.expect_error(404, "NoSuchKey");
        let etag =
            client.send(put("if-none-match", "*")).await.expect(200).header("etag").unwrap().to_owned();
        client.send(put("if-none-match", "*")).await.expect_error(412, "PreconditionFailed");
        client.send(put("if-match", "\"other\"")).await.expect_error(412, "PreconditionFailed");
        client.send(put("if-match", &etag)).await.expect(200);
        client.send(put("if-none-match", &etag)).await.expect_error(501, "NotImplemented");
        let delete = Request::new("DELETE", "/bucket/key");
        client
            .send(delete.clone().header("if-match", "\"other\""))
            .await
            .expect_error(412, "PreconditionFailed");
        client.send(delete.header("if-match", &etag)).await.expect(204);
    });
}

#[test]
fn what_the_store_cannot_keep_is_refused() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        for (name, value, status, code) in [
            ("x-amz-server-side-encryption", "AES256", 501, "NotImplemented"),
            ("x-amz-tagging", "a=b", 501, "NotImplemented"),
            ("x-amz-acl", "public-read", 400, "AccessControlListNotSupported"),
            ("x-amz-storage-class", "GLACIER", 400, "InvalidStorageClass"),
            ("x-amz-meta-a", &"v".repeat(2048), 400, "MetadataTooLarge"),
        ] {
            let request = Request::new("PUT", "/bucket/key").header(name, value).body("x");
            client.send(request).await.expect_error(status, code);
        }
        assert!(world.model.stored("bucket", "key").is_none());
    });
}

#[test]
fn objects_are_copied() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/other", "").await.expect(200);
        let data = vec![5; 200_000];
        let put =
            Request::new("PUT", "/bucket/a%20b").header("x-amz-meta-a", "1").header("content-type", "t/x");
        let etag = client.send(put.body(data.clone())).await.expect(200).header("etag").unwrap().to_owned();
        let copy = |target: &str| Request::new("PUT", target).header("x-amz-copy-source", "/bucket/a%20b");

        let reply = client.send(copy("/other/copy")).await.expect(200);
        assert_eq!(reply.element("ETag").unwrap().replace("&quot;", "\""), etag);
        let got = client.get("/other/copy").await.expect(200);
        assert!(got.body == data);
        assert_eq!((got.header("x-amz-meta-a"), got.header("content-type")), (Some("1"), Some("t/x")));

        let replaced =
            copy("/bucket/a%20b").header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-b", "2");
        client.send(replaced).await.expect(200);
        let got = client.send(head("/bucket/a%20b")).await.expect(200);
        assert_eq!((got.header("x-amz-meta-a"), got.header("x-amz-meta-b")), (None, Some("2")));

        client.send(copy("/bucket/a%20b")).await.expect_error(400, "InvalidRequest");
        client
            .send(copy("/other/copy").header("if-none-match", "*"))
            .await
            .expect_error(412, "PreconditionFailed");
        client
            .send(copy("/other/c").header("x-amz-copy-source-if-match", "\"x\""))
            .await
            .expect_error(412, "PreconditionFailed");
        client
            .send(copy("/other/c").header("x-amz-copy-source-if-none-match", &etag))
            .await
            .expect_error(412, "PreconditionFailed");
        client
            .send(copy("/other/c").header("x-amz-metadata-directive", "MOVE"))
            .await
            .expect_error(400, "InvalidArgument");
        let from = |source: &str| Request::new("PUT", "/other/c").header("x-amz-copy-source", source);
        client.send(from("bucket/missing")).await.expect_error(404, "NoSuchKey");
        client.send(from("missing/key")).await.expect_error(404, "NoSuchBucket");
        client.send(from("bucket")).await.expect_error(400, "InvalidArgument");
        assert!(world.model.stored("other", "c").is_none());
    });
}

#[test]
fn many_objects_are_deleted_at_once() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        for key in ["a", "b", "c", "d"] {
            client.put(&format!("/bucket/{key}"), "x").await.expect(200);
        }
        let document = "<Delete><Object><Key>a</Key></Object><Object><Key>missing</Key></Object>\
            <Object><Key>b</Key><ETag>\"other\"</ETag></Object><Object><Key>c</Key><VersionId>v</VersionId></Object></Delete>";
        let reply = client.post("/bucket?delete", document).await.expect(200);
        assert_eq!(reply.elements("Key"), ["a", "missing", "b", "c"]);
        assert_eq!(reply.elements("Code"), ["PreconditionFailed", "NoSuchVersion"]);
        let reply = client
            .post("/bucket?delete", "<Delete><Quiet>true</Quiet><Object><Key>d</Key></Object></Delete>")
            .await
            .expect(200);
        assert!(reply.elements("Deleted").is_empty());
        for (key, there) in [("a", false), ("b", true), ("c", true), ("d", false)] {
            assert_eq!(world.model.stored("bucket", key).is_some(), there, "{key}");
        }
        let bad = Request::new("POST", "/bucket?delete").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
        client.send(bad.body(document)).await.expect_error(400, "BadDigest");
        client.post("/bucket?delete", "<Delete/>").await.expect_error(400, "MalformedXML");
        client.post("/bucket?delete", "").await.expect_error(400, "MissingRequestBodyError");
        client.post("/missing?delete", document).await.expect_error(404, "NoSuchBucket");
    });
}

#[test]
fn attributes_are_shown() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", "hello").await.expect(200);
        let get = |names: &str| {
            Request::new("GET", "/bucket/key?attributes").header("x-amz-object-attributes", names)
        };
        let reply = client.send(get("ETag,ObjectSize,Checksum,StorageClass")).await.expect(200);
        assert_eq!(reply.element("ETag").as_deref(), Some("5d41402abc4b2a76b9719d911017c592"));
        assert_eq!(reply.element("ObjectSize").as_deref(), Some("5"));
        assert!(reply.element("ChecksumCRC64NVME").is_some());
        client.send(get("Colour")).await.expect_error(400, "InvalidArgument");
    });
}

#[test]
fn a_body_that_cannot_be_read_is_never_a_whole_response() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", vec![1; 300_000]).await.expect(200);
        world.model.faults.unreadable_block.set(Some(0));
        client.get("/bucket/key").await.expect_error(503, "ServiceUnavailable");
        // Once bytes were sent, only the end of the connection can tell.
        world.model.faults.unreadable_block.set(Some(2));
        let request = client.sign(&Request::new("GET", "/bucket/key")).head;
        client.write(request).await;
        assert_eq!(client.try_reply("GET").await, None);
    });
}

#[test]
fn what_was_replaced_between_its_manifest_and_its_blocks_is_read_anew() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", vec![1; 300_000]).await.expect(200);
        client.put("/bucket/newer", vec![2; 1000]).await.expect(200);
        *world.model.faults.replaced_by.borrow_mut() = Some("newer".into());
        let reply = client.get("/bucket/key").await.expect(200);
        assert_eq!(reply.body, vec![2; 1000]);
        assert_eq!(reply.header("content-length"), Some("1000"));
    });
}

#[test]
fn failures_of_the_store_have_their_codes() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        for (error, status, code) in [
            (ObjectError::SlowDown, 503, "SlowDown"),
            (ObjectError::Unavailable("no quorum".into()), 503, "ServiceUnavailable"),
            (ObjectError::NoSpace, 507, "InsufficientStorage"),
            (ObjectError::Internal("secret detail".into()), 500, "InternalError"),
        ] {
            *world.model.faults.failure.borrow_mut() = Some(error);
            let reply = client.get("/bucket/key").await.expect_error(status, code);
            assert!(!reply.text().contains("secret detail"));
            client.put("/bucket/key", "x").await.expect_error(status, code);
        }
    });
}

#[test]
fn a_host_with_a_bucket_in_front_names_it() {
    let options = Options { domains: vec!["s3.example.com".to_owned()], ..Options::default() };
    with_options(0, options, |world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let put = Request::new("PUT", "/key").header("host", "bucket.s3.example.com:9000").body("x");
        client.send(put).await.expect(200);
        assert_eq!(world.model.stored("bucket", "key").unwrap(), "x");
        let list = Request::new("GET", "/").header("host", "bucket.s3.example.com");
        assert_eq!(client.send(list).await.expect(200).elements("Key"), ["key"]);
    });
}
