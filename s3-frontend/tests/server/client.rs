//! A small S3 client with a signer of its own, so that server and test do not share a mistake.

use crate::model::hex;
use buckets_env::{Env, Stream};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A response, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The text of the first element of that name.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let start = text.find(&format!("<{name}>"))? + name.len() + 2;
        let end = text[start..].find(&format!("</{name}>"))?;
        Some(text[start..start + end].to_owned())
    }

    /// The texts of all elements of that name.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let open = format!("<{name}>");
        text.split(&open).skip(1).filter_map(|rest| Some(rest.split_once("</")?.0.to_owned())).collect()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Reply {
        let reply = self.expect(status);
        assert_eq!(reply.element("Code").as_deref(), Some(code), "{}", reply.text());
        assert!(
            reply
                .element("RequestId")
                .is_some_and(|id| Some(id.as_str()) == reply.header("x-amz-request-id"))
        );
        reply
    }
}

/// A request to be signed.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As on the wire.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What is signed of the body; its hash where `None`.
    pub payload: Option<String>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            payload: None,
        }
    }
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }
    pub fn payload(mut self, payload: &str) -> Request {
        self.payload = Some(payload.to_owned());
        self
    }
}

/// One connection and the keys to sign with.
pub struct Client {
    env: Env,
    pub stream: Stream,
    access_key: String,
    secret_key: String,
    /// What signatures name.
    pub region: String,
    unread: Vec<u8>,
}

/// What a signature was made of, for bodies that go on with it.
pub struct Signed {
    pub head: Vec<u8>,
    pub signature: String,
    pub key: Vec<u8>,
    pub date: String,
    pub scope: String,
}

impl Client {
    pub fn new(env: Env, stream: Stream, access_key: &str, secret_key: &str) -> Client {
        Client {
            env,
            stream,
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: "us-east-1".to_owned(),
            unread: Vec::new(),
        }
    }

    /// Sends a signed request and reads its response.
    pub async fn send(&mut self, request: Request) -> Reply {
        let signed = self.sign(&request);
        self.stream.write_all(&[signed.head, request.body.clone()].concat()).await.unwrap();
        self.reply(&request.method).await
    }

    pub async fn get(&mut self, target: &str) -> Reply {
        self.send(Request::new("GET", target)).await
    }

    pub async fn put(&mut self, target: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.send(Request::new("PUT", target).body(body)).await
    }

    pub async fn post(&mut self, target: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.send(Request::new("POST", target).body(body)).await
    }

    pub async fn delete(&mut self, target: &str) -> Reply {
        self.send(Request::new("DELETE", target)).await
    }

    /// The head of a signed request.
    pub fn sign(&self, request: &Request) -> Signed {
        let date = amz_date(self.env.unix_millis() / 1000);
        let payload = request.payload.clone().unwrap_or_else(|| hex(&Sha256::digest(&request.body)));
        let mut signed: BTreeMap<String, String> = BTreeMap::new();
        signed.insert("host".to_owned(), "server:9000".to_owned());
        signed.insert("x-amz-date".to_owned(), date.clone());
        signed.insert("x-amz-content-sha256".to_owned(), payload.clone());
        for (name, value) in &request.headers {
            signed.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let names = signed.keys().cloned().collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        pairs.sort();
        let method = &request.method;
        let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{payload}", pairs.join("&"));
        let scope = format!("{}/{}/s3/aws4_request", &date[..8], self.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [&date[..8], &self.region, "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, to_sign.as_bytes()));

        let mut head = format!("{method} {} HTTP/1.1\r\n", request.target);
        for (name, value) in &signed {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "Authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n",
            self.access_key
        ));
        let has_length = signed.contains_key("content-length") || signed.contains_key("transfer-encoding");
        if !has_length && (!request.body.is_empty() || method == "PUT" || method == "POST") {
            head.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
        }
        head.push_str("\r\n");
        Signed { head: head.into_bytes(), signature, key, date, scope }
    }

    /// A URL that needs no further proof for `seconds`.
    pub fn presign(&self, method: &str, path: &str, seconds: u64) -> String {
        let date = amz_date(self.env.unix_millis() / 1000);
        let scope = format!("{}/{}/s3/aws4_request", &date[..8], self.region);
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{}&X-Amz-Date={date}&X-Amz-Expires={seconds}\
             &X-Amz-SignedHeaders=host",
            self.access_key,
            scope.replace('/', "%2F")
        );
        let canonical = format!("{method}\n{path}\n{query}\nhost:server:9000\n\nhost\nUNSIGNED-PAYLOAD");
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [&date[..8], &self.region, "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        format!("{path}?{query}&X-Amz-Signature={}", hex(&hmac(&key, to_sign.as_bytes())))
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads the next response; panics where none comes.
    pub async fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).await.expect("a response")
    }

    /// Reads the next response; `None` where the connection ends before its end.
    pub async fn try_reply(&mut self, method: &str) -> Option<Reply> {
        loop {
            if let Some((reply, used)) = parse(&self.unread, method) {
                self.unread.drain(..used);
                return Some(reply);
            }
            let mut piece = vec![0; 64 << 10];
            match self.stream.read(&mut piece).await {
                Ok(count) if count > 0 => self.unread.extend_from_slice(&piece[..count]),
                _ => return None,
            }
        }
    }

    /// Whether the server ends the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        self.unread.is_empty() && !matches!(self.stream.read(&mut byte).await, Ok(count) if count > 0)
    }
}

pub fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    hmac.update(data);
    hmac.finalize().into_bytes().to_vec()
}

fn parse(bytes: &[u8], method: &str) -> Option<(Reply, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(head) = response.parse(bytes).expect("a well-formed response") else {
        return None;
    };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|line| (line.name.to_owned(), String::from_utf8(line.value.to_vec()).unwrap()))
        .collect();
    let mut reply = Reply { status: response.code.unwrap(), headers, body: Vec::new() };
    let has_no_body = method == "HEAD" || matches!(reply.status, 100 | 204 | 304);
    if has_no_body {
        return Some((reply, head));
    }
    let length: usize = reply.header("content-length").expect("a length").parse().unwrap();
    let body = bytes.get(head..head + length)?;
    reply.body = body.to_vec();
    Some((reply, head + length))
}

/// `20130524T000000Z`
fn amz_date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400;
    let rest = unix_seconds % 86_400;
    let (mut year, mut left) = (1970, days);
    let is_leap =
        |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let (month, day) = (month + 1, left + 1);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}
