//! An S3 server that keeps nothing and checks nothing: what the client can do at most, with nobody in its way.
//!
//! What must hold: as little work as can be, in one thread; a PUT's body is read to its end; a GET is answered with as many
//! bytes as it was told.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

const READ_BYTES_MAX: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;

struct Connection {
    socket: TcpStream,
    /// The beginning of a head.
    partial: Vec<u8>,
    /// Bytes of the present body that are to come.
    body_left: u64,
    /// Bytes of the present answer that are to go, counted from its end.
    unsent: usize,
}

struct Answers {
    /// To a GET, with its body.
    get: Vec<u8>,
    head: Vec<u8>,
    put: Vec<u8>,
    delete: Vec<u8>,
}

/// Serves connections of `listener` until it fails. `congestion` names the control of its sockets.
pub(crate) fn serve(listener: &TcpListener, object_bytes: usize, congestion: Option<&str>) -> io::Result<()> {
    if let Some(name) = congestion {
        // What is accepted inherits it.
        rustix::net::sockopt::set_tcp_congestion(listener, name)?;
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {object_bytes}\r\netag: \"00000000000000000000000000000000\"\r\n\r\n"
    );
    let answers = Answers {
        get: [head.as_bytes(), &vec![b'x'; object_bytes]].concat(),
        head: head.into_bytes(),
        put: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"00000000000000000000000000000000\"\r\n\r\n"
            .to_vec(),
        delete: b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    };
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(0), EventFlags::IN)?;
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    let mut next_id = 1;
    let mut scratch = vec![0; READ_BYTES_MAX];
    let mut events = Vec::with_capacity(256);
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let id = event.data.u64();
            if id == 0 {
                if let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    epoll::add(
                        &epoll,
                        &socket,
                        EventData::new_u64(next_id),
                        EventFlags::IN | EventFlags::OUT | EventFlags::ET,
                    )?;
                    connections
                        .insert(next_id, Connection { socket, partial: Vec::new(), body_left: 0, unsent: 0 });
                    next_id += 1;
                }
            } else if let Some(connection) = connections.get_mut(&id)
                && !matches!(connection.advance(&answers, &mut scratch), Ok(true))
            {
                connections.remove(&id);
            }
        }
    }
}

impl Connection {
    /// False at the end of the connection.
    fn advance(&mut self, answers: &Answers, scratch: &mut [u8]) -> io::Result<bool> {
        if !self.flush(&answers.get)? {
            return Ok(true);
        }
        loop {
            let read = match self.socket.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let mut data = &scratch[..read];
            while !data.is_empty() {
                if self.body_left > 0 {
                    let len = data.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                    data = &data[len..];
                    self.body_left -= len as u64;
                    if self.body_left == 0 {
                        self.answer(&answers.put)?;
                    }
                    continue;
                }
                data = match self.head(data)? {
                    Some((rest, Method::Put, 0)) => {
                        self.answer(&answers.put)?;
                        rest
                    }
                    Some((rest, Method::Put, length)) => {
                        self.body_left = length;
                        rest
                    }
                    Some((rest, Method::Get, _)) => {
                        // The client asks for nothing else before it has this.
                        self.unsent = answers.get.len();
                        self.flush(&answers.get)?;
                        rest
                    }
                    Some((rest, Method::Head, _)) => {
                        self.answer(&answers.head)?;
                        rest
                    }
                    Some((rest, Method::Delete, _)) => {
                        self.answer(&answers.delete)?;
                        rest
                    }
                    None => &[],
                };
            }
            if read < scratch.len() {
                return Ok(true);
            }
        }
    }

    /// The rest behind a head, its method and the length of its body; `None` where the head is not complete.
    fn head<'a>(&mut self, data: &'a [u8]) -> io::Result<Option<(&'a [u8], Method, u64)>> {
        let before = self.partial.len();
        let text = if before == 0 {
            data
        } else {
            self.partial.extend_from_slice(data);
            &self.partial
        };
        let Some(end) = memchr::memmem::find(text, b"\r\n\r\n").map(|at| at + 4) else {
            if before == 0 {
                self.partial.extend_from_slice(data);
            }
            let fits = self.partial.len() < HEAD_BYTES_MAX;
            return if fits { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
        };
        let method = match text.first() {
            Some(b'P') => Method::Put,
            Some(b'H') => Method::Head,
            Some(b'D') => Method::Delete,
            _ => Method::Get,
        };
        let length = memchr::memmem::find(&text[..end], b"content-length: ").map_or(0, |at| {
            let digits = text[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
            digits
                .fold(0u64, |length, digit| length.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
        });
        self.partial.clear();
        Ok(Some((&data[end - before..], method, length)))
    }

    /// A short answer, which a socket takes whole from a client that waits for it.
    fn answer(&mut self, answer: &[u8]) -> io::Result<()> {
        self.socket.write_all(answer)
    }

    /// Whether the present answer has gone.
    fn flush(&mut self, answer: &[u8]) -> io::Result<bool> {
        while self.unsent > 0 {
            match self.socket.write(&answer[answer.len() - self.unsent..]) {
                Ok(written) => self.unsent -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Put,
    Head,
    Delete,
}
