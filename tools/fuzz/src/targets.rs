//! What is fuzzed, and from what.

/// One reader of foreign bytes.
pub struct Target {
    /// As on the command line, and below `corpus/`.
    pub name: &'static str,
    /// Panics where the reader breaks a promise.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "http-head", run: buckets_s3::fuzz::http_head, seeds: heads },
    Target { name: "query-string", run: buckets_s3::fuzz::query_string, seeds: request_targets },
    Target { name: "http-chunked", run: buckets_s3::fuzz::http_chunked, seeds: chunked },
    Target { name: "aws-chunked", run: buckets_s3::fuzz::aws_chunked, seeds: aws_chunked },
    Target { name: "sigv4", run: buckets_s3::fuzz::sigv4, seeds: heads },
    Target { name: "xml", run: buckets_s3::fuzz::xml, seeds: documents },
    Target {
        name: "manifests",
        run: buckets_engine::fuzz::manifests,
        seeds: buckets_engine::fuzz::manifest_seeds,
    },
    Target { name: "wire", run: buckets_engine::fuzz::wire, seeds: buckets_engine::fuzz::wire_seeds },
    Target {
        name: "table-block",
        run: buckets_index::fuzz::table_block,
        seeds: buckets_index::fuzz::table_block_seeds,
    },
    Target {
        name: "log-records",
        run: buckets_disk::fuzz::log_records,
        seeds: buckets_disk::fuzz::log_seeds,
    },
    Target {
        name: "superblock",
        run: buckets_disk::fuzz::superblock,
        seeds: buckets_disk::fuzz::superblock_seeds,
    },
    Target {
        name: "rpc-handshake",
        run: buckets_rpc::fuzz::handshake,
        seeds: buckets_rpc::fuzz::handshake_seeds,
    },
    Target { name: "rpc-frames", run: buckets_rpc::fuzz::frames, seeds: buckets_rpc::fuzz::frame_seeds },
    Target {
        name: "rpc-connection",
        run: buckets_rpc::fuzz::connection,
        seeds: buckets_rpc::fuzz::connection_seeds,
    },
    Target { name: "format-file", run: format_file, seeds: format_files },
    Target { name: "topology", run: topology, seeds: topologies },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn heads() -> Vec<Vec<u8>> {
    texts(&[
        "GET /bucket/key?list-type=2&prefix=a%2Fb HTTP/1.1\r\nHost: example:9000\r\nRange: bytes=0-9\r\n\r\n",
        "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nContent-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n\r\nhello",
        "POST /b?delete HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, close\r\n\r\n",
        "GET /b/k HTTP/1.1\r\nHost: x\r\nx-amz-date: 20231114T221320Z\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\nAuthorization: \
         AWS4-HMAC-SHA256 Credential=key/20231114/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
         Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\r\n",
        "GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=key%2F20231114%2Fus-east-1%2Fs3%2Faws4_request&\
         X-Amz-Date=20231114T221320Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host&\
         X-Amz-Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef HTTP/1.1\r\nHost: x\r\n\r\n",
        "PUT /b/k HTTP/1.1\r\nHost: x\r\nx-amz-date: 20231114T221320Z\r\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\r\n\
         x-amz-decoded-content-length: 5\r\nx-amz-trailer: x-amz-checksum-crc32\r\nContent-Encoding: aws-chunked\r\nContent-Length: 200\r\n\r\n",
    ])
}

fn request_targets() -> Vec<Vec<u8>> {
    texts(&[
        "/bucket/a%20key/with+plus?versionId=null&x=%E2%82%AC",
        "/?list-type=2&prefix=a%2Fb&delimiter=%2F&max-keys=1000&encoding-type=url",
        "http://host:9000/bucket/key?uploads",
        "/b/k?partNumber=1&uploadId=AbC-_123&&=&a==b",
        "/b/%00%ff%",
    ])
}

fn chunked() -> Vec<Vec<u8>> {
    texts(&[
        "5\r\nhello\r\n0\r\n\r\n",
        "A;ext=\"1\"\r\n0123456789\r\n1\r\nx\r\n0\r\nTrailer: v\r\n\r\nGET / HTTP/1.1\r\n",
        "ffffffffffffffff\r\n",
    ])
}

fn aws_chunked() -> Vec<Vec<u8>> {
    texts(&[
        "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
        "5;chunk-signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\nhello\r\n\
         0;chunk-signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\r\n",
        "5;chunk-signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\nhello\r\n0;chunk-signature=\
         0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\nx-amz-checksum-crc32:NhCmhg==\r\n\
         x-amz-trailer-signature:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\r\n",
    ])
}

fn documents() -> Vec<Vec<u8>> {
    texts(&[
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key>a&amp;b</Key>\
         </Object><Object><Key><![CDATA[c]]></Key><VersionId>null</VersionId></Object><Quiet>true</Quiet></Delete>",
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"0123456789abcdef0123456789abcdef\"</ETag>\
         <ChecksumCRC32>NhCmhg==</ChecksumCRC32></Part><Part><ETag>x</ETag><PartNumber>2</PartNumber></Part></CompleteMultipartUpload>",
        "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
        "<a><b><c><d><e><f><g><h><i/></h></g></f></e></d></c></b></a>",
    ])
}

fn format_file(data: &[u8]) {
    let _ = buckets_ring::format::FormatJson::parse(data);
}

fn format_files() -> Vec<Vec<u8>> {
    texts(&[
        "{\"version\":1,\"deployment\":\"d053d9ca-76ce-46b7-aa7f-b5de074a8f3e\",\"disk\":\"669c9c8b-732a-407d-b6d0-7d739e57b3c7\",\"set\":0,\"slot\":1}",
        "{\"a\":[[[[[[[[[[1e999,-0,\"\\ud800\"]]]]]]]]]]}",
    ])
}

fn topology(data: &[u8]) {
    let _ = buckets_ring::topology::TopologyJson::parse(data);
}

fn topologies() -> Vec<Vec<u8>> {
    texts(&[
        "{\"version\":1,\"generation\":1,\"deployment\":\"d053d9ca-76ce-46b7-aa7f-b5de074a8f3e\",\"pools\":[{\"k\":2,\"m\":2,\"sets\":[[\"a\",\"b\",\"c\",\"d\"]]}]}",
        "{\"pools\":[{\"k\":16,\"m\":16,\"sets\":[]}]}",
    ])
}
