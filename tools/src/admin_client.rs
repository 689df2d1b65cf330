//! A small blocking client of the admin interface: one request, one connection.
//!
//! What must hold: an answer that was cut off is an error; every step has a deadline; the secret never leaves.

use crate::admin_api::{
    ACCESS_KEY_PARAMETER, AdminError, CreatedUser, DRAIN_PATH, INFO_PATH, NODE_PARAMETER, NewUser,
    ServerInfo, USERS_PATH, UserList,
};
use crate::credentials::Credentials;
use crate::sigv4;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use time::OffsetDateTime;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, head and body together, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
const HEADERS_MAX: usize = 64;

/// One server and who we are there.
#[derive(Clone, Debug)]
pub struct AdminClient {
    /// `host:port`, as connected to and as signed.
    authority: String,
    credentials: Credentials,
    region: String,
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// Not `http://host:port`.
    #[error("`{0}` is not an endpoint; write http://host:port (https is not supported here)")]
    Endpoint(String),
    /// No connection.
    #[error("cannot connect to {authority}: {error}; is bucketsd running there?")]
    Connect {
        /// Where to.
        authority: String,
        /// What failed.
        error: io::Error,
    },
    /// The connection broke, or the answer did not come in time.
    #[error("no answer from {authority}: {error}")]
    Exchange {
        /// Where to.
        authority: String,
        /// What failed.
        error: io::Error,
    },
    /// Not HTTP, cut off, or not the expected JSON.
    #[error("the answer of {authority} is not understood: {what}")]
    Answer {
        /// Where from.
        authority: String,
        /// What is wrong.
        what: String,
    },
    /// The server says no.
    #[error("{authority} refused with status {status} {code}: {message}")]
    Refused {
        /// Where from.
        authority: String,
        /// HTTP status.
        status: u16,
        /// S3 error code.
        code: String,
        /// A sentence.
        message: String,
    },
}

impl AdminClient {
    /// A client for `http://host:port` (a bare `host:port` will do).
    pub fn new(
        endpoint: &str,
        credentials: Credentials,
        region: &str,
    ) -> Result<AdminClient, AdminClientError> {
        let refuse = || AdminClientError::Endpoint(endpoint.to_owned());
        let rest = match endpoint.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(refuse()),
            None => endpoint,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let legal = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || !authority.bytes().all(legal) {
            return Err(refuse());
        }
        Ok(AdminClient { authority: authority.to_owned(), credentials, region: region.to_owned() })
    }

    /// The state of the deployment.
    pub fn info(&self) -> Result<ServerInfo, AdminClientError> {
        self.parse(&self.send("GET", INFO_PATH, &[], b"")?)
    }

    /// All users but root.
    pub fn users(&self) -> Result<UserList, AdminClientError> {
        self.parse(&self.send("GET", USERS_PATH, &[], b"")?)
    }

    /// Makes a user.
    pub fn add_user(&self, user: &NewUser) -> Result<CreatedUser, AdminClientError> {
        let Ok(body) = serde_json::to_vec(user) else { unreachable!("two optional strings are JSON") };
        self.parse(&self.send("POST", USERS_PATH, &[], &body)?)
    }

    /// Removes a user.
    pub fn remove_user(&self, access_key: &str) -> Result<(), AdminClientError> {
        self.send("DELETE", USERS_PATH, &[(ACCESS_KEY_PARAMETER, access_key)], b"").map(|_| ())
    }

    /// Makes a node hand over what it leads, and lead nothing until [`AdminClient::undrain`] or its next start.
    pub fn drain(&self, node: &str) -> Result<(), AdminClientError> {
        self.send("POST", DRAIN_PATH, &[(NODE_PARAMETER, node)], b"").map(|_| ())
    }

    /// Lets it lead again what it should.
    pub fn undrain(&self, node: &str) -> Result<(), AdminClientError> {
        self.send("DELETE", DRAIN_PATH, &[(NODE_PARAMETER, node)], b"").map(|_| ())
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, AdminClientError> {
        serde_json::from_slice(body).map_err(|error| self.answer(error.to_string()))
    }

    fn answer(&self, what: String) -> AdminClientError {
        AdminClientError::Answer { authority: self.authority.clone(), what }
    }

    /// Sends a signed request, of the S3 interface as well, and returns the body of a 2xx answer. `path` has characters only
    /// that need no escape.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Vec<u8>, AdminClientError> {
        let request = sigv4::Request { method, host: &self.authority, path, query, body };
        let signed = sigv4::sign(&request, &self.credentials, &self.region, OffsetDateTime::now_utc());
        let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", signed.target, self.authority);
        for (name, value) in &signed.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "content-length: {}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n",
            body.len()
        ));
        let raw = self.exchange(&[head.as_bytes(), body].concat())?;
        let (status, body) = read_answer(&raw).map_err(|what| self.answer(what))?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let AdminError { code, message } = serde_json::from_slice(&body).unwrap_or_else(|_| s3_error(&body));
        Err(AdminClientError::Refused { authority: self.authority.clone(), status, code, message })
    }

    /// All bytes the server answers until it closes the connection.
    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, AdminClientError> {
        let mut stream = self
            .connect()
            .map_err(|error| AdminClientError::Connect { authority: self.authority.clone(), error })?;
        let talk = |stream: &mut TcpStream| -> io::Result<Vec<u8>> {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            stream.write_all(request)?;
            let mut answer = Vec::new();
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
            Ok(answer)
        };
        talk(&mut stream)
            .map_err(|error| AdminClientError::Exchange { authority: self.authority.clone(), error })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Status and body of a complete answer.
pub(crate) fn read_answer(raw: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = match response.parse(raw) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Err("it ends within its head".to_owned()),
        Err(error) => return Err(format!("it is not HTTP ({error})")),
    };
    let status = response.code.unwrap_or(0);
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let body = &raw[head_len..];
    if header("transfer-encoding").is_some_and(|value| value == "chunked") {
        return Ok((status, unchunk(body)?));
    }
    let Some(length) = header("content-length") else {
        return if status == 204 || status == 304 {
            Ok((status, Vec::new()))
        } else {
            Ok((status, body.to_vec()))
        };
    };
    let length: usize = length.parse().map_err(|_| "its content-length is no number".to_owned())?;
    match body.get(..length) {
        Some(body) => Ok((status, body.to_vec())),
        None => Err(format!("it was cut off: {} of {length} bytes came", body.len())),
    }
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let (at, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Err("it was cut off between two chunks".to_owned()),
            Err(_) => return Err("it has a malformed chunk".to_owned()),
        };
        if size == 0 {
            return Ok(body);
        }
        let size = usize::try_from(size).map_err(|_| "it has a chunk over all bounds".to_owned())?;
        let end = at.checked_add(size).ok_or("it has a chunk over all bounds")?;
        let (Some(data), Some(b"\r\n")) = (rest.get(at..end), rest.get(end..end.saturating_add(2))) else {
            return Err("it was cut off within a chunk".to_owned());
        };
        body.extend_from_slice(data);
        rest = &rest[end + 2..];
    }
}

/// Code and message of an error in S3's XML, as a refused signature is answered; as far as they can be made out.
fn s3_error(body: &[u8]) -> AdminError {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(content, _)| content.to_owned())
    };
    AdminError {
        code: element("Code").unwrap_or_else(|| "UnknownError".to_owned()),
        message: element("Message").unwrap_or_else(|| "the server gave no reason".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn credentials() -> Credentials {
        Credentials { access_key: "root".to_owned(), secret_key: "root-secret".to_owned() }
    }

    /// A server for one connection; the client's request comes back from the thread.
    fn serve(answer: &'static str) -> (AdminClient, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let (_, length) = head.split_once("content-length: ").unwrap();
                if body.len() == length.lines().next().unwrap().parse::<usize>().unwrap() {
                    break;
                }
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (AdminClient::new(&endpoint, credentials(), "us-east-1").unwrap(), thread)
    }

    #[test]
    fn a_signed_request_gets_its_answer() {
        let (client, server) = serve(
            "HTTP/1.1 200 OK\r\ncontent-length: 63\r\n\r\n\
             {\"users\":[{\"accessKey\":\"alice\",\"createdUnixMs\":1700000000000}]}",
        );
        let result = client.users();
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /buckets/admin/v1/users HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert!(request.contains("authorization: AWS4-HMAC-SHA256 Credential=root/"), "{request}");
        assert!(!request.contains("root-secret"));
        assert_eq!(result.unwrap().users[0].access_key, "alice");
    }

    #[test]
    fn bodies_come_by_length_by_chunks_or_to_the_end() {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"users\":[]}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"use\r\n7\r\nrs\":[]}\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{\"users\":[]}",
        ] {
            let (client, server) = serve(answer);
            assert_eq!(client.users().unwrap().users, []);
            server.join().unwrap();
        }
    }

    #[test]
    fn a_cut_off_answer_is_an_error() {
        for answer in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"users\":[]}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"use\r\n7\r\nrs\":[]}\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nc\r\n{\"users\":[",
        ] {
            let (client, server) = serve(answer);
            assert!(matches!(client.users(), Err(AdminClientError::Answer { .. })), "{answer}");
            server.join().unwrap();
        }
    }

    #[test]
    fn refusals_say_why_in_json_or_in_s3s_xml() {
        for answer in [
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 44\r\n\r\n{\"code\":\"AccessDenied\",\"message\":\"not root\"}",
            "HTTP/1.1 403 Forbidden\r\n\r\n<Error><Code>AccessDenied</Code><Message>not root</Message></Error>",
        ] {
            let (client, server) = serve(answer);
            let error = client.info().unwrap_err();
            let expected = "refused with status 403 AccessDenied: not root";
            assert!(error.to_string().ends_with(expected), "{error}");
            server.join().unwrap();
        }
    }

    #[test]
    fn users_are_removed_by_name() {
        let (client, server) = serve("HTTP/1.1 204 No Content\r\n\r\n");
        client.remove_user("a b").unwrap();
        assert!(
            server.join().unwrap().starts_with("DELETE /buckets/admin/v1/users?accessKey=a%20b HTTP/1.1\r\n")
        );
    }

    #[test]
    fn nobody_there_is_said_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = AdminClient::new(&endpoint, credentials(), "us-east-1").unwrap();
        assert!(client.info().unwrap_err().to_string().contains("is bucketsd running there?"));
    }

    #[test]
    fn endpoints_are_http_with_a_port() {
        for good in ["http://node1:9000", "http://node1:9000/", "127.0.0.1:9000", "http://[::1]:9000"] {
            assert!(AdminClient::new(good, credentials(), "r").is_ok(), "{good}");
        }
        for bad in ["https://node1:9000", "http://node1", "node1:0", "http://node1:9000/path", "", "a b:1"] {
            assert!(AdminClient::new(bad, credentials(), "r").is_err(), "{bad}");
        }
    }
}
