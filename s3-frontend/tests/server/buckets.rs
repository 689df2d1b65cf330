//! Buckets and their settings.

use crate::client::Request;
use crate::world::with_server;

#[test]
fn a_bucket_is_made_seen_and_removed() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.get("/").await.expect(200);
        let reply = client.put("/bucket", "").await.expect(200);
        assert_eq!(reply.header("location"), Some("/bucket"));
        client.put("/another", "").await.expect(200);
        let names = client.get("/").await.expect(200).elements("Name");
        assert_eq!(names, ["another", "bucket"]);
        let reply = client.send(Request::new("HEAD", "/bucket")).await.expect(200);
        assert_eq!(reply.header("x-amz-bucket-region"), Some("us-east-1"));
        let reply = client.get("/bucket?location").await.expect(200);
        assert!(reply.text().ends_with(
            "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>"
        ));
        client.put("/bucket", "").await.expect_error(409, "BucketAlreadyOwnedByYou");
        client.put("/bucket/key", "x").await.expect(200);
        client.delete("/bucket").await.expect_error(409, "BucketNotEmpty");
        client.delete("/bucket/key").await.expect(204);
        client.delete("/bucket").await.expect(204);
        client.delete("/bucket").await.expect_error(404, "NoSuchBucket");
        client.send(Request::new("HEAD", "/bucket")).await.expect(404);
    });
}

#[test]
fn buckets_are_listed_in_pages_where_asked() {
    with_server(|world| async move {
        let mut client = world.client().await;
        for name in ["aaa", "aab", "bbb"] {
            client.put(&format!("/{name}"), "").await.expect(200);
        }
        let page = client.get("/?max-buckets=2").await.expect(200);
        assert_eq!(page.elements("Name"), ["aaa", "aab"]);
        let token = page.element("ContinuationToken").unwrap();
        let page = client.get(&format!("/?continuation-token={token}&max-buckets=2")).await.expect(200);
        assert_eq!(page.elements("Name"), ["bbb"]);
        assert_eq!(page.element("ContinuationToken"), None);
        assert_eq!(client.get("/?prefix=aa").await.elements("Name"), ["aaa", "aab"]);
        client.get("/?max-buckets=0").await.expect_error(400, "InvalidArgument");
    });
}

#[test]
fn names_and_locations_that_cannot_be_are_refused() {
    with_server(|world| async move {
        let mut client = world.client().await;
        for name in ["ab", "Upper", "a..b", "-abc", "192.168.0.1", "buckets"] {
            client.put(&format!("/{name}"), "").await.expect_error(400, "InvalidBucketName");
        }
        let document = |location: &str| {
            format!(
                "<CreateBucketConfiguration><LocationConstraint>{location}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        client.put("/bucket", document("Mars 1")).await.expect_error(400, "InvalidLocationConstraint");
        client.put("/bucket", "<Broken").await.expect_error(400, "MalformedXML");
        client.put("/bucket", document("us-east-1")).await.expect(200);
        client.put("/far", document("eu-central-1")).await.expect(200);
        let reply = client.get("/far?location").await.expect(200);
        assert!(reply.text().ends_with(">eu-central-1</LocationConstraint>"));
        let reply = client.send(Request::new("HEAD", "/far")).await.expect(200);
        assert_eq!(reply.header("x-amz-bucket-region"), Some("eu-central-1"));
    });
}

#[test]
fn settings_that_were_never_made_are_answered_so() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", "x").await.expect(200);
        for setting in [
            "versioning",
            "acl",
            "logging",
            "notification",
            "requestPayment",
            "accelerate",
            "ownershipControls",
        ] {
            client.get(&format!("/bucket?{setting}")).await.expect(200);
        }
        for (setting, code) in [
            ("policy", "NoSuchBucketPolicy"),
            ("tagging", "NoSuchTagSet"),
            ("lifecycle", "NoSuchLifecycleConfiguration"),
            ("cors", "NoSuchCORSConfiguration"),
            ("website", "NoSuchWebsiteConfiguration"),
            ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
            ("object-lock", "ObjectLockConfigurationNotFoundError"),
            ("replication", "ReplicationConfigurationNotFoundError"),
            ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ] {
            client.get(&format!("/bucket?{setting}")).await.expect_error(404, code);
            client.put(&format!("/bucket?{setting}"), "<A/>").await.expect_error(501, "NotImplemented");
        }
        client.get("/missing?versioning").await.expect_error(404, "NoSuchBucket");
        client.delete("/bucket?lifecycle").await.expect(204);
        assert_eq!(
            client.get("/bucket/key?acl").await.expect(200).element("Permission").as_deref(),
            Some("FULL_CONTROL")
        );
        client.get("/bucket/key?tagging").await.expect(200);
        client.get("/bucket/other?tagging").await.expect_error(404, "NoSuchKey");
        client.put("/bucket/key?tagging", "<Tagging/>").await.expect_error(501, "NotImplemented");
        client.put("/bucket/key?acl", "<A/>").await.expect_error(501, "NotImplemented");
        client.post("/bucket/key?select&select-type=2", "<A/>").await.expect_error(501, "NotImplemented");
        client.get("/bucket?inventory").await.expect_error(501, "NotImplemented");
        client.post("/bucket", "form").await.expect_error(501, "NotImplemented");
        client.post("/bucket/key", "form").await.expect_error(405, "MethodNotAllowed");
        assert_eq!(world.model.stored("bucket", "key").unwrap(), "x");
    });
}
