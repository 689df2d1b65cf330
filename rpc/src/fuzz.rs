//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::connection::{Batch, Connection, Event, Message, Serving};
use crate::frame::{FrameHeader, FrameKind, HEADER_BYTES, Opened, PIECE_BYTES_MIN, open, seal};
use crate::handshake::{Handshake, HandshakeFrame, Identity, NodeId, Progress, Target, VERSIONS};
use crate::limits::{HANDSHAKE_BYTES_MAX, Limits};
use crate::session::{Opener, Secret, Session};
use buckets_ring::id::DeploymentId;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;

fn identity(node: u8) -> Arc<Identity> {
    let Ok(secret) = Secret::new(b"a secret of the deployment") else { unreachable!("long enough") };
    let deployment = DeploymentId::from_bytes([9; 16]);
    Arc::new(Identity { deployment, node: NodeId([node; 16]), cores: 4, secret, versions: VERSIONS })
}

fn both() -> (Handshake, Bytes, Handshake) {
    let target = Target { node: Some(NodeId([2; 16])), core: 3 };
    let (here, hello) = Handshake::initiate(identity(1), 1, target, [1; 32]);
    (here, hello, Handshake::accept(identity(2), [2; 32]))
}

fn only(bytes: &[u8]) -> HandshakeFrame {
    match HandshakeFrame::decode(bytes) {
        Ok(Some((frame, _))) => frame,
        _ => unreachable!("a whole frame"),
    }
}

/// A handshake with fixed random numbers: all that was said, and both ends.
fn shaken() -> (Vec<Bytes>, Session, Session) {
    let (mut here, hello, mut there) = both();
    let mut said = vec![hello];
    loop {
        let listener = if said.len() % 2 == 1 { &mut there } else { &mut here };
        match listener.take(&only(&said[said.len() - 1])) {
            Ok(Progress::Send(frame)) => said.push(frame),
            Ok(Progress::Done { send: Some(accepted), session: theirs, .. }) => {
                let Ok(Progress::Done { session: ours, .. }) = here.take(&only(&accepted)) else {
                    unreachable!("both are honest")
                };
                said.push(accepted);
                return (said, *ours, *theirs);
            }
            _ => unreachable!("both are honest"),
        }
    }
}

/// Frames of the handshake, to either side.
pub fn handshake(data: &[u8]) {
    let (mut here, _, mut there) = both();
    let mut rest = data;
    while let Ok(Some((frame, bytes))) = HandshakeFrame::decode(rest) {
        assert!(bytes <= HANDSHAKE_BYTES_MAX && bytes <= rest.len());
        rest = &rest[bytes..];
        let _ = here.take(&frame);
        if let Ok(Progress::Send(frame) | Progress::Done { send: Some(frame), .. }) = there.take(&frame) {
            assert!(HandshakeFrame::decode(&frame).is_ok_and(|whole| whole.is_some()));
        }
    }
}

/// What an honest handshake says.
pub fn handshake_seeds() -> Vec<Vec<u8>> {
    let (said, ..) = shaken();
    let mut seeds: Vec<Vec<u8>> = said.iter().map(|frame| frame.to_vec()).collect();
    seeds.push([&said[0][..], &said[2][..]].concat());
    seeds.push([&said[1][..], &said[3][..]].concat());
    seeds.push(crate::handshake::HandshakeError::WrongSecret.refusal().to_vec());
    seeds
}

/// Frames of a connection: nothing is taken but what was sealed for its place.
pub fn frames(data: &[u8]) {
    let (_, _, mut there) = shaken();
    let good = frame_seeds();
    let mut rest = data;
    let mut taken = 0;
    while let Ok(Opened::Head(opened)) = open(&mut there.opener, rest) {
        assert!(good[0][taken..].starts_with(&rest[..opened.bytes]), "a head that nobody sealed");
        taken += opened.bytes;
        rest = &rest[opened.bytes..];
        let Some((shape, mut check)) = opened.payload else { continue };
        assert_eq!(shape.pieces().sum::<usize>(), shape.bytes);
        if rest.len() < shape.bytes {
            return;
        }
        check.update(&rest[..shape.bytes]);
        if !there.opener.takes_payload(&check) {
            return;
        }
        assert!(good[0][taken..].starts_with(&rest[..shape.bytes]), "a payload that nobody sealed");
        taken += shape.bytes;
        rest = &rest[shape.bytes..];
    }
}

/// Frames of the first places of a connection, all of them and one by one.
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let (_, mut here, _) = shaken();
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    for (number, kind) in
        [FrameKind::Request, FrameKind::OneWay, FrameKind::Ping, FrameKind::Answer].into_iter().enumerate()
    {
        let pieces: &[&[u8]] = match number {
            0 => &[b"payload"],
            3 => &[&[1; PIECE_BYTES_MIN], &[2; 100]],
            _ => &[],
        };
        let header = FrameHeader { kind, request_id: number as u64, deadline_ms: 9 };
        let mut out = BytesMut::new();
        seal(&mut here.sealer, header, b"head", pieces, &mut out);
        out.extend_from_slice(b"head");
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        all.extend_from_slice(&out);
        seeds.push(out.to_vec());
    }
    seeds.insert(0, all);
    seeds
}

struct End {
    connection: Connection<Bytes, u64>,
    opener: Opener,
    served: Vec<Serving>,
    ended: u64,
}

/// Both ends of a connection, doing what the bytes say: every question ends once, and no limit is passed.
pub fn connection(script: &[u8]) {
    let (_, here, there) = shaken();
    let limits = Limits {
        asking_max: 8,
        serving_max: 4,
        serving_bytes_max: 20_000,
        outgoing_bytes_max: 30_000,
        urgent_bytes_max: 2_000,
        batch_bytes_max: 6_000,
    };
    let mut ends = [here, there].map(|session| End {
        connection: Connection::new(session.sealer, limits.clone()),
        opener: session.opener,
        served: Vec::new(),
        ended: 0,
    });
    let mut now = Duration::ZERO;
    for (step, byte) in script.iter().enumerate() {
        let [left, right] = &mut ends;
        let (end, other) = if byte & 1 == 0 { (left, right) } else { (right, left) };
        let argument = usize::from(byte >> 4);
        let message = Message {
            head: Bytes::from(vec![*byte; argument * 7]),
            payload: (0..argument % 3).map(|_| Bytes::from(vec![*byte; argument * 700])).collect(),
        };
        match (byte >> 1) & 7 {
            0 | 1 => drop(end.connection.ask(message, now + Duration::from_millis(5), step as u64)),
            2 => drop(end.connection.tell(message)),
            3 => end.connection.send_ping(now),
            4 => {
                if let Some(serving) = end.served.pop() {
                    assert!(end.connection.answer(serving, message).is_ok());
                }
            }
            5 => {
                now += Duration::from_millis(1);
                end.ended += end.connection.expire(now).len() as u64;
            }
            6 => drop(end.connection.forget(argument as u64).map(|_| end.ended += 1)),
            _ => carry(end, other, now),
        }
        for end in &ends {
            let counts = end.connection.counts();
            assert_eq!(end.ended + end.connection.asking() as u64, counts.asked);
            assert_eq!(end.served.len(), end.connection.serving());
            assert!(end.connection.asking() <= limits.asking_max && end.served.len() <= limits.serving_max);
        }
    }
    for end in &mut ends {
        let left = end.connection.end().len() as u64;
        assert_eq!(end.ended + left, end.connection.counts().asked);
    }
}

fn carry(from: &mut End, to: &mut End, now: Duration) {
    if to.connection.is_choked() {
        return;
    }
    let mut batch = Batch::default();
    from.connection.output(now, &mut batch);
    let wire = batch.slices().concat();
    let mut rest = &wire[..];
    while !rest.is_empty() {
        let Ok(Opened::Head(opened)) = open(&mut to.opener, rest) else { unreachable!("whole and good") };
        let (header, head) = (opened.header, Bytes::copy_from_slice(opened.head));
        assert!(opened.bytes >= HEADER_BYTES);
        rest = &rest[opened.bytes..];
        let mut payload = Vec::new();
        if let Some((shape, mut check)) = opened.payload {
            check.update(&rest[..shape.bytes]);
            assert!(to.opener.takes_payload(&check));
            for len in shape.pieces() {
                payload.push(Bytes::copy_from_slice(&rest[..len]));
                rest = &rest[len..];
            }
        }
        match to.connection.take(header, Message { head, payload }, now) {
            Event::Request(serving, ..) => to.served.push(serving),
            Event::Answer(..) | Event::Declined(_) => to.ended += 1,
            Event::OneWay(_) | Event::RoundTrip(_) | Event::Nothing => {}
        }
    }
}

/// Scripts for [`connection`].
pub fn connection_seeds() -> Vec<Vec<u8>> {
    vec![
        vec![0x20, 0x30, 0x0e, 0x19, 0x29, 0x0f, 0x0e],
        vec![0x20; 40].into_iter().chain([0x0e; 10]).chain([0x0f; 10]).collect(),
        vec![0x26, 0x0e, 0x0f, 0x04, 0x14, 0x0e, 0x0a, 0x0a, 0x0a, 0x0a, 0x0a, 0x1c],
    ]
}
