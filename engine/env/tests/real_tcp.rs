//! TCP on real cores, against clients of std.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::real::{CoreWaker, preflight_listen};
use buckets_env::{DetachedStream, Env, Listener, Stream, core_queue};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;
use support::{on_core, start};

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(7) ^ (at >> 8) as u8).collect()
}

/// Runs `client` on a thread of its own, and gives the core the one connection it makes.
async fn one_connection<T: Send + 'static>(
    env: &Env,
    client: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Stream, std::thread::JoinHandle<T>) {
    let listener = env.listen(any_port()).unwrap();
    let address = listener.local_address().unwrap();
    assert_ne!(address.port(), 0);
    let client = std::thread::spawn(move || client(TcpStream::connect(address).unwrap()));
    (listener.accept().await.unwrap(), client)
}

async fn joined<T>(env: &Env, thread: std::thread::JoinHandle<T>) -> T {
    while !thread.is_finished() {
        env.sleep(Duration::from_millis(1)).await;
    }
    thread.join().unwrap()
}

#[test]
fn an_echo_gives_back_every_byte_and_goes_on_after_the_peer_has_finished_writing() {
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, |mut socket| {
            let sent = bytes(3_000_000);
            let mut reading = socket.try_clone().unwrap();
            let reader = std::thread::spawn(move || {
                let mut back = Vec::new();
                reading.read_to_end(&mut back).unwrap();
                back
            });
            socket.write_all(&sent).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            assert!(reader.join().unwrap() == sent);
        })
        .await;
        assert!(stream.peer_address().unwrap().ip().is_loopback());
        let mut buffer = vec![0; 65_536];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            stream.write_all(&buffer[..read]).await.unwrap();
        }
        stream.shutdown_write().await.unwrap();
        joined(&env, client).await;
    });
}

#[test]
fn reading_goes_on_after_shutdown_write() {
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, |mut socket| {
            let mut greeting = Vec::new();
            socket.read_to_end(&mut greeting).unwrap();
            assert_eq!(greeting, b"hello");
            socket.write_all(b"late answer").unwrap();
        })
        .await;
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown_write().await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4];
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
        assert_eq!(answer, b"late answer");
        joined(&env, client).await;
    });
}

#[test]
fn slices_arrive_in_order_at_a_reader_that_takes_its_time() {
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, |mut socket| {
            let mut all = Vec::new();
            let mut buffer = vec![0; 300_000];
            loop {
                std::thread::sleep(Duration::from_millis(1));
                match socket.read(&mut buffer).unwrap() {
                    0 => return all,
                    read => all.extend_from_slice(&buffer[..read]),
                }
            }
        })
        .await;
        let body = bytes(8_000_000);
        // Empty slices, slices of one byte, more slices than one call takes, one far beyond a socket's buffer.
        let mut slices: Vec<&[u8]> = vec![b"", b"head: 1\r\n", b"", b"\r\n"];
        slices.extend(body[..200].chunks(1));
        slices.push(&body[200..]);
        slices.push(b"");
        slices.push(b"tail");
        stream.write_all_vectored(&slices).await.unwrap();
        stream.write_all_vectored(&[]).await.unwrap();
        stream.write_all_vectored(&[b"", b""]).await.unwrap();
        stream.shutdown_write().await.unwrap();
        let got = joined(&env, client).await;
        assert!(got == slices.concat());
    });
}

#[test]
fn a_gone_peer_is_an_error_not_a_signal() {
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, drop).await;
        joined(&env, client).await;
        let data = bytes(1 << 20);
        let mut failed = None;
        for _ in 0..100 {
            let vectored = stream.write_all_vectored(&[b"head", &data]).await;
            if let Err(error) = vectored.and(stream.write_all(&data).await) {
                failed = Some(error.kind());
                break;
            }
        }
        assert!(matches!(failed, Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)), "{failed:?}");
    });
}

#[test]
fn a_peer_that_floods_leaves_room_for_others() {
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, |mut socket| {
            let data = vec![1; 1 << 20];
            // Until the core hangs up.
            while socket.write_all(&data).is_ok() {}
        })
        .await;
        let done = Rc::new(RefCell::new(false));
        let reader_done = done.clone();
        env.spawn(async move {
            // Small enough that there is always something left to read.
            let mut buffer = vec![0; 4096];
            while !*reader_done.borrow() {
                stream.read(&mut buffer).await.unwrap();
            }
        });
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let start = env.now();
            env.sleep(Duration::from_millis(1)).await;
            best = best.min(env.now().since(start));
        }
        assert!(best < Duration::from_millis(4), "{best:?}");
        *done.borrow_mut() = true;
        joined(&env, client).await;
    });
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    on_core(|env| async move {
        let (go, wait) = mpsc::channel::<()>();
        let (mut stream, client) = one_connection(&env, move |mut socket| {
            wait.recv().unwrap();
            socket.write_all(b"after the timeout").unwrap();
        })
        .await;
        let mut buffer = [0; 64];
        for _ in 0..3 {
            assert!(env.timeout(Duration::from_millis(5), stream.read(&mut buffer)).await.is_none());
        }
        go.send(()).unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"after the timeout");
        joined(&env, client).await;
    });
}

#[test]
fn cores_share_a_port_and_a_second_node_is_found_out() {
    let (report, addresses) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    async fn serve(env: Env, listener: Listener, name: &'static [u8]) {
        let accepting = env.clone();
        env.spawn(async move {
            loop {
                let mut stream = listener.accept().await.unwrap();
                accepting.spawn(async move { stream.write_all(name).await.unwrap() });
            }
        });
    }
    let first = start(0, CoreWaker::new().unwrap(), move |env| async move {
        let listener = env.listen(any_port()).unwrap();
        report.send(listener.local_address().unwrap()).unwrap();
        serve(env.clone(), listener, b"0").await;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    let address = addresses.recv().unwrap();
    let (stop_second, second_stopped) = mpsc::channel::<()>();
    let (up, is_up) = mpsc::channel();
    let second = start(1, CoreWaker::new().unwrap(), move |env| async move {
        let listener = env.listen(address).unwrap();
        up.send(()).unwrap();
        serve(env.clone(), listener, b"1").await;
        while second_stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    is_up.recv().unwrap();
    let mut seen = [0, 0];
    for _ in 0..200 {
        let mut answer = Vec::new();
        TcpStream::connect(address).unwrap().read_to_end(&mut answer).unwrap();
        seen[usize::from(answer[0] - b'0')] += 1;
    }
    assert!(seen[0] > 20 && seen[1] > 20, "the kernel spreads connections: {seen:?}");
    let taken = preflight_listen(address).err().unwrap().to_string();
    assert!(taken.contains(&address.to_string()) && taken.contains("stop the other process"), "{taken}");
    stop.send(()).unwrap();
    stop_second.send(()).unwrap();
    first.join();
    second.join();
}

#[test]
fn a_core_connects_and_two_of_its_tasks_share_the_stream() {
    on_core(|env| async move {
        let listener = std::net::TcpListener::bind(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut reading, _) = listener.accept().unwrap();
            let mut writing = reading.try_clone().unwrap();
            std::io::copy(&mut reading, &mut writing).unwrap();
        });
        let stream = env.connect(address).await.unwrap();
        assert_eq!(stream.peer_address().unwrap(), address);
        stream.keep_alive(Duration::from_secs(10)).unwrap();
        let (mut reading, mut writing) = stream.split();
        let sent = bytes(20_000_000);
        let expected = sent.clone();
        env.spawn(async move {
            writing.write_all_vectored(&[&sent[..5], &sent[5..]]).await.unwrap();
            writing.shutdown_write().await.unwrap();
        });
        let mut back = Vec::new();
        let mut buffer = vec![0; 100_000];
        loop {
            reading.readable().await.unwrap();
            match reading.read(&mut buffer).await.unwrap() {
                0 => break,
                read => back.extend_from_slice(&buffer[..read]),
            }
        }
        assert!(back == expected);
        joined(&env, echo).await;
    });
}

#[test]
fn nobody_listening_refuses_and_a_silent_address_ends_with_the_time_given() {
    on_core(|env| async move {
        let closed = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let refused = env.connect(closed).await.map(drop).unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        // A full backlog answers nothing.
        let full =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .unwrap();
        rustix::net::bind(&full, &any_port()).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&full).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let start = env.now();
        while let Some(stream) = env.timeout(Duration::from_millis(200), env.connect(address)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 10, "a backlog of none takes no more");
        }
        assert!(env.now().since(start) < Duration::from_secs(5));
    });
}

#[test]
fn an_accepted_stream_goes_on_at_another_core() {
    let waker = CoreWaker::new().unwrap();
    let (to_other, at_other) = core_queue::<DetachedStream>(4, waker.clone());
    let other = start(1, waker, move |env| async move {
        let mut stream = env.attach(at_other.recv().await);
        let mut buffer = [0; 64];
        let read = stream.read(&mut buffer).await.unwrap();
        stream.write_all(&buffer[..read]).await.unwrap();
    });
    on_core(|env| async move {
        let (mut stream, client) = one_connection(&env, |mut socket| {
            socket.write_all(b"hello").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            socket.write_all(b"and more").unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).unwrap();
            answer
        })
        .await;
        let mut hello = [0; 5];
        assert_eq!(stream.read(&mut hello).await.unwrap(), 5);
        // A wait that was given up does not hold it here.
        assert!(env.timeout(Duration::from_millis(1), stream.read(&mut hello)).await.is_none());
        to_other.send(stream.detach().unwrap()).unwrap();
        assert_eq!(joined(&env, client).await, b"and more");
    });
    other.join();
}
