//! What is done with the head of every request before anything is looked up: parsing, and the signature.

#![expect(missing_docs, reason = "criterion's macros make public items")]

use buckets_s3::bench::Heads;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// What a browser or curl sends.
const PLAIN: &str = "GET /photos/2024/1.jpg HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// What boto3 sends for a page of a listing.
const LISTING: &str = "GET /photos?list-type=2&prefix=2024%2F07%2F&delimiter=%2F&max-keys=1000&encoding-type=url HTTP/1.1\r\n\
    Host: 127.0.0.1:9000\r\nAccept-Encoding: identity\r\n\
    User-Agent: Boto3/1.35.0 md/Botocore#1.35.0 ua/2.0 os/linux#6.8 md/arch#x86_64 lang/python#3.12.3\r\n\
    X-Amz-Date: 20240524T000000Z\r\n\
    X-Amz-Content-SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n\
    Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20240524/us-east-1/s3/aws4_request, \
    SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
    Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\
    amz-sdk-invocation-id: 3f1c8d1c-6d6a-4d0e-9d6e-3f1c8d1c6d6a\r\namz-sdk-request: attempt=1\r\n\r\n";

/// The examples that AWS publishes, with the keys it publishes beside them.
const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 24 May 2013, 0:05.
const UNIX_SECONDS: i64 = 1_369_353_900;
const BY_HEADER: &str = "GET /test.txt HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n\
    Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41\r\nRange: bytes=0-9\r\n\
    x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n\
    x-amz-date: 20130524T000000Z\r\n\r\n";
const BY_QUERY: &str = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524\
    %2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\n\
    Host: examplebucket.s3.amazonaws.com\r\n\r\n";

fn head(c: &mut Criterion) {
    let mut group = c.benchmark_group("http_head");
    for (name, text) in [("plain", PLAIN), ("listing", LISTING)] {
        let mut heads = Heads::default();
        group.bench_function(name, |b| {
            b.iter(|| heads.parse(black_box(text.as_bytes())));
        });
        assert_eq!(heads.parse(text.as_bytes()), Some(text.len()));
        assert_eq!(heads.parse(&text.as_bytes()[..text.len() - 1]), None);
    }
    group.finish();
}

fn signature(c: &mut Criterion) {
    let mut group = c.benchmark_group("sigv4");
    for (name, text) in [("header", BY_HEADER), ("presigned", BY_QUERY)] {
        let mut heads = Heads::default();
        assert_eq!(heads.parse(text.as_bytes()), Some(text.len()));
        group.bench_function(name, |b| {
            b.iter(|| heads.verify(black_box(ACCESS_KEY), SECRET, UNIX_SECONDS));
        });
        assert!(heads.verify(ACCESS_KEY, SECRET, UNIX_SECONDS));
        assert!(!heads.verify(ACCESS_KEY, "another secret", UNIX_SECONDS));
    }
    group.finish();
}

criterion_group!(benches, head, signature);
criterion_main!(benches);
