//! How connections live and end: pipelining, timeouts, limits, malformed requests, draining.

use crate::client::Request;
use crate::world::{small_limits, with_options, with_server};
use buckets_s3::server::Options;
use std::time::Duration;

const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let mut wire = Vec::new();
        for number in 0..20 {
            let put = Request::new("PUT", &format!("/bucket/{number}")).body(vec![b'x'; number]);
            wire.extend(client.sign(&put).head);
            wire.extend(put.body);
            wire.extend(client.sign(&Request::new("GET", &format!("/bucket/{number}"))).head);
        }
        client.write(&wire).await;
        for number in 0..20 {
            client.reply("PUT").await.expect(200);
            assert_eq!(client.reply("GET").await.expect(200).body, vec![b'x'; number]);
        }
    });
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_answers() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.write(GET_HEALTH.repeat(3)).await;
        client.stream.shutdown_write().await.unwrap();
        for _ in 0..3 {
            assert_eq!(client.reply("GET").await.expect(200).text(), "ok\n");
        }
        assert!(client.is_closed().await);
    });
}

#[test]
fn the_connection_ends_where_the_client_wants_it() {
    with_server(|world| async move {
        for (request, stays) in [
            ("GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false),
            ("GET /health HTTP/1.0\r\n\r\n", false),
            ("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
            ("GET /health HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ] {
            let mut client = world.client().await;
            client.write(request).await;
            let reply = client.reply("GET").await.expect(200);
            assert_eq!(reply.header("connection") == Some("close"), !stays, "{request}");
            if stays {
                client.write(GET_HEALTH).await;
                client.reply("GET").await.expect(200);
            } else {
                assert!(client.is_closed().await);
            }
        }
    });
}

#[test]
fn malformed_requests_are_told_so_and_end_the_connection() {
    with_server(|world| async move {
        for (request, status, code) in [
            ("GARBAGE\r\n\r\n", 400, "BadRequest"),
            ("\u{16}\u{3}\u{1}\u{2}binary", 400, "BadRequest"),
            ("GET / HTTP/1.1\r\n\r\n", 400, "BadRequest"),
            ("GET / HTTP/1.1\nHost: h\n\n", 400, "BadRequest"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "BadRequest"),
            ("GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, "HttpVersionNotSupported"),
            (
                "PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n",
                400,
                "BadRequest",
            ),
            (
                "PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
                400,
                "BadRequest",
            ),
            ("PUT /b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "NotImplemented"),
            (
                "PUT /b/k HTTP/1.1\r\nHost: h\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n",
                417,
                "ExpectationFailed",
            ),
        ] {
            let mut client = world.client().await;
            client.write(request).await;
            let reply = client.reply("GET").await.expect_error(status, code);
            assert_eq!(reply.header("connection"), Some("close"));
            assert!(client.is_closed().await, "{request:?}");
        }
        // And nobody else is worse off.
        let mut client = world.client().await;
        client.write(GET_HEALTH).await;
        client.reply("GET").await.expect(200);
    });
}

#[test]
fn a_head_without_end_is_cut_off() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.write("GET / HTTP/1.1\r\nHost: h\r\n").await;
        for _ in 0..40 {
            if client
                .stream
                .write_all(format!("X-Filler: {}\r\n", "x".repeat(1000)).as_bytes())
                .await
                .is_err()
            {
                break;
            }
        }
        client.reply("GET").await.expect_error(400, "RequestHeaderSectionTooLarge");
        assert!(client.is_closed().await);
    });
}

#[test]
fn targets_that_cannot_be_decoded_are_refused_and_the_connection_stays() {
    with_server(|world| async move {
        let mut client = world.client().await;
        for target in ["/b/%zz", "/b/%ff", "b/k", "/b?x=%"] {
            client.write(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
            client.reply("GET").await.expect_error(400, "InvalidURI");
        }
    });
}

#[test]
fn a_slow_head_is_not_waited_for() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut client = world.client().await;
        let begun = world.env.now();
        // A byte a second keeps no timeout away: it is the head that counts.
        for byte in GET_HEALTH.bytes() {
            if client.stream.write_all(&[byte]).await.is_err() {
                break;
            }
            world.env.sleep(Duration::from_secs(1)).await;
            if world.env.now().since(begun) > Duration::from_secs(8) {
                break;
            }
        }
        client.reply("GET").await.expect_error(400, "RequestTimeout");
        assert!(client.is_closed().await);
        assert_eq!(world.server.connections(), 0);
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut client = world.client().await;
        client.write(GET_HEALTH).await;
        client.reply("GET").await.expect(200);
        let begun = world.env.now();
        assert!(client.is_closed().await);
        let idle = world.env.now().since(begun);
        assert!(idle >= Duration::from_secs(19) && idle < Duration::from_secs(21), "{idle:?}");
    });
}

#[test]
fn a_slow_body_is_not_waited_for() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        // One that stops.
        let request = Request::new("PUT", "/bucket/key")
            .header("content-length", "1000000")
            .payload("UNSIGNED-PAYLOAD");
        let head = client.sign(&request).head;
        client.write(head).await;
        client.write("some").await;
        client.reply("PUT").await.expect_error(400, "RequestTimeout");
        assert!(client.is_closed().await);
        // One that trickles.
        let mut client = world.client().await;
        let head = client.sign(&request).head;
        client.write(head).await;
        let begun = world.env.now();
        while world.env.now().since(begun) < Duration::from_millis(30_500) {
            client.write("x").await;
            world.env.sleep(Duration::from_millis(700)).await;
        }
        client.reply("PUT").await.expect_error(400, "RequestTimeout");
        assert!(world.model.stored("bucket", "key").is_none());
    });
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        client.put("/bucket/large", vec![7; 20 << 20]).await.expect(200);
        let mut deaf = world.client().await;
        let head = deaf.sign(&Request::new("GET", "/bucket/large")).head;
        deaf.write(head).await;
        world.env.sleep(Duration::from_secs(60)).await;
        assert_eq!(world.server.connections(), 0);
        assert_eq!(deaf.try_reply("GET").await, None);
    });
}

#[test]
fn too_many_connections_are_told_to_slow_down() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = world.client().await;
            client.write(GET_HEALTH).await;
            client.reply("GET").await.expect(200);
            clients.push(client);
        }
        let mut fifth = world.client().await;
        fifth.write(GET_HEALTH).await;
        let reply = fifth.reply("GET").await.expect_error(503, "SlowDown");
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(fifth.is_closed().await);
        // A place that becomes free is taken.
        drop(clients.pop());
        world.env.sleep(Duration::from_secs(3)).await;
        let mut sixth = world.client().await;
        sixth.write(GET_HEALTH).await;
        sixth.reply("GET").await.expect(200);
    });
}

#[test]
fn too_many_requests_are_told_to_slow_down() {
    let options = Options { limits: small_limits(), ..Options::default() };
    with_options(0, options, |world| async move {
        let mut waiting = Vec::new();
        world.client().await.put("/bucket", "").await.expect(200);
        let request =
            Request::new("PUT", "/bucket/key").header("content-length", "4").payload("UNSIGNED-PAYLOAD");
        for _ in 0..2 {
            let mut client = world.client().await;
            let head = client.sign(&request).head;
            client.write(head).await;
            waiting.push(client);
        }
        world.env.sleep(Duration::from_millis(100)).await;
        let mut third = world.client().await;
        third.get("/").await.expect_error(503, "SlowDown");
        for client in &mut waiting {
            client.write("body").await;
            client.reply("PUT").await.expect(200);
        }
        third.get("/").await.expect(200);
    });
}

#[test]
fn an_unwanted_body_is_read_over_where_it_is_small() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/missing/key", vec![1; 100_000]).await.expect_error(404, "NoSuchBucket");
        // The connection is still good.
        client.get("/").await.expect(200);
        // A large one ends the connection, but not before the answer is there.
        let request = Request::new("PUT", "/missing/key").body(vec![1; 1 << 20]);
        let reply = client.send(request).await.expect_error(404, "NoSuchBucket");
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn draining_lets_requests_end_and_takes_no_new_ones() {
    with_server(|world| async move {
        let mut idle = world.client().await;
        idle.put("/bucket", "").await.expect(200);
        let mut busy = world.client().await;
        let request =
            Request::new("PUT", "/bucket/key").header("content-length", "4").payload("UNSIGNED-PAYLOAD");
        let head = busy.sign(&request).head;
        busy.write(head).await;
        world.env.sleep(Duration::from_millis(100)).await;

        let server = world.server.clone();
        let drained = async {
            assert!(!server.drain(Duration::from_secs(1)).await, "one request is still there");
            assert!(server.drain(Duration::from_secs(10)).await);
        };
        let clients = async {
            assert!(idle.is_closed().await);
            world.env.sleep(Duration::from_secs(2)).await;
            busy.write("body").await;
            let reply = busy.reply("PUT").await.expect(200);
            assert_eq!(reply.header("connection"), Some("close"));
            assert!(busy.is_closed().await);
        };
        futures::future::join(drained, clients).await;
        let mut late = world.client().await;
        let _ = late.stream.write_all(GET_HEALTH.as_bytes()).await;
        assert!(late.is_closed().await);
    });
}

#[test]
fn random_bytes_never_stop_the_server() {
    use proptest::prelude::{any, prop};
    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let pieces = prop::collection::vec(
        proptest::prop_oneof![
            any::<Vec<u8>>(),
            proptest::strategy::Just(b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec()),
            proptest::strategy::Just(b"Transfer-Encoding: chunked\r\n\r\n".to_vec()),
            proptest::strategy::Just(
                b"Authorization: AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=,Signature=\r\n"
                    .to_vec()
            ),
            proptest::strategy::Just(b"\r\n\r\n".to_vec()),
        ],
        0..8,
    );
    let inputs: Vec<Vec<Vec<u8>>> =
        (0..40).map(|_| pieces.new_tree(&mut runner).unwrap().current()).collect();
    with_options(1, Options::default(), |world| {
        let inputs = inputs.clone();
        async move {
            for input in inputs {
                let mut client = world.client().await;
                let _ = client.stream.write_all(&input.concat()).await;
                let _ = client.stream.shutdown_write().await;
                while client.try_reply("GET").await.is_some() {}
            }
            let mut client = world.client().await;
            client.write(GET_HEALTH).await;
            client.reply("GET").await.expect(200);
        }
    });
}
