//! Whether a node serves, as it says itself.

use crate::admin_client;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a node may take to answer. A paused one still gets connections from the kernel, and answers none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks `/ready`. Errors: why it is not ready, in a few words.
pub fn ask(node: SocketAddr) -> Result<(), String> {
    let answer = exchange(node).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => "it does not listen yet".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => error.to_string(),
    })?;
    match admin_client::read_answer(&answer)? {
        (200, _) => Ok(()),
        (503, why) => Err(String::from_utf8_lossy(&why).trim().to_owned()),
        (status, _) => Err(format!("something else answers there, with status {status}")),
    }
}

fn exchange(node: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&node, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream
        .write_all(format!("GET /ready HTTP/1.1\r\nhost: {node}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let read = stream.read(&mut [0; 1024]).unwrap();
            assert!(read > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = ask(address);
        server.join().unwrap();
        result
    }

    #[test]
    fn a_node_is_ready_or_says_why_not() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"), Ok(()));
        let why = answered("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\nno leader");
        assert_eq!(why, Err("no leader".to_owned()));
        assert!(answered("HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("something else"));
        assert!(answered("hello").is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(ask(nobody), Err("it does not listen yet".to_owned()));
    }
}
