//! One S3 request and its answer over HTTP/1.1, as bytes.
//!
//! What must hold: no input or output here; an answer counts as good only if its status, its length and what it lists or
//! carries are what the operation must find; what says success and is not is told apart from what says failure.

use super::content::{Body, Content};
use super::measure::Verdict;
use super::response::{Head, Malformed, ResponseReader};
use super::signer::{self, EMPTY_PAYLOAD, Signer, UNSIGNED_PAYLOAD};
use super::workload::{ABSENT, Action, Operation, Workload};
use crate::credentials::Credentials;
use memchr::memmem;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest listing or error document that is kept, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// What of a request is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Signing {
    /// The head; the body goes as UNSIGNED-PAYLOAD
    #[default]
    Head,
    /// The head with the SHA-256 of the body
    Payload,
    /// Nothing
    None,
}

/// Where requests go and how they are made.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `host:port`, as connected to and as signed.
    pub(crate) authority: String,
    pub(crate) bucket: String,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) region: String,
    pub(crate) signing: Signing,
    /// Whether bodies are compared with what was put.
    pub(crate) verify: bool,
    /// Whether bodies of GETs are dropped in the kernel.
    pub(crate) discard: bool,
    /// Of the client's sockets; the system's where there is none.
    pub(crate) congestion: Option<String>,
}

/// Makes requests; of one thread.
pub(crate) struct Requests<'a> {
    endpoint: &'a Endpoint,
    workload: &'a Workload,
    signer: Option<Signer>,
    /// `/bucket/stem`, escaped.
    stem_path: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, workload: &'a Workload) -> Requests<'a> {
        let credentials = endpoint.credentials.clone().filter(|_| endpoint.signing != Signing::None);
        let signer =
            credentials.map(|credentials| Signer::new(credentials, &endpoint.region, &endpoint.authority));
        let mut stem_path = Vec::new();
        signer::escape(&format!("/{}/{}", endpoint.bucket, workload.stem), true, &mut stem_path);
        Requests { endpoint, workload, signer, stem_path, path: Vec::new(), query: Vec::new() }
    }

    /// Writes a request's head; its body is to follow.
    fn write(&mut self, operation: &Operation, token: Option<&str>, head: &mut Vec<u8>) -> Option<Body> {
        let Requests { endpoint, workload, signer, stem_path, path, query } = self;
        let (path, query) = (&mut *path, &mut *query);
        path.clear();
        query.clear();
        head.clear();
        let method = match operation.action {
            Action::Put | Action::CreateBucket => "PUT",
            Action::Get | Action::List => "GET",
            Action::Head => "HEAD",
            Action::Delete => "DELETE",
        };
        match operation.action {
            Action::CreateBucket | Action::List => append(path, format_args!("/{}", endpoint.bucket)),
            _ => {
                path.extend_from_slice(stem_path);
                append(path, format_args!("{:010}", operation.number));
            }
        }
        if operation.action == Action::List {
            write_list_query(query, workload, operation, token);
        }
        let body = (operation.action == Action::Put)
            .then(|| workload.content.body(operation.number, operation.version));

        head.extend_from_slice(method.as_bytes());
        head.push(b' ');
        head.extend_from_slice(path);
        if !query.is_empty() {
            head.push(b'?');
            head.extend_from_slice(query);
        }
        append(head, format_args!(" HTTP/1.1\r\nhost: {}\r\n", endpoint.authority));
        if let Some(signer) = signer {
            let hash;
            let payload = match (endpoint.signing, body) {
                (Signing::Payload, Some(body)) => {
                    hash = workload.content.sha256(body);
                    &hash
                }
                (Signing::Payload, None) => EMPTY_PAYLOAD,
                _ => UNSIGNED_PAYLOAD,
            };
            let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            signer.sign(
                &signer::Request { method: method.as_bytes(), path, query, payload },
                unix_seconds,
                head,
            );
        }
        match (body, operation.action) {
            (Some(body), _) => append(head, format_args!("content-length: {}\r\n", body.size)),
            (None, Action::CreateBucket) => head.extend_from_slice(b"content-length: 0\r\n"),
            _ => {}
        }
        if let Some((offset, len)) = operation.range.filter(|(_, len)| *len > 0) {
            append(head, format_args!("range: bytes={offset}-{}\r\n", offset + len - 1));
        }
        head.extend_from_slice(b"\r\n");
        body
    }
}

fn write_list_query(query: &mut Vec<u8>, workload: &Workload, operation: &Operation, token: Option<&str>) {
    let token = token.filter(|_| operation.continues);
    if let Some(token) = token {
        query.extend_from_slice(b"continuation-token=");
        signer::escape(token, false, query);
        query.push(b'&');
    }
    append(query, format_args!("list-type=2&max-keys={}&prefix=", workload.page_keys()));
    signer::escape(&workload.stem, false, query);
    if token.is_none() && operation.number > 0 {
        query.extend_from_slice(b"&start-after=");
        signer::escape(&workload.key(operation.number - 1), false, query);
    }
}

fn append(text: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let Ok(()) = text.write_fmt(arguments) else { unreachable!("a vector takes everything") };
}

/// A request under way on one connection. Kept from one request to the next for its buffers.
pub(crate) struct Exchange {
    pub(crate) operation: Operation,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Option<Body>,
    pub(crate) reader: ResponseReader,
    /// Bytes of the answer's body.
    received: u64,
    /// So far every byte was as expected.
    same: bool,
    /// A listing or an error document.
    document: Vec<u8>,
    /// Where the listing goes on.
    token: Option<String>,
}

impl Exchange {
    pub(crate) fn new() -> Exchange {
        let operation =
            Operation { action: Action::Head, number: 0, version: ABSENT, range: None, continues: false };
        Exchange {
            operation,
            head: Vec::with_capacity(1024),
            body: None,
            reader: ResponseReader::new(),
            received: 0,
            same: true,
            document: Vec::new(),
            token: None,
        }
    }

    pub(crate) fn begin(&mut self, operation: Operation, requests: &mut Requests<'_>) {
        self.operation = operation;
        self.body = requests.write(&operation, self.token.as_deref(), &mut self.head);
        self.reader.begin(operation.action == Action::Head);
        self.received = 0;
        self.same = true;
        self.document.clear();
    }

    /// Bytes of the request, head and body.
    pub(crate) fn request_bytes(&self) -> u64 {
        self.head.len() as u64 + self.body.map_or(0, |body| body.size)
    }

    /// Takes what came of the answer. `verify` names the content to compare with.
    pub(crate) fn feed(&mut self, data: &[u8], verify: Option<&Content>) -> Result<(), Malformed> {
        let Exchange { operation, reader, received, same, document, .. } = self;
        let expected = verify.map(|content| (content, content.body(operation.number, operation.version)));
        let first = operation.range.map_or(0, |(offset, _)| offset);
        reader.feed(data, |head: Head, bytes| {
            if operation.action == Action::Get && is_success(head.status) {
                if let Some((content, body)) = expected {
                    *same &= content.matches(body, first + *received, bytes);
                }
            } else if document.len() + bytes.len() <= DOCUMENT_BYTES_MAX {
                document.extend_from_slice(bytes);
            }
            *received += bytes.len() as u64;
        })
    }

    /// Bytes of a good GET's body that are to come, and that nobody looks at.
    pub(crate) fn unread(&self) -> Option<u64> {
        let head = self.reader.head().filter(|head| is_success(head.status));
        self.reader.body_left().filter(|_| head.is_some() && self.operation.action == Action::Get)
    }

    /// So much of the body has come and was dropped.
    pub(crate) fn skip(&mut self, len: u64) {
        self.reader.skip(len);
        self.received += len;
    }

    /// Judges a complete answer.
    pub(crate) fn verdict(&mut self, workload: &Workload, verify: bool) -> Verdict {
        let Some(head) = self.reader.head() else { unreachable!("the answer is complete") };
        let Operation { action, number, version, range, .. } = self.operation;
        let good = Verdict::Good { bytes: self.received, keys: 0, more: false };
        let name = || format!("{action} {}", workload.key(number));
        match action {
            Action::Get | Action::Head if version == ABSENT => match head.status {
                404 => good,
                200 | 206 => Verdict::Wrong(format!("{}: deleted, but there", name())),
                _ => self.refused(head),
            },
            _ if !is_success(head.status) => {
                let refused = self.refused(head);
                let exists = |code: &str| code.ends_with("BucketAlreadyOwnedByYou");
                match &refused {
                    Verdict::Refused(code) if action == Action::CreateBucket && exists(code) => good,
                    _ => refused,
                }
            }
            Action::Put => {
                let bytes = self.body.map_or(0, |body| body.size);
                Verdict::Good { bytes, keys: 0, more: false }
            }
            Action::Get | Action::Head => {
                let expected = range.map_or(workload.content.body(number, version).size, |(_, len)| len);
                let length = if action == Action::Get { Some(self.received) } else { head.content_length };
                match (length, range.is_some_and(|(_, len)| len > 0), head.status) {
                    (Some(length), ..) if length != expected => {
                        Verdict::Wrong(format!("{}: {length} bytes instead of {expected}", name()))
                    }
                    (None, ..) => Verdict::Wrong(format!("{}: no content-length", name())),
                    (_, true, 200) => Verdict::Wrong(format!("{}: status 200 to a range", name())),
                    _ if !self.same => Verdict::Wrong(format!("{}: other bytes than were put", name())),
                    _ => good,
                }
            }
            Action::List => self.listing(workload, verify),
            Action::Delete | Action::CreateBucket => good,
        }
    }

    fn refused(&self, head: Head) -> Verdict {
        let status = head.status;
        Verdict::Refused(match element(&self.document, "Code") {
            Some(code) => format!("{status} {}", code.chars().take(64).collect::<String>()),
            None => status.to_string(),
        })
    }

    fn listing(&mut self, workload: &Workload, verify: bool) -> Verdict {
        let start = self.operation.number;
        let keys = memmem::find_iter(&self.document, "<Key>").count() as u64;
        let more = element(&self.document, "IsTruncated").is_some_and(|text| text == "true");
        self.token = if more { element(&self.document, "NextContinuationToken") } else { None };
        let wrong = |what: String| Verdict::Wrong(format!("list from {}: {what}", workload.key(start)));
        if more && self.token.is_none() {
            return wrong("truncated, but without a token".to_owned());
        }
        if !workload.listings_move() {
            let expected = workload.page_keys().min(workload.objects - start);
            if keys != expected {
                return wrong(format!("{keys} keys instead of {expected}"));
            }
        }
        if verify {
            let mut last = None;
            for (index, at) in memmem::find_iter(&self.document, "<Key>").enumerate() {
                let shown = element(&self.document[at..], "Key").unwrap_or_default();
                if !workload.listings_move() && shown != workload.key(start + index as u64) {
                    return wrong(format!("`{shown}` instead of {}", workload.key(start + index as u64)));
                }
                if !shown.starts_with(&workload.stem) || last.as_ref().is_some_and(|last| *last >= shown) {
                    return wrong(format!("`{shown}` is not in its place"));
                }
                last = Some(shown);
            }
        }
        Verdict::Good { bytes: self.received, keys, more }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// The text of the first element of that name.
fn element(document: &[u8], name: &str) -> Option<String> {
    let open = format!("<{name}>");
    let start = memmem::find(document, open.as_bytes())? + open.len();
    let len = memmem::find(&document[start..], format!("</{name}>").as_bytes())?;
    let text = String::from_utf8_lossy(&document[start..start + len]);
    if !text.contains('&') {
        return Some(text.into_owned());
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    Some(text.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{FIRST, Flow, Window};
    use std::time::Instant;

    fn endpoint(signing: Signing) -> Endpoint {
        let credentials = Credentials { access_key: "root".to_owned(), secret_key: "root-secret".to_owned() };
        Endpoint {
            authority: "localhost:9000".to_owned(),
            bucket: "bench".to_owned(),
            credentials: Some(credentials),
            region: "us-east-1".to_owned(),
            signing,
            verify: true,
            discard: false,
            congestion: None,
        }
    }

    fn workload(objects: u64) -> Workload {
        let content = Content::new("a b/", 1, "100".parse().unwrap());
        let window = Window { measure_from: Instant::now(), until: None };
        let flow = Flow::List { page_keys: 3 };
        Workload::new(flow, ("a b/".to_owned(), objects), content, window, 1, None)
    }

    fn operation(action: Action) -> Operation {
        Operation { action, number: 7, version: FIRST, range: None, continues: false }
    }

    fn request(operation: Operation, signing: Signing) -> String {
        let (endpoint, workload) = (endpoint(signing), workload(10));
        let mut exchange = Exchange::new();
        exchange.begin(operation, &mut Requests::new(&endpoint, &workload));
        String::from_utf8(exchange.head).unwrap()
    }

    /// The verdict on an answer that comes in pieces.
    fn judge(operation: Operation, answer: &[u8]) -> Verdict {
        let (endpoint, workload) = (endpoint(Signing::None), workload(10));
        let mut exchange = Exchange::new();
        exchange.begin(operation, &mut Requests::new(&endpoint, &workload));
        for piece in answer.chunks(7) {
            exchange.feed(piece, Some(&workload.content)).unwrap();
        }
        assert!(exchange.reader.done());
        exchange.verdict(&workload, true)
    }

    fn body(number: u64) -> Vec<u8> {
        let workload = workload(10);
        let mut slices = crate::bench::content::Slices::default();
        workload.content.slices(workload.content.body(number, FIRST), 0, 100, &mut slices);
        slices.as_slice().iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn answer(status: u16, body: &[u8]) -> Vec<u8> {
        let mut answer =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        answer
    }

    const GOOD: Verdict = Verdict::Good { bytes: 100, keys: 0, more: false };

    fn wrong(verdict: Verdict) -> String {
        match verdict {
            Verdict::Wrong(description) => description,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_name_what_they_mean() {
        let put = request(operation(Action::Put), Signing::None);
        let expected =
            "PUT /bench/a%20b/0000000007 HTTP/1.1\r\nhost: localhost:9000\r\ncontent-length: 100\r\n\r\n";
        assert_eq!(put, expected);
        let get = Operation { range: Some((10, 20)), ..operation(Action::Get) };
        let expected =
            "GET /bench/a%20b/0000000007 HTTP/1.1\r\nhost: localhost:9000\r\nrange: bytes=10-29\r\n\r\n";
        assert_eq!(request(get, Signing::None), expected);
        let list = request(operation(Action::List), Signing::None);
        let expected =
            "GET /bench?list-type=2&max-keys=3&prefix=a%20b%2F&start-after=a%20b%2F0000000006 HTTP/1.1\r\n";
        assert!(list.starts_with(expected), "{list}");
        let create = request(operation(Action::CreateBucket), Signing::Payload);
        assert!(create.starts_with("PUT /bench HTTP/1.1\r\n") && create.contains("content-length: 0\r\n"));
        assert!(create.contains("x-amz-content-sha256: e3b0c442"), "{create}");
    }

    #[test]
    fn a_signed_payload_is_the_hash_of_the_body() {
        use sha2::Digest;
        let put = request(operation(Action::Put), Signing::Payload);
        let hash = hex::encode(sha2::Sha256::digest(body(7)));
        assert!(put.contains(&format!("x-amz-content-sha256: {hash}\r\n")), "{put}");
        let unsigned = request(operation(Action::Put), Signing::Head);
        assert!(unsigned.contains("x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"), "{unsigned}");
    }

    #[test]
    fn bodies_must_be_what_was_put() {
        assert_eq!(judge(operation(Action::Get), &answer(200, &body(7))), GOOD);
        assert!(wrong(judge(operation(Action::Get), &answer(200, &body(8)))).contains("other bytes"));
        assert!(
            wrong(judge(operation(Action::Get), &answer(200, &body(7)[1..]))).contains("99 bytes instead")
        );
        let mut last = body(7);
        last[99] ^= 1;
        assert!(wrong(judge(operation(Action::Get), &answer(200, &last))).contains("other bytes"));

        let range = Operation { range: Some((10, 20)), ..operation(Action::Get) };
        let twenty = Verdict::Good { bytes: 20, keys: 0, more: false };
        assert_eq!(judge(range, &answer(206, &body(7)[10..30])), twenty);
        assert!(wrong(judge(range, &answer(206, &body(7)[..20]))).contains("other bytes"));
        assert!(wrong(judge(range, &answer(200, &body(7)[10..30]))).contains("status 200"));
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
        assert_eq!(judge(operation(Action::Head), head), Verdict::Good { bytes: 0, keys: 0, more: false });
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n";
        wrong(judge(operation(Action::Head), head));
    }

    #[test]
    fn what_was_deleted_must_be_gone() {
        for action in [Action::Get, Action::Head] {
            let gone = Operation { version: ABSENT, ..operation(action) };
            let raw: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            assert_eq!(judge(gone, raw), Verdict::Good { bytes: 0, keys: 0, more: false });
            let found: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            assert!(wrong(judge(gone, found)).contains("deleted, but there"));
            assert_eq!(judge(operation(action), raw), Verdict::Refused("404".to_owned()));
        }
    }

    #[test]
    fn refusals_are_named_by_their_code() {
        let error = b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>m</Message></Error>";
        for action in [Action::Put, Action::Get, Action::List, Action::Delete] {
            let refused = Verdict::Refused("503 SlowDown".to_owned());
            assert_eq!(judge(operation(action), &answer(503, error)), refused);
        }
        let owned = b"<Error><Code>BucketAlreadyOwnedByYou</Code></Error>";
        assert!(matches!(judge(operation(Action::CreateBucket), &answer(409, owned)), Verdict::Good { .. }));
        let taken = b"<Error><Code>BucketAlreadyExists</Code></Error>";
        assert!(matches!(judge(operation(Action::CreateBucket), &answer(409, taken)), Verdict::Refused(_)));
    }

    #[test]
    fn listings_must_show_every_key_in_its_place() {
        let page = |keys: &[u64], rest: &str| {
            let keys: String =
                keys.iter().map(|key| format!("<Contents><Key>a b/{key:010}</Key></Contents>")).collect();
            answer(200, format!("<ListBucketResult>{keys}{rest}</ListBucketResult>").as_bytes())
        };
        let list = operation(Action::List);
        let end = "<IsTruncated>false</IsTruncated>";
        let verdict = judge(list, &page(&[7, 8, 9], end));
        assert!(matches!(verdict, Verdict::Good { keys: 3, more: false, .. }), "{verdict:?}");
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>";
        assert!(matches!(judge(list, &page(&[7, 8, 9], more)), Verdict::Good { keys: 3, more: true, .. }));
        assert!(wrong(judge(list, &page(&[7, 8], end))).contains("2 keys instead of 3"));
        assert!(wrong(judge(list, &page(&[7, 9, 10], end))).contains("instead of a b/0000000008"));
        wrong(judge(list, &page(&[7, 8, 9], "<IsTruncated>true</IsTruncated>")));
        assert_eq!(element(b"<A>x&lt;&amp;lt;</A>", "A").unwrap(), "x<&lt;");
    }
}
