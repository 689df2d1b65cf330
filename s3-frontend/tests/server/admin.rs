//! The node's own endpoints and the admin interface.

use crate::client::{Client, Request};
use crate::world::with_server;
use serde_json::{Value, json};

fn json_of(reply: &crate::client::Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

#[test]
fn health_readiness_and_metrics_need_no_signature() {
    with_server(|world| async move {
        let mut client = world.client().await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        client.write(get("/health")).await;
        client.reply("GET").await.expect(200);
        client.write(get("/ready")).await;
        client.reply("GET").await.expect(200);
        *world.report.unready.borrow_mut() = Some("no quorum in set 0".to_owned());
        client.write(get("/ready")).await;
        assert_eq!(client.reply("GET").await.expect(503).text(), "no quorum in set 0\n");

        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/key", "hello").await.expect(200);
        client.get("/bucket/key").await.expect(200);
        client.get("/bucket/missing").await.expect(404);
        client.write(get("/metrics")).await;
        let metrics = client.reply("GET").await.expect(200).text();
        for line in [
            "s3_requests_total{method=\"PUT\",operation=\"PutObject\",status=\"200\"} 1",
            "s3_requests_total{method=\"GET\",operation=\"GetObject\",status=\"404\"} 1",
            "s3_errors_total{error_type=\"NoSuchKey\",operation=\"GetObject\"} 1",
            "s3_upload_bytes_total 5",
            "s3_auth_failure_total 0",
            "s3_requests_in_flight 1",
            "buckets_disks 4",
        ] {
            assert!(metrics.lines().any(|known| known == line), "{line}\n{metrics}");
        }
        // A signed request means a bucket of that name.
        client.get("/health").await.expect_error(404, "NoSuchBucket");
    });
}

#[test]
fn users_are_added_used_and_removed() {
    with_server(|world| async move {
        let mut root = world.client().await;
        let users = "/buckets/admin/v1/users";
        let user = json!({ "accessKey": "alice", "secretKey": "alice-secret" }).to_string();
        root.post(users, user.clone()).await.expect(200);
        let again = root.post(users, user).await.expect(409);
        assert!(json_of(&again)["message"].as_str().unwrap().contains("exists"));
        assert_eq!(json_of(&root.get(users).await.expect(200))["users"][0]["accessKey"], "alice");

        let mut alice = Client::new(world.env.clone(), world.connect().await, "alice", "alice-secret");
        alice.put("/bucket", "").await.expect(200);
        let refused = alice.get("/buckets/admin/v1/info").await.expect(403);
        assert_eq!(json_of(&refused)["code"], "AccessDenied");

        let generated = json_of(&root.post(users, "{}").await.expect(200));
        let (key, secret) =
            (generated["accessKey"].as_str().unwrap(), generated["secretKey"].as_str().unwrap());
        assert_eq!((key.len(), secret.len()), (20, 40));
        let mut other = Client::new(world.env.clone(), world.connect().await, key, secret);
        other.get("/").await.expect(200);

        root.delete(&format!("{users}?accessKey=alice")).await.expect(204);
        root.delete(&format!("{users}?accessKey=alice")).await.expect(409);
        alice.get("/").await.expect_error(403, "InvalidAccessKeyId");
    });
}

#[test]
fn a_node_is_drained_until_that_is_taken_back() {
    with_server(|world| async move {
        let mut root = world.client().await;
        let drain = "/buckets/admin/v1/nodes/drain";
        root.post(&format!("{drain}?node=n1%3A9100"), "").await.expect(204);
        assert!(world.report.draining.get());
        root.delete(&format!("{drain}?node=n1%3A9100")).await.expect(204);
        assert!(!world.report.draining.get());
        let unknown = root.post(&format!("{drain}?node=n7%3A9100"), "").await.expect(409);
        assert!(json_of(&unknown)["message"].as_str().unwrap().contains("n7:9100"));
        root.post(drain, "").await.expect(400);
        root.get(drain).await.expect(405);

        let user = json!({ "accessKey": "alice", "secretKey": "alice-secret" }).to_string();
        root.post("/buckets/admin/v1/users", user).await.expect(200);
        let mut alice = Client::new(world.env.clone(), world.connect().await, "alice", "alice-secret");
        alice.post(&format!("{drain}?node=n1%3A9100"), "").await.expect(403);
        assert!(!world.report.draining.get());
    });
}

#[test]
fn admin_requests_that_cannot_be_are_refused_in_json() {
    with_server(|world| async move {
        let mut root = world.client().await;
        assert_eq!(json_of(&root.get("/buckets/admin/v1/info").await.expect(200))["verdict"], "safe");
        let users = "/buckets/admin/v1/users";
        for body in [
            "",
            "{\"acessKey\":\"typo\"}",
            "{\"accessKey\":\"a\"}",
            "{\"accessKey\":\"a/b/c\"}",
            "{\"accessKey\":\"alice\",\"secretKey\":\"short\"}",
        ] {
            let reply = root.post(users, body).await.expect(400);
            assert_eq!(json_of(&reply)["code"], "InvalidRequest", "{body}");
        }
        root.get("/buckets/admin/v1/nothing").await.expect(404);
        root.send(Request::new("PUT", users)).await.expect(405);
        // The name is kept for this interface.
        root.put("/buckets", "").await.expect_error(400, "InvalidBucketName");
    });
}
