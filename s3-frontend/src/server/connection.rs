//! One connection: request after request, until one side has had enough.
//!
//! ```text
//! idle --first byte--> head --whole head--> exchange --answered, body used up--> idle
//!   |                   |                      |
//!   timeout, end        timeout: 400           close wanted, body left, failure
//!   v                   v                      v
//! closed <----------- linger <-----------------'
//! ```
//!
//! What must hold: pipelined requests are answered in order, each after the one before; a response is sent whole or the connection
//! ends; after an error that leaves the place of the next request unknown there is no next request.

use super::Shared;
use super::call::{Frame, Response, ResponseBody, error_response};
use super::dispatch::{self, Outcome};
use super::input::Input;
use super::request_body::{Leftover, RequestBody};
use super::watch::{Waiting, Watched};
use crate::http::head::{Head, Method};
use crate::http::target::Target;
use crate::limits::HEAD_BYTES_MAX;
use crate::s3::error::{Code, S3Error};
use crate::s3::route::Operation;
use crate::store::{BlockStream, ObjectStore};
use buckets_env::{Instant, Stream};
use futures::future::join;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Bytes that a lingering connection reads in vain at once.
const LINGER_READ_BYTES: usize = 8 << 10;

pub(super) struct Connection<S> {
    shared: Rc<Shared<S>>,
    stream: Stream,
    input: Input,
    head: Head,
    target: Target,
    watch: Watched,
    /// For the heads of responses.
    buffer: Cell<Vec<u8>>,
    /// How long a request is waited for.
    patience: Duration,
}

/// What reading a head came to.
enum Next {
    Request,
    /// The client has gone, or was idle for too long.
    End,
    Refused(S3Error),
}

/// What follows an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    NextRequest,
    /// Nothing, once the client has got the response.
    Close,
    /// Nothing at all: the response could not be sent whole.
    Abort,
}

impl<S: ObjectStore> Connection<S> {
    pub(super) fn new(shared: Rc<Shared<S>>, stream: Stream) -> Connection<S> {
        let watch = shared.watches.add();
        let patience = shared.options.limits.idle_timeout;
        Connection {
            input: Input::new(shared.input_buffers.clone()),
            shared,
            stream,
            head: Head::default(),
            target: Target::default(),
            watch,
            buffer: Cell::new(Vec::new()),
            patience,
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn run(mut self) {
        loop {
            match self.next_head().await {
                Next::Request => {}
                Next::End => return,
                Next::Refused(error) => return Box::pin(self.answer_and_close(&error)).await,
            }
            // Boxed, as all that is not waiting for a head: an idle connection must not hold the memory of the largest
            // operation.
            match Box::pin(self.exchange()).await {
                After::NextRequest => {}
                After::Close => return Box::pin(self.linger()).await,
                After::Abort => return,
            }
        }
    }

    /// Serves a connection over the limit: its first request is told to come back later.
    pub(super) async fn refuse(mut self) {
        self.patience = self.shared.options.limits.head_timeout;
        match self.next_head().await {
            Next::End => {}
            Next::Request | Next::Refused(_) => {
                Box::pin(self.answer_and_close(&Code::SlowDown.into())).await;
            }
        }
    }

    /// Reads until a whole head is there and parses it.
    async fn next_head(&mut self) -> Next {
        let head_timeout = self.shared.options.limits.head_timeout;
        let mut begun: Option<Instant> = None;
        let mut looked_at = 0;
        loop {
            let unread = self.input.unread();
            // Looked at when the first bytes came (it may be no HTTP at all), and when the end of a head is there: bytes that
            // trickle in are not parsed over and over.
            let may_parse =
                looked_at == 0 || has_head_end(unread, looked_at) || unread.len() >= HEAD_BYTES_MAX;
            if !unread.is_empty() && may_parse {
                match self.head.parse(unread) {
                    Ok(Some(used)) => {
                        self.input.consume(used);
                        return Next::Request;
                    }
                    Ok(None) => {}
                    Err(error) => return Next::Refused(error.into()),
                }
            }
            looked_at = unread.len();

            let now = self.shared.env.now();
            let (deadline, waiting) = if self.input.is_empty() {
                if self.shared.draining.get() {
                    return Next::End;
                }
                (now.after(self.patience), Waiting::Idle)
            } else {
                (begun.get_or_insert(now).after(head_timeout), Waiting::Busy)
            };
            let read = self.input.read(&mut self.stream);
            match self.watch.guard(deadline, waiting, read).await {
                Ok(Ok(count)) if count > 0 => {}
                Err(_) if waiting == Waiting::Busy => return Next::Refused(Code::RequestTimeout.into()),
                // The end, or an end in the middle of a head: nobody waits for an answer.
                Ok(_) | Err(_) => return Next::End,
            }
        }
    }

    /// One request and its response.
    async fn exchange(&mut self) -> After {
        let Connection { shared, stream, input, head, target, watch, buffer, patience: _ } = self;
        let begun = shared.env.now();
        let unix_ms = shared.env.unix_millis();
        let request_id = format!("{:016X}", shared.next_request_number());
        let frame = Frame { request_id: &request_id, date: shared.date(unix_ms), buffer };
        let _counted = InFlight::begin(shared);

        let mut body = RequestBody::new(head, stream, input, watch, &shared.env, &shared.options.limits);
        let outcome = dispatch::dispatch(shared, head, target, &frame, &mut body, unix_ms).await;
        let Outcome { operation, result } = outcome;
        let leftover = body.leftover();
        shared.counters().received_bytes.add(body.received());

        let (response, error) = match result {
            Ok(response) => (response, None),
            Err(error) => {
                let resource = if target.path().is_empty() { "/" } else { target.path() };
                (error_response(&frame, &error, resource), Some(error.code))
            }
        };
        let status = response.head.status();
        let keep_alive = head.keep_alive() && leftover != Leftover::TooMuch && !shared.draining.get();
        let sent = send(shared, stream, watch, head, response, keep_alive).await;
        let took = shared.env.now().since(begun);
        shared.counters().request(operation, status, error, took);
        tracing::debug!(
            operation = operation.name(),
            status,
            code = error.map(Code::name),
            path = target.path(),
            request_id,
            took_us = took.as_micros() as u64,
            "request"
        );

        match sent {
            Err(Unsent) => After::Abort,
            Ok(spare) => {
                buffer.set(spare);
                self.after(keep_alive, leftover).await
            }
        }
    }

    /// Makes the way free for the next request.
    async fn after(&mut self, keep_alive: bool, leftover: Leftover) -> After {
        if !keep_alive {
            return After::Close;
        }
        if let Leftover::Few(bytes) = leftover {
            return match self.discard(bytes).await {
                Ok(()) => After::NextRequest,
                Err(Unsent) => After::Abort,
            };
        }
        After::NextRequest
    }

    /// Reads over the rest of a body.
    async fn discard(&mut self, mut bytes: u64) -> Result<(), Unsent> {
        let deadline = self.shared.env.now().after(self.shared.options.limits.body_timeout);
        while bytes > 0 {
            let unread = self.input.unread().len();
            if unread > 0 {
                let count = unread.min(usize::try_from(bytes).unwrap_or(usize::MAX));
                self.input.consume(count);
                bytes -= count as u64;
                continue;
            }
            let read = self.input.read(&mut self.stream);
            match self.watch.guard(deadline, Waiting::Busy, read).await {
                Ok(Ok(count)) if count > 0 => {}
                _ => return Err(Unsent),
            }
        }
        Ok(())
    }

    /// Answers what could not be read as a request.
    async fn answer_and_close(mut self, error: &S3Error) {
        let request_id = format!("{:016X}", self.shared.next_request_number());
        let date = self.shared.date(self.shared.env.unix_millis());
        let frame = Frame { request_id: &request_id, date, buffer: &self.buffer };
        let response: Response<super::call::Blocks<S>> = error_response(&frame, error, "/");
        let status = response.head.status();
        // Nothing is known of the method: the document is sent.
        let head = Head::default();
        let sent = send(&self.shared, &mut self.stream, &self.watch, &head, response, false).await;
        let took = Duration::ZERO;
        self.shared.counters().request(Operation::Unknown, status, Some(error.code), took);
        if sent.is_ok() {
            self.linger().await;
        }
    }

    /// Ends the connection so that the client gets what was sent: closing while it still sends would reset it.
    async fn linger(mut self) {
        let deadline = self.shared.env.now().after(self.shared.options.limits.linger_timeout);
        if self.stream.shutdown_write().await.is_err() {
            return;
        }
        let mut scratch = [0; LINGER_READ_BYTES];
        loop {
            let read = self.stream.read(&mut scratch);
            let over = match self.watch.guard(deadline, Waiting::Busy, read).await {
                Ok(Ok(count)) => count == 0,
                Ok(Err(_)) | Err(_) => true,
            };
            // One that keeps sending is never over its deadline while it waits.
            if over || self.shared.env.now() >= deadline {
                return;
            }
        }
    }
}

/// Counts a request while it lives.
struct InFlight<S> {
    shared: Rc<Shared<S>>,
}

impl<S> InFlight<S> {
    fn begin(shared: &Rc<Shared<S>>) -> InFlight<S> {
        shared.in_flight.set(shared.in_flight.get() + 1);
        shared.counters().in_flight(true);
        InFlight { shared: shared.clone() }
    }
}

impl<S> Drop for InFlight<S> {
    fn drop(&mut self) {
        self.shared.in_flight.set(self.shared.in_flight.get() - 1);
        self.shared.counters().in_flight(false);
    }
}

/// The response did not reach the client whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsent;

/// Sends a response and gives back its buffer: the head and a small body in one write.
async fn send<S: ObjectStore>(
    shared: &Shared<S>,
    stream: &mut Stream,
    watch: &Watched,
    request: &Head,
    response: Response<super::call::Blocks<S>>,
    keep_alive: bool,
) -> Result<Vec<u8>, Unsent> {
    let Response { mut head, body } = response;
    if !keep_alive {
        head.header("Connection", "close");
    } else if request.is_version_1_0() {
        head.header("Connection", "keep-alive");
    }
    let begun = shared.env.now();
    let limits = &shared.options.limits;
    let deadline =
        |sent: u64| shared.env.now().after(limits.body_timeout).min(begun.after(limits.body_allowance(sent)));
    let wants_body = request.method() != Method::Head;
    match body {
        ResponseBody::Absent => {}
        ResponseBody::Empty => head.number("Content-Length", 0),
        ResponseBody::Described(length) => head.number("Content-Length", length),
        ResponseBody::Bytes(bytes) if wants_body => {
            head.number("Content-Length", bytes.len() as u64);
            let head = head.finish();
            let parts: [&[u8]; 2] = [&head, &bytes];
            let write = stream.write_all_vectored(&parts);
            written(watch.guard(deadline(0), Waiting::Busy, write).await)?;
            shared.counters().sent_bytes.add(bytes.len() as u64);
            return Ok(head);
        }
        // The document of an error is not what the length of a HEAD speaks of.
        ResponseBody::Bytes(_) => {}
        ResponseBody::Blocks { length, first, mut blocks } => {
            head.number("Content-Length", length);
            let head = head.finish();
            let mut sent = first.len() as u64;
            let parts: [&[u8]; 2] = [&head, &first];
            let write = stream.write_all_vectored(&parts);
            let guarded = watch.guard(deadline(0), Waiting::Busy, write);
            if sent == length {
                written(guarded.await)?;
                shared.counters().sent_bytes.add(sent);
                return Ok(head);
            }
            // While a block is written, the next one is read.
            let (first_written, mut next) = join(guarded, blocks.next()).await;
            written(first_written)?;
            loop {
                let block = match next {
                    Ok(Some(block)) => block,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, sent, length, "a body could not be read to its end");
                        return Err(Unsent);
                    }
                };
                let write = stream.write_all(&block);
                let guarded = watch.guard(deadline(sent), Waiting::Busy, write);
                let (block_written, following) = join(guarded, blocks.next()).await;
                written(block_written)?;
                sent += block.len() as u64;
                next = following;
            }
            shared.counters().sent_bytes.add(sent);
            return if sent == length { Ok(head) } else { Err(Unsent) };
        }
    }
    let head = head.finish();
    let write = stream.write_all(&head);
    written(watch.guard(deadline(0), Waiting::Busy, write).await)?;
    Ok(head)
}

fn written(result: Result<std::io::Result<()>, super::watch::TimedOut>) -> Result<(), Unsent> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Unsent),
    }
}

/// The end of a head lies in `bytes`, of which the first `looked_at` hold none.
fn has_head_end(bytes: &[u8], looked_at: usize) -> bool {
    let from = looked_at.saturating_sub(3).min(bytes.len());
    bytes[from..].windows(4).any(|end| end == b"\r\n\r\n")
        || bytes[from..].windows(2).any(|end| end == b"\n\n")
}
