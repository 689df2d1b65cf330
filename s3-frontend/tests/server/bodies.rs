//! Bodies on their way in: framings, hashes, signatures, checksums, trailers, 100-continue.

use crate::client::{Client, Request, hmac};
use crate::model::hex;
use crate::world::with_server;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 / 7) as u8).collect()
}

fn in_http_chunks(data: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in data.chunks(size) {
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    wire
}

/// The body of `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
fn in_unsigned_chunks(data: &[u8], size: usize, trailer: &str) -> Vec<u8> {
    let mut wire = in_http_chunks(data, size);
    wire.truncate(wire.len() - 2);
    wire.extend(trailer.bytes());
    wire.extend(b"\r\n");
    wire
}

/// The body of `STREAMING-AWS4-HMAC-SHA256-PAYLOAD(-TRAILER)`.
fn in_signed_chunks(
    signed: &crate::client::Signed,
    data: &[u8],
    size: usize,
    trailer: Option<&str>,
) -> Vec<u8> {
    let mut previous = signed.signature.clone();
    let mut wire = Vec::new();
    for chunk in data.chunks(size).chain([&[][..]]) {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{}\n{}",
            signed.date,
            signed.scope,
            hex(&Sha256::digest(b"")),
            hex(&Sha256::digest(chunk))
        );
        previous = hex(&hmac(&signed.key, text.as_bytes()));
        wire.extend(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        if !chunk.is_empty() || trailer.is_none() {
            wire.extend(b"\r\n");
        }
    }
    if let Some(trailer) = trailer {
        let text = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{}",
            signed.date,
            signed.scope,
            hex(&Sha256::digest(format!("{trailer}\n")))
        );
        let signature = hex(&hmac(&signed.key, text.as_bytes()));
        wire.extend(format!("{trailer}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").bytes());
    }
    wire
}

fn crc32(data: &[u8]) -> String {
    BASE64.encode(crc_fast::crc32_iso_hdlc(data).to_be_bytes())
}

/// Sends the head of `request` and then `body` as it is.
async fn send_raw(client: &mut Client, request: &Request, body: &[u8]) -> crate::client::Reply {
    let head = client.sign(request).head;
    client.write([&head, body].concat()).await;
    client.reply("PUT").await
}

#[test]
fn the_same_bytes_arrive_in_every_framing() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        for len in [0, 1, 4095, 65_536, 300_001] {
            let data = content(len);
            let etag = format!("\"{}\"", hex(&md5::Md5::digest(&data)));
            let decoded = len.to_string();

            client.put("/bucket/plain", data.clone()).await.expect(200);
            let unsigned =
                Request::new("PUT", "/bucket/unsigned").payload("UNSIGNED-PAYLOAD").body(data.clone());
            client.send(unsigned).await.expect(200);

            let chunked = Request::new("PUT", "/bucket/chunked")
                .header("transfer-encoding", "chunked")
                .payload("UNSIGNED-PAYLOAD");
            send_raw(&mut client, &chunked, &in_http_chunks(&data, 10_000)).await.expect(200);

            let trailer = format!("x-amz-checksum-crc32:{}\r\n", crc32(&data));
            let wire = in_unsigned_chunks(&data, 65_536, &trailer);
            let aws_chunked = |key: &str, payload: &str| {
                Request::new("PUT", &format!("/bucket/{key}"))
                    .header("content-encoding", "aws-chunked")
                    .header("x-amz-decoded-content-length", &decoded)
                    .payload(payload)
            };
            let request = aws_chunked("trailer", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
                .header("x-amz-trailer", "x-amz-checksum-crc32")
                .header("content-length", &wire.len().to_string());
            let reply = send_raw(&mut client, &request, &wire).await.expect(200);
            assert_eq!(reply.header("x-amz-checksum-crc32"), Some(crc32(&data).as_str()));

            // Both framings at once, as the Python SDK sends over TLS.
            let request = aws_chunked("both", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
                .header("x-amz-trailer", "x-amz-checksum-crc32")
                .header("transfer-encoding", "chunked");
            send_raw(&mut client, &request, &in_http_chunks(&wire, 7000)).await.expect(200);

            let mut request = aws_chunked("signed", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
            let probe = in_signed_chunks(&client.sign(&request), &data, 65_536, None);
            request = request.header("content-length", &probe.len().to_string());
            let signed = client.sign(&request);
            let wire = in_signed_chunks(&signed, &data, 65_536, None);
            client.write([signed.head, wire].concat()).await;
            client.reply("PUT").await.expect(200);

            let trailer = format!("x-amz-checksum-crc32:{}", crc32(&data));
            let mut request = aws_chunked("signed-trailer", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
                .header("x-amz-trailer", "x-amz-checksum-crc32");
            let probe = in_signed_chunks(&client.sign(&request), &data, 8192, Some(&trailer));
            request = request.header("content-length", &probe.len().to_string());
            let signed = client.sign(&request);
            let wire = in_signed_chunks(&signed, &data, 8192, Some(&trailer));
            client.write([signed.head, wire].concat()).await;
            client.reply("PUT").await.expect(200);

            for key in ["plain", "unsigned", "chunked", "trailer", "both", "signed", "signed-trailer"] {
                let reply = client.get(&format!("/bucket/{key}")).await.expect(200);
                assert!(reply.body == data, "{key} of {len} bytes");
                assert_eq!(reply.header("etag"), Some(etag.as_str()));
                assert_eq!(reply.header("content-encoding"), None);
            }
        }
    });
}

#[test]
fn a_body_that_is_not_what_was_signed_is_not_stored() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let data = content(100_000);

        // Another body than the one whose hash is signed.
        let mut request = Request::new("PUT", "/bucket/key").body(data.clone());
        let signed = client.sign(&request);
        request.body[50_000] ^= 1;
        client.write([signed.head, request.body].concat()).await;
        client.reply("PUT").await.expect_error(400, "XAmzContentSHA256Mismatch");

        // A chunk changed on the way.
        let mut client = world.client().await;
        let request = Request::new("PUT", "/bucket/key")
            .header("x-amz-decoded-content-length", "100000")
            .payload("STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
        let len = in_signed_chunks(&client.sign(&request), &data, 30_000, None).len();
        let request = request.header("content-length", &len.to_string());
        let signed = client.sign(&request);
        let mut wire = in_signed_chunks(&signed, &data, 30_000, None);
        wire[70_000] ^= 1;
        client.write([signed.head, wire].concat()).await;
        client.reply("PUT").await.expect_error(403, "SignatureDoesNotMatch");

        assert!(world.model.stored("bucket", "key").is_none());
    });
}

#[test]
fn checksums_of_a_body_are_verified_wherever_they_stand() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let put =
            |name: &str, value: &str| Request::new("PUT", "/bucket/key").header(name, value).body("hello");
        for (name, value) in [
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ("x-amz-checksum-crc32", "NhCmhg=="),
            ("x-amz-checksum-crc32c", "mnG7TA=="),
            ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
            ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
        ] {
            let reply = client.send(put(name, value)).await.expect(200);
            if name != "content-md5" {
                assert_eq!(reply.header(name), Some(value));
                assert_eq!(reply.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
            }
            let wrong = value.replacen(|c: char| c != 'A', "A", 1);
            client.send(put(name, &wrong)).await.expect_error(400, "BadDigest");
        }
        client.send(put("content-md5", "short")).await.expect_error(400, "InvalidDigest");
        client.send(put("x-amz-checksum-crc32", "short")).await.expect_error(400, "InvalidRequest");

        // In a trailer: wrong, missing, another one than announced.
        for (trailer, code) in [
            ("x-amz-checksum-crc32:AAAAAA==\r\n", "BadDigest"),
            ("x-amz-checksum-crc32:nonsense\r\n", "BadDigest"),
            ("", "MalformedTrailerError"),
            ("x-amz-checksum-crc32c:mnG7TA==\r\n", "MalformedTrailerError"),
        ] {
            let mut client = world.client().await;
            let wire = in_unsigned_chunks(b"hello", 3, trailer);
            let request = Request::new("PUT", "/bucket/other")
                .header("x-amz-decoded-content-length", "5")
                .header("x-amz-trailer", "x-amz-checksum-crc32")
                .header("content-length", &wire.len().to_string())
                .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
            send_raw(&mut client, &request, &wire).await.expect_error(400, code);
        }
        assert!(world.model.stored("bucket", "other").is_none());
    });
}

#[test]
fn lengths_must_be_there_and_true() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);

        // None at all.
        let mut request = Request::new("PUT", "/bucket/key");
        request.method = "PUT".to_owned();
        let head =
            String::from_utf8(client.sign(&request).head).unwrap().replace("Content-Length: 0\r\n", "");
        client.write(head).await;
        client.reply("PUT").await.expect_error(411, "MissingContentLength");

        // Too large.
        let request = Request::new("PUT", "/bucket/key")
            .header("content-length", "5368709121")
            .payload("UNSIGNED-PAYLOAD");
        send_raw(&mut world.client().await, &request, b"").await.expect_error(400, "EntityTooLarge");

        // The decoded length is not that of the chunks.
        for decoded in ["4", "6"] {
            let wire = in_unsigned_chunks(b"hello", 3, "");
            let request = Request::new("PUT", "/bucket/key")
                .header("x-amz-decoded-content-length", decoded)
                .header("content-length", &wire.len().to_string())
                .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
            send_raw(&mut world.client().await, &request, &wire).await.expect_error(400, "IncompleteBody");
        }
        // There is none.
        let request = Request::new("PUT", "/bucket/key")
            .header("content-length", "10")
            .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        send_raw(&mut world.client().await, &request, b"5\r\nhello\r\n")
            .await
            .expect_error(411, "MissingContentLength");

        // More after the last chunk.
        let wire = [in_unsigned_chunks(b"hello", 3, ""), b"more".to_vec()].concat();
        let request = Request::new("PUT", "/bucket/key")
            .header("x-amz-decoded-content-length", "5")
            .header("content-length", &wire.len().to_string())
            .payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        send_raw(&mut world.client().await, &request, &wire).await.expect_error(400, "IncompleteBody");

        // The connection ends within the body.
        let mut client = world.client().await;
        let request =
            Request::new("PUT", "/bucket/key").header("content-length", "100").payload("UNSIGNED-PAYLOAD");
        let head = client.sign(&request).head;
        client.write([head, b"half".to_vec()].concat()).await;
        client.stream.shutdown_write().await.unwrap();
        client.reply("PUT").await.expect_error(400, "IncompleteBody");
        assert!(world.model.stored("bucket", "key").is_none());
    });
}

#[test]
fn a_client_that_waits_is_told_to_continue_only_where_its_body_is_wanted() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let request = |bucket: &str| {
            Request::new("PUT", &format!("/{bucket}/key"))
                .header("content-length", "5")
                .header("expect", "100-continue")
                .payload("UNSIGNED-PAYLOAD")
        };
        let head = client.sign(&request("bucket")).head;
        client.write(head).await;
        client.reply("PUT").await.expect(100);
        client.write("hello").await;
        client.reply("PUT").await.expect(200);
        assert_eq!(client.get("/bucket/key").await.body, b"hello");

        // One that does not wait is not told.
        let head = client.sign(&request("bucket")).head;
        client.write([head, b"hello".to_vec()].concat()).await;
        let mut reply = client.reply("PUT").await;
        if reply.status == 100 {
            // The body may have come later than the head.
            reply = client.reply("PUT").await;
        }
        reply.expect(200);

        let head = client.sign(&request("missing")).head;
        client.write(head).await;
        let reply = client.reply("PUT").await.expect_error(404, "NoSuchBucket");
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn documents_over_their_limit_are_refused_before_they_are_read() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let request = Request::new("POST", "/bucket?delete")
            .header("content-length", "100000000")
            .payload("UNSIGNED-PAYLOAD");
        let head = client.sign(&request).head;
        client.write(head).await;
        client.reply("POST").await.expect_error(400, "MaxMessageLengthExceeded");
        let mut client = world.client().await;
        let chunked =
            Request::new("PUT", "/other").header("transfer-encoding", "chunked").payload("UNSIGNED-PAYLOAD");
        let wire = in_http_chunks(&vec![b' '; 200_000], 50_000);
        send_raw(&mut client, &chunked, &wire).await.expect_error(400, "MaxMessageLengthExceeded");
    });
}
