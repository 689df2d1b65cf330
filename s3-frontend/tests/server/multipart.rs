//! Uploads in parts.

use crate::client::{Client, Request};
use crate::world::with_server;

async fn create(client: &mut Client, target: &str) -> String {
    let reply = client.post(&format!("{target}?uploads"), "").await.expect(200);
    reply.element("UploadId").unwrap()
}

fn list(parts: &[(u16, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

#[test]
fn parts_become_an_object() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let request = Request::new("POST", "/bucket/key?uploads")
            .header("content-type", "t/x")
            .header("x-amz-checksum-algorithm", "CRC64NVME");
        let reply = client.send(request).await.expect(200);
        assert_eq!(reply.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
        let upload = reply.element("UploadId").unwrap();
        let mut etags = Vec::new();
        for (number, len) in [(1, 100_000), (3, 70_000)] {
            let target = format!("/bucket/key?partNumber={number}&uploadId={upload}");
            let reply = client.put(&target, vec![number; len]).await.expect(200);
            etags.push(reply.header("etag").unwrap().to_owned());
        }
        let copy = Request::new("PUT", &format!("/bucket/key?partNumber=4&uploadId={upload}"))
            .header("x-amz-copy-source", "bucket/source")
            .header("x-amz-copy-source-range", "bytes=2-4");
        client.send(copy.clone()).await.expect_error(404, "NoSuchKey");
        client.put("/bucket/source", "0123456789").await.expect(200);
        let reply = client.send(copy).await.expect(200);
        etags.push(reply.element("ETag").unwrap().replace("&quot;", ""));

        let parts = client.get(&format!("/bucket/key?uploadId={upload}")).await.expect(200);
        assert_eq!(parts.elements("PartNumber"), ["1", "3", "4"]);
        assert_eq!(parts.elements("Size"), ["100000", "70000", "3"]);
        assert_eq!(parts.element("ChecksumAlgorithm").as_deref(), Some("CRC64NVME"));
        let page =
            client.get(&format!("/bucket/key?uploadId={upload}&max-parts=1&part-number-marker=1")).await;
        assert_eq!(page.elements("PartNumber"), ["3"]);
        assert_eq!(page.element("NextPartNumberMarker").as_deref(), Some("3"));

        let document = list(&[(1, &etags[0]), (3, &etags[1]), (4, &etags[2])]);
        let reply = client.post(&format!("/bucket/key?uploadId={upload}"), document).await.expect(200);
        assert!(reply.element("ETag").unwrap().ends_with("-3&quot;"));
        assert_eq!(reply.element("Location").as_deref(), Some("http://server:9000/bucket/key"));
        let got = client.get("/bucket/key").await.expect(200);
        assert_eq!(got.body.len(), 170_003);
        assert_eq!(&got.body[170_000..], b"234");
        assert_eq!(got.header("content-type"), Some("t/x"));
        let part = client.get("/bucket/key?partNumber=3").await.expect(206);
        assert_eq!(part.body, vec![3; 70_000]);
        assert_eq!(part.header("x-amz-mp-parts-count"), Some("3"));
        client.get(&format!("/bucket/key?uploadId={upload}")).await.expect_error(404, "NoSuchUpload");
    });
}

#[test]
fn a_list_that_is_not_what_was_uploaded_completes_nothing() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let upload = create(&mut client, "/bucket/key").await;
        let mut etags = Vec::new();
        for number in 1..3 {
            let target = format!("/bucket/key?partNumber={number}&uploadId={upload}");
            etags.push(client.put(&target, "x").await.expect(200).header("etag").unwrap().to_owned());
        }
        let target = format!("/bucket/key?uploadId={upload}");
        for (document, code) in [
            (list(&[(1, &etags[0]), (7, &etags[1])]), "InvalidPart"),
            (list(&[(1, "\"other\"")]), "InvalidPart"),
            (list(&[(2, &etags[1]), (1, &etags[0])]), "InvalidPartOrder"),
            (list(&[]), "MalformedXML"),
            ("<CompleteMultipartUpload><Part>".to_owned(), "MalformedXML"),
            (String::new(), "MissingRequestBodyError"),
        ] {
            client.post(&target, document).await.expect_error(400, code);
        }
        assert!(world.model.stored("bucket", "key").is_none());
        client.post(&target, list(&[(2, &etags[1])])).await.expect(200);
    });
}

#[test]
fn uploads_are_listed_and_aborted() {
    with_server(|world| async move {
        let mut client = world.client().await;
        client.put("/bucket", "").await.expect(200);
        let first = create(&mut client, "/bucket/a%20b").await;
        let second = create(&mut client, "/bucket/c").await;
        let reply = client.get("/bucket?uploads&encoding-type=url").await.expect(200);
        assert_eq!(reply.elements("Key"), ["a%20b", "c"]);
        let page = client.get("/bucket?uploads&max-uploads=1").await.expect(200);
        assert_eq!(page.element("NextUploadIdMarker"), Some(first.clone()));
        let key = page.element("NextKeyMarker").unwrap().replace(' ', "%20");
        let page = client.get(&format!("/bucket?uploads&key-marker={key}&upload-id-marker={first}")).await;
        assert_eq!(page.elements("UploadId"), [second]);
        client.delete("/bucket").await.expect_error(409, "BucketNotEmpty");
        client.delete(&format!("/bucket/a%20b?uploadId={first}")).await.expect(204);
        client.delete(&format!("/bucket/a%20b?uploadId={first}")).await.expect_error(404, "NoSuchUpload");
        let part = format!("/bucket/a%20b?partNumber=1&uploadId={first}");
        client.put(&part, "x").await.expect_error(404, "NoSuchUpload");
        client.put("/bucket/c?partNumber=1&uploadId=nonsense", "x").await.expect_error(404, "NoSuchUpload");
        for number in ["0", "10001", "x", ""] {
            let part = format!("/bucket/c?partNumber={number}&uploadId={first}");
            client.put(&part, "x").await.expect_error(400, "InvalidArgument");
        }
    });
}
