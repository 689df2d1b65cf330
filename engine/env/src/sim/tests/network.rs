//! Streams, cuts and resets.

use super::super::{LinkOptions, NetworkOptions, SimNode, SimOptions, Simulation};
use super::each_seed;
use crate::{DetachedStream, Env, Stream, core_queue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

fn address(node: &SimNode) -> SocketAddr {
    SocketAddr::new(node.ip(), 9000)
}

/// Accepts connections for ever and sends back what comes, then ends.
async fn echo(env: Env) {
    let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
    loop {
        let mut stream = listener.accept().await.unwrap();
        env.spawn(async move {
            let mut buffer = vec![0; 10_000];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn start_echo(node: &SimNode) {
    node.env(0).spawn(echo(node.env(0)));
}

async fn read_to_end(stream: &mut Stream) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut buffer = vec![0; 5000];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(content),
            n => content.extend_from_slice(&buffer[..n]),
        }
    }
}

#[test]
fn bytes_arrive_whole_and_in_order_and_half_close_ends_them() {
    each_seed(0..30, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let mut sent = vec![0; 100_000];
        simulation.rng().fill(&mut sent);
        let received = client.run(0, |_| async {
            let mut stream = client.connect(address(&server)).await.unwrap();
            assert_eq!(stream.peer_address().unwrap(), address(&server));
            let (first, second) = sent.split_at(70_000);
            stream.write_all(first).await.unwrap();
            stream.write_all_vectored(&[&second[..3], &second[3..]]).await.unwrap();
            stream.shutdown_write().await.unwrap();
            assert_eq!(stream.write_all(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            read_to_end(&mut stream).await.unwrap()
        });
        assert_eq!(received.unwrap(), sent);
    });
}

#[test]
fn a_writer_waits_where_the_reader_does_not_read() {
    let options = SimOptions {
        network: NetworkOptions { buffer_bytes_max: 10_000, ..NetworkOptions::default() },
        ..SimOptions::default()
    };
    let simulation = Simulation::with_options(1, options);
    let (client, server) = (simulation.node("client"), simulation.node("server"));
    let gate = Rc::new(Cell::new(false));
    let total = Rc::new(Cell::new(0));
    let (env, opened, counted) = (server.env(0), gate.clone(), total.clone());
    server.env(0).spawn(async move {
        let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
        let mut stream = listener.accept().await.unwrap();
        while !opened.get() {
            env.sleep(Duration::from_millis(1)).await;
        }
        counted.set(read_to_end(&mut stream).await.unwrap().len());
    });
    let written = Rc::new(Cell::new(0));
    let (node, count, to) = (client.clone(), written.clone(), address(&server));
    client.env(0).spawn(async move {
        let mut stream = node.connect(to).await.unwrap();
        for _ in 0..100 {
            stream.write_all(&[7; 1000]).await.unwrap();
            count.set(count.get() + 1000);
        }
    });
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(written.get(), 10_000);
    gate.set(true);
    simulation.run_for(Duration::from_secs(1));
    assert_eq!((written.get(), total.get()), (100_000, 100_000));
}

#[test]
fn nobody_listening_refuses_and_an_unknown_address_times_out() {
    let simulation = Simulation::new(1);
    let (client, server) = (simulation.node("client"), simulation.node("server"));
    let (connector, closed) = (client.clone(), address(&server));
    let outcome = client.run(0, |env| async move {
        let refused = connector.connect(closed).await.map(drop).unwrap_err().kind();
        let start = env.now();
        let unknown = SocketAddr::from(([10, 9, 9, 9], 9000));
        let late = connector.connect(unknown).await.map(drop).unwrap_err().kind();
        (refused, late, env.now().since(start) >= Duration::from_secs(10))
    });
    assert_eq!(outcome, Ok((ErrorKind::ConnectionRefused, ErrorKind::TimedOut, true)));
}

#[test]
fn listeners_of_several_cores_share_an_address() {
    let simulation = Simulation::new(1);
    let (client, server) = (simulation.node("client"), simulation.node("server"));
    let accepted = Rc::new(RefCell::new(BTreeSet::new()));
    for core in 0..2 {
        let (env, accepted) = (server.env(core), accepted.clone());
        server.env(core).spawn(async move {
            let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
            assert_eq!(listener.local_address().unwrap().port(), 9000);
            loop {
                listener.accept().await.unwrap();
                accepted.borrow_mut().insert(core);
            }
        });
    }
    client
        .run(0, |_| async {
            for _ in 0..20 {
                let mut stream = client.connect(address(&server)).await.unwrap();
                assert_eq!(read_to_end(&mut stream).await.unwrap(), b"");
            }
        })
        .unwrap();
    assert_eq!(*accepted.borrow(), [0, 1].into());
}

#[test]
fn a_cut_holds_bytes_up_until_it_is_healed() {
    for one_way in [true, false] {
        let simulation = Simulation::new(1);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let outcome = client.run(0, |env| {
            let (simulation, client, server) = (&simulation, &client, &server);
            async move {
                let mut stream = client.connect(address(server)).await.unwrap();
                let mut buffer = [0; 8];
                stream.write_all(b"before").await.unwrap();
                while stream.read(&mut buffer).await.unwrap() == 0 {}
                simulation.cut(client, server);
                if !one_way {
                    simulation.cut(server, client);
                }
                stream.write_all(b"during").await.unwrap();
                let early = env.timeout(Duration::from_secs(3), stream.read(&mut buffer)).await;
                assert!(early.is_none());
                simulation.heal_all();
                stream.shutdown_write().await.unwrap();
                read_to_end(&mut stream).await.unwrap()
            }
        });
        assert!(outcome.unwrap().ends_with(b"during"));
    }
}

#[test]
fn a_sender_gives_up_behind_a_cut_and_the_peer_learns_it_after_healing() {
    // Cutting either direction alone is enough: what arrives must be acknowledged.
    for direction in 0..2 {
        let simulation = Simulation::new(1);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let outcome = client.run(0, |env| {
            let (simulation, client, server) = (&simulation, &client, &server);
            async move {
                let mut stream = client.connect(address(server)).await.unwrap();
                match direction {
                    0 => simulation.cut(client, server),
                    _ => simulation.cut(server, client),
                }
                stream.write_all(b"during").await.unwrap();
                let start = env.now();
                let lost = stream.read(&mut [0; 8]).await.unwrap_err().kind();
                let waited = env.now().since(start);
                assert!(waited > Duration::from_secs(10) && waited < Duration::from_secs(20));
                let connecting = client.connect(address(server)).await.map(drop).unwrap_err().kind();
                assert_eq!(connecting, ErrorKind::TimedOut);
                simulation.heal_all();
                assert!(client.connect(address(server)).await.is_ok());
                lost
            }
        });
        assert_eq!(outcome, Ok(ErrorKind::TimedOut));
    }
}

#[test]
fn a_crash_ends_connections_at_once_or_when_the_peer_sends() {
    let mut seen = BTreeSet::new();
    each_seed(0..40, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let silent = client.run(0, |env| {
            let (client, server) = (&client, &server);
            async move {
                let mut stream = client.connect(address(server)).await.unwrap();
                server.crash();
                let mut buffer = [0; 8];
                let told = env.timeout(Duration::from_secs(60), stream.read(&mut buffer)).await;
                let silent = told.is_none();
                if silent {
                    stream.write_all(b"hello").await.unwrap();
                    assert_eq!(
                        stream.read(&mut buffer).await.unwrap_err().kind(),
                        ErrorKind::ConnectionReset
                    );
                }
                let refused = client.connect(address(server)).await.map(drop).unwrap_err().kind();
                assert_eq!(refused, ErrorKind::ConnectionRefused);
                start_echo(server);
                env.sleep(Duration::from_millis(1)).await;
                assert!(client.connect(address(server)).await.is_ok());
                silent
            }
        });
        seen.insert(silent.unwrap());
    });
    assert_eq!(seen, [false, true].into());
}

#[test]
fn a_lossy_link_resets_connections_and_never_garbles_bytes() {
    let mut resets = 0;
    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        let lossy = LinkOptions {
            delay: Duration::from_millis(1)..Duration::from_millis(20),
            loss_per_million: 100_000,
        };
        simulation.set_link(&client, &server, lossy.clone());
        simulation.set_link(&server, &client, lossy);
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let sent: Vec<u8> = (0..50u8).collect();
        let outcome = client.run(0, |_| async {
            let mut stream = client.connect(address(&server)).await?;
            for byte in &sent {
                stream.write_all(&[*byte]).await?;
            }
            stream.shutdown_write().await?;
            read_to_end(&mut stream).await
        });
        match outcome.unwrap() {
            Ok(received) => assert_eq!(received, sent),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                resets += 1;
            }
        }
    });
    assert!(resets > 25, "{resets}");
}

#[test]
fn a_dropped_stream_with_unread_bytes_resets_its_peer() {
    let simulation = Simulation::new(1);
    let (client, server) = (simulation.node("client"), simulation.node("server"));
    let env = server.env(0);
    server.env(0).spawn(async move {
        let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
        let stream = listener.accept().await.unwrap();
        env.sleep(Duration::from_secs(1)).await;
        drop(stream);
    });
    simulation.run_for(Duration::from_millis(1));
    let outcome = client.run(0, |_| async {
        let mut stream = client.connect(address(&server)).await.unwrap();
        stream.write_all(b"nobody reads this").await.unwrap();
        stream.read(&mut [0; 8]).await.unwrap_err().kind()
    });
    assert_eq!(outcome, Ok(ErrorKind::ConnectionReset));
}

#[test]
fn a_core_connects_and_two_of_its_tasks_share_the_stream() {
    each_seed(0..20, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        start_echo(&server);
        simulation.run_for(Duration::from_millis(1));
        let to = address(&server);
        let received = client.run(0, |env| async move {
            let (mut reading, mut writing) = env.connect(to).await.unwrap().split();
            env.spawn(async move {
                // More than the network holds: the reader must read meanwhile.
                for part in 0..100u8 {
                    writing.write_all_vectored(&[&[part; 9_000], &[part; 1_000]]).await.unwrap();
                }
                writing.shutdown_write().await.unwrap();
            });
            let mut received = Vec::new();
            let mut buffer = vec![0; 5_000];
            loop {
                match reading.read(&mut buffer).await.unwrap() {
                    0 => break received,
                    n => received.extend_from_slice(&buffer[..n]),
                }
            }
        });
        let sent: Vec<u8> = (0..100u8).flat_map(|part| vec![part; 10_000]).collect();
        assert!(received.unwrap() == sent);
    });
}

#[test]
fn an_accepted_stream_goes_on_at_another_core() {
    each_seed(0..20, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = (simulation.node("client"), simulation.node("server"));
        let (to_other, at_other) = core_queue::<DetachedStream>(8, server.waker(1));
        let accepting = server.env(0);
        server.env(0).spawn(async move {
            let listener = accepting.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
            loop {
                let mut stream = listener.accept().await.unwrap();
                let mut hello = [0; 5];
                let mut read = 0;
                while read < hello.len() {
                    read += stream.read(&mut hello[read..]).await.unwrap();
                }
                let detached = stream.detach().unwrap();
                if &hello == b"to 1:" {
                    to_other.send(detached).unwrap();
                }
            }
        });
        let other = server.env(1);
        server.env(1).spawn(async move {
            loop {
                let mut stream = other.attach(at_other.recv().await);
                let request = read_to_end(&mut stream).await.unwrap();
                stream.write_all(&request).await.unwrap();
            }
        });
        simulation.run_for(Duration::from_millis(1));
        let to = address(&server);
        let outcome = client.run(0, |env| async move {
            let mut stream = env.connect(to).await.unwrap();
            stream.write_all(b"to 1:hello").await.unwrap();
            stream.shutdown_write().await.unwrap();
            let answer = read_to_end(&mut stream).await.unwrap();
            let mut dropped = env.connect(to).await.unwrap();
            dropped.write_all(b"to 9:").await.unwrap();
            (answer, read_to_end(&mut dropped).await.unwrap())
        });
        assert_eq!(outcome, Ok((b"hello".to_vec(), Vec::new())));
    });
}
