//! The handshake: who is there, which version both speak, and the mutual proof of the deployment's secret.
//!
//! What must hold:
//! - Nothing but the four small frames below is read before the proof is seen, and none of them is longer than
//!   [`HANDSHAKE_BYTES_MAX`].
//! - Neither side shows the secret. Who connects proves first: a stranger that only connects gets nothing that a secret
//!   could be guessed from.
//! - A proof covers every byte of hello and welcome (versions, deployment, nodes, cores, both random numbers) and who
//!   gives it: it is worth nothing in another connection, in the other direction, or under another version.
//! - Two versions that follow each other work together: the highest that both speak is taken. What a newer version adds to
//!   hello or welcome comes behind what is drawn here, and is covered by the proofs.
//!
//! ```text
//! who connects                                  who accepts
//!   hello   versions, deployment, nodes, cores, random number  ->
//!   <-  welcome   version, cores, deployment, node, random number
//!   proof   HMAC(secret, "initiator" + transcript)  ->
//!   <-  accepted   HMAC(secret, "acceptor" + transcript + the other proof)
//! ```
//! Instead of an answer either side may say why it refuses. That is a hint for the operator: nothing proves it.

use crate::limits::HANDSHAKE_BYTES_MAX;
use crate::session::{HmacSha256, Secret, Session};
use buckets_ring::id::DeploymentId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hmac::Mac;
use sha2::{Digest, Sha256};
use std::ops::RangeInclusive;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use xxhash_rust::xxh3::xxh3_64;

/// The versions that this build speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Bytes of each side's random number.
pub const NONCE_BYTES: usize = 32;
/// Bytes before the body of a handshake frame.
pub const HANDSHAKE_HEADER_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"BKTH";
const PROOF_BYTES: usize = 32;
const HELLO_BYTES: usize = 56 + NONCE_BYTES;
const WELCOME_BYTES: usize = 36 + NONCE_BYTES;
const _: () = assert!(HANDSHAKE_HEADER_BYTES + HELLO_BYTES <= HANDSHAKE_BYTES_MAX / 2);

/// A node of the deployment: sixteen bytes that nobody else has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// In a hello: whoever is there.
    const ANY: NodeId = NodeId([0; 16]);
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Who this node is, and what it proves.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The deployment.
    pub deployment: DeploymentId,
    /// This node.
    pub node: NodeId,
    /// How many cores it has.
    pub cores: u16,
    /// The deployment's secret.
    pub secret: Secret,
    /// The versions to speak: [`VERSIONS`] but in tests.
    pub versions: RangeInclusive<u16>,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node that must answer; `None`: any of the deployment, but not oneself.
    pub node: Option<NodeId>,
    /// The core of that node.
    pub core: u16,
}

/// Who is at the other end of a proven connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The node.
    pub node: NodeId,
    /// Its core at the other end.
    pub core: u16,
    /// The core of this node that the connection is for.
    pub for_core: u16,
    /// How many cores it has; 0 where it did not say (it has connected).
    pub cores: u16,
    /// The version that is spoken with it.
    pub version: u16,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not the protocol.
    #[error("not a handshake of this protocol")]
    Garbage,
    /// A frame longer than any of the handshake's.
    #[error("a handshake frame of {0} bytes")]
    Oversized(usize),
    /// Damaged, or too short for what it is.
    #[error("a damaged handshake frame")]
    Damaged,
    /// Not the frame that comes next.
    #[error("a handshake frame out of turn")]
    OutOfTurn,
    /// The versions of the two sides do not overlap.
    #[error("the peer speaks other versions of the protocol")]
    Version,
    /// Another deployment's node.
    #[error("the peer belongs to another deployment")]
    WrongDeployment,
    /// Not the node that was wanted: an address has changed hands.
    #[error("another node answers at this address")]
    WrongNode,
    /// A connection to oneself, or one's own words sent back.
    #[error("this node itself answers")]
    Reflected,
    /// The node has no such core.
    #[error("the node has no core of that number")]
    NoSuchCore,
    /// The proof does not fit: another secret, or somebody in between.
    #[error("the peer does not hold the deployment's secret")]
    WrongSecret,
    /// The peer takes no more connections for now.
    #[error("too many connections")]
    Busy,
    /// It did not come to an end in time.
    #[error("the handshake took too long")]
    Late,
    /// The connection ended amid it.
    #[error("the connection ended amid the handshake")]
    Ended,
    /// One of the two nodes encrypts and the other does not.
    #[error(
        "one of the two nodes speaks TLS and the other does not: all nodes need the same cluster file, with https or with http"
    )]
    TlsMismatch,
    /// A certificate was not accepted, by whichever side.
    #[error("a certificate was not accepted")]
    Certificate,
    /// TLS failed for another reason.
    #[error("TLS failed")]
    Tls,
}

/// All kinds of errors, for counting: their names, and numbers in refusals.
const ERRORS: [(HandshakeError, &str); 16] = [
    (HandshakeError::Garbage, "garbage"),
    (HandshakeError::Oversized(0), "oversized"),
    (HandshakeError::Damaged, "damaged"),
    (HandshakeError::OutOfTurn, "out_of_turn"),
    (HandshakeError::Version, "version"),
    (HandshakeError::WrongDeployment, "wrong_deployment"),
    (HandshakeError::WrongNode, "wrong_node"),
    (HandshakeError::Reflected, "reflected"),
    (HandshakeError::NoSuchCore, "no_such_core"),
    (HandshakeError::WrongSecret, "wrong_secret"),
    (HandshakeError::Busy, "busy"),
    (HandshakeError::Late, "late"),
    (HandshakeError::Ended, "ended"),
    (HandshakeError::TlsMismatch, "tls_mismatch"),
    (HandshakeError::Certificate, "certificate"),
    (HandshakeError::Tls, "tls"),
];

impl HandshakeError {
    /// How many kinds there are.
    pub const KINDS: usize = ERRORS.len();

    /// Its place among the kinds.
    pub fn kind(self) -> usize {
        let same = |other: &HandshakeError| std::mem::discriminant(other) == std::mem::discriminant(&self);
        ERRORS.iter().position(|(other, _)| same(other)).unwrap_or(0)
    }

    /// The name of a kind, as metrics show it.
    pub fn kind_name(kind: usize) -> &'static str {
        ERRORS[kind].1
    }

    /// The frame that tells the peer.
    pub fn refusal(self) -> Bytes {
        encode_frame(Step::Refused, &[self.kind() as u8])
    }

    fn of_refusal(body: &[u8]) -> HandshakeError {
        let kind = body.first().map_or(0, |kind| usize::from(*kind));
        ERRORS.get(kind).map_or(HandshakeError::Garbage, |(error, _)| *error)
    }
}

/// The frames of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Hello = 1,
    Welcome = 2,
    Proof = 3,
    Accepted = 4,
    Refused = 5,
}

/// A whole frame of the handshake, as it came.
#[derive(Clone, Debug)]
pub struct HandshakeFrame {
    step: Step,
    whole: Bytes,
}

impl HandshakeFrame {
    /// The frame at the front of `input`, and how many bytes it has; `None` where more are needed.
    ///
    /// ```text
    ///  0  magic "BKTH"                    4
    ///  4  step                            1   1 hello, 2 welcome, 3 proof, 4 accepted, 5 refused
    ///  5  reserved (0)                    1
    ///  6  body length                     2
    ///  8  checksum of bytes 0..8 and body 8   XXH3-64: damage, not malice
    /// 16  body
    /// ```
    pub fn decode(input: &[u8]) -> Result<Option<(HandshakeFrame, usize)>, HandshakeError> {
        let seen = input.len().min(MAGIC.len());
        if input[..seen] != MAGIC[..seen] {
            return Err(HandshakeError::Garbage);
        }
        let Some((header, rest)) = input.split_first_chunk::<HANDSHAKE_HEADER_BYTES>() else {
            return Ok(None);
        };
        let body_bytes = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let bytes = HANDSHAKE_HEADER_BYTES + body_bytes;
        if bytes > HANDSHAKE_BYTES_MAX {
            return Err(HandshakeError::Oversized(bytes));
        }
        if rest.len() < body_bytes {
            return Ok(None);
        }
        if header[8..] != checksum(&header[..8], &rest[..body_bytes]) {
            return Err(HandshakeError::Damaged);
        }
        let step = match header[4] {
            1 => Step::Hello,
            2 => Step::Welcome,
            3 => Step::Proof,
            4 => Step::Accepted,
            5 => Step::Refused,
            _ => return Err(HandshakeError::OutOfTurn),
        };
        Ok(Some((HandshakeFrame { step, whole: Bytes::copy_from_slice(&input[..bytes]) }, bytes)))
    }

    /// How many bytes of the frame at the front of `input` are needed to go on, where [`HandshakeFrame::decode`] needs more.
    pub fn bytes_needed(input: &[u8]) -> usize {
        match input.first_chunk::<HANDSHAKE_HEADER_BYTES>() {
            None => HANDSHAKE_HEADER_BYTES,
            Some(header) => {
                let body_bytes = usize::from(u16::from_le_bytes([header[6], header[7]]));
                (HANDSHAKE_HEADER_BYTES + body_bytes).min(HANDSHAKE_BYTES_MAX)
            }
        }
    }

    /// True where what a peer said first is the beginning of a frame.
    pub fn begins(input: &[u8]) -> bool {
        input.starts_with(&MAGIC)
    }

    /// True where the peer says why it refuses.
    pub fn is_refusal(&self) -> bool {
        self.step == Step::Refused
    }

    fn body(&self) -> &[u8] {
        &self.whole[HANDSHAKE_HEADER_BYTES..]
    }
}

fn encode_frame(step: Step, body: &[u8]) -> Bytes {
    assert!(HANDSHAKE_HEADER_BYTES + body.len() <= HANDSHAKE_BYTES_MAX);
    let mut out = BytesMut::with_capacity(HANDSHAKE_HEADER_BYTES + body.len());
    out.put_slice(&MAGIC);
    out.put_u8(step as u8);
    out.put_u8(0);
    out.put_u16_le(body.len() as u16);
    let checksum = checksum(&out, body);
    out.put_slice(&checksum);
    out.put_slice(body);
    out.freeze()
}

fn checksum(header: &[u8], body: &[u8]) -> [u8; 8] {
    let mut covered = [0; HANDSHAKE_BYTES_MAX];
    let (first, rest) = covered.split_at_mut(header.len());
    first.copy_from_slice(header);
    rest[..body.len()].copy_from_slice(body);
    xxh3_64(&covered[..header.len() + body.len()]).to_le_bytes()
}

/// What who connects says first.
///
/// ```text
///  0  lowest version   2
///  2  highest version  2
///  4  deployment      16
/// 20  own node        16
/// 36  wanted node     16   (zeroes: any)
/// 52  own core         2
/// 54  wanted core      2
/// 56  random number   32
/// ```
struct Hello {
    versions: RangeInclusive<u16>,
    deployment: DeploymentId,
    node: NodeId,
    wanted: NodeId,
    core: u16,
    wanted_core: u16,
    nonce: [u8; NONCE_BYTES],
}

impl Hello {
    fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(HELLO_BYTES);
        body.put_u16_le(*self.versions.start());
        body.put_u16_le(*self.versions.end());
        body.put_slice(self.deployment.as_bytes());
        body.put_slice(&self.node.0);
        body.put_slice(&self.wanted.0);
        body.put_u16_le(self.core);
        body.put_u16_le(self.wanted_core);
        body.put_slice(&self.nonce);
        encode_frame(Step::Hello, &body)
    }

    /// What comes behind is a newer version's.
    fn decode(mut body: &[u8]) -> Result<Hello, HandshakeError> {
        if body.len() < HELLO_BYTES {
            return Err(HandshakeError::Damaged);
        }
        let versions = body.get_u16_le()..=body.get_u16_le();
        let deployment = DeploymentId::from_bytes(array(&mut body));
        let (node, wanted) = (NodeId(array(&mut body)), NodeId(array(&mut body)));
        let (core, wanted_core) = (body.get_u16_le(), body.get_u16_le());
        Ok(Hello { versions, deployment, node, wanted, core, wanted_core, nonce: array(&mut body) })
    }
}

/// What who accepts says to it.
///
/// ```text
///  0  version to speak  2
///  2  cores             2
///  4  deployment       16
/// 20  node             16
/// 36  random number    32
/// ```
struct Welcome {
    version: u16,
    cores: u16,
    deployment: DeploymentId,
    node: NodeId,
    nonce: [u8; NONCE_BYTES],
}

impl Welcome {
    fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(WELCOME_BYTES);
        body.put_u16_le(self.version);
        body.put_u16_le(self.cores);
        body.put_slice(self.deployment.as_bytes());
        body.put_slice(&self.node.0);
        body.put_slice(&self.nonce);
        encode_frame(Step::Welcome, &body)
    }

    fn decode(mut body: &[u8]) -> Result<Welcome, HandshakeError> {
        if body.len() < WELCOME_BYTES {
            return Err(HandshakeError::Damaged);
        }
        Ok(Welcome {
            version: body.get_u16_le(),
            cores: body.get_u16_le(),
            deployment: DeploymentId::from_bytes(array(&mut body)),
            node: NodeId(array(&mut body)),
            nonce: array(&mut body),
        })
    }
}

fn array<const N: usize>(body: &mut &[u8]) -> [u8; N] {
    let mut array = [0; N];
    body.copy_to_slice(&mut array);
    array
}

/// What a frame of the peer leads to.
#[derive(Debug)]
pub enum Progress {
    /// This goes out; the next frame is awaited.
    Send(Bytes),
    /// Both sides have proved themselves.
    Done {
        /// Goes out first, where there is something.
        send: Option<Bytes>,
        /// The keys of the connection.
        session: Box<Session>,
        /// Who is there.
        remote: Remote,
    },
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    identity: Arc<Identity>,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitsWelcome { hello: Bytes, nonce: [u8; NONCE_BYTES], target: Target, core: u16 },
    AwaitsAcceptance { transcript: [u8; 32], proof: [u8; PROOF_BYTES], remote: Remote },
    AwaitsHello { nonce: [u8; NONCE_BYTES] },
    AwaitsProof { transcript: [u8; 32], remote: Remote },
    Over,
}

impl Handshake {
    /// The side that connects, from `core`, and its first frame. `nonce` is random.
    pub fn initiate(
        identity: Arc<Identity>,
        core: u16,
        target: Target,
        nonce: [u8; NONCE_BYTES],
    ) -> (Handshake, Bytes) {
        let hello = Hello {
            versions: identity.versions.clone(),
            deployment: identity.deployment,
            node: identity.node,
            wanted: target.node.unwrap_or(NodeId::ANY),
            core,
            wanted_core: target.core,
            nonce,
        }
        .encode();
        let state = State::AwaitsWelcome { hello: hello.clone(), nonce, target, core };
        (Handshake { identity, state }, hello)
    }

    /// The side that accepts. `nonce` is random.
    pub fn accept(identity: Arc<Identity>, nonce: [u8; NONCE_BYTES]) -> Handshake {
        Handshake { identity, state: State::AwaitsHello { nonce } }
    }

    /// Takes the peer's next frame. After an error the handshake is over.
    pub fn take(&mut self, frame: &HandshakeFrame) -> Result<Progress, HandshakeError> {
        if frame.step == Step::Refused {
            self.state = State::Over;
            return Err(HandshakeError::of_refusal(frame.body()));
        }
        match (std::mem::replace(&mut self.state, State::Over), frame.step) {
            (State::AwaitsHello { nonce }, Step::Hello) => self.take_hello(frame, nonce),
            (State::AwaitsWelcome { hello, nonce, target, core }, Step::Welcome) => {
                self.take_welcome(frame, &hello, nonce, target, core)
            }
            (State::AwaitsProof { transcript, remote }, Step::Proof) => {
                let proof = self.initiator_proof(&transcript);
                if !bool::from(frame.body().ct_eq(&proof)) {
                    return Err(HandshakeError::WrongSecret);
                }
                let accepted = encode_frame(Step::Accepted, &self.acceptor_proof(&transcript, &proof));
                let session = Session::new(&self.identity.secret, remote.version, &transcript, false);
                Ok(Progress::Done { send: Some(accepted), session: Box::new(session), remote })
            }
            (State::AwaitsAcceptance { transcript, proof, remote }, Step::Accepted) => {
                let expected = self.acceptor_proof(&transcript, &proof);
                if !bool::from(frame.body().ct_eq(&expected)) {
                    return Err(HandshakeError::WrongSecret);
                }
                let session = Session::new(&self.identity.secret, remote.version, &transcript, true);
                Ok(Progress::Done { send: None, session: Box::new(session), remote })
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }

    fn take_hello(
        &mut self,
        frame: &HandshakeFrame,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Progress, HandshakeError> {
        let own = &self.identity;
        let hello = Hello::decode(frame.body())?;
        let version = *own.versions.end().min(hello.versions.end());
        if version < *own.versions.start().max(hello.versions.start()) {
            return Err(HandshakeError::Version);
        }
        if hello.deployment != own.deployment {
            return Err(HandshakeError::WrongDeployment);
        }
        if hello.node == own.node || hello.nonce == nonce {
            return Err(HandshakeError::Reflected);
        }
        if hello.wanted != NodeId::ANY && hello.wanted != own.node {
            return Err(HandshakeError::WrongNode);
        }
        if hello.wanted_core >= own.cores {
            return Err(HandshakeError::NoSuchCore);
        }
        let welcome =
            Welcome { version, cores: own.cores, deployment: own.deployment, node: own.node, nonce }.encode();
        let Hello { node, core, wanted_core: for_core, .. } = hello;
        let remote = Remote { node, core, for_core, cores: 0, version };
        self.state = State::AwaitsProof { transcript: transcript(&frame.whole, &welcome), remote };
        Ok(Progress::Send(welcome))
    }

    fn take_welcome(
        &mut self,
        frame: &HandshakeFrame,
        hello: &[u8],
        nonce: [u8; NONCE_BYTES],
        target: Target,
        core: u16,
    ) -> Result<Progress, HandshakeError> {
        let own = &self.identity;
        let welcome = Welcome::decode(frame.body())?;
        if !own.versions.contains(&welcome.version) {
            return Err(HandshakeError::Version);
        }
        if welcome.deployment != own.deployment {
            return Err(HandshakeError::WrongDeployment);
        }
        if welcome.node == own.node || welcome.nonce == nonce {
            return Err(HandshakeError::Reflected);
        }
        if target.node.is_some_and(|wanted| wanted != welcome.node) {
            return Err(HandshakeError::WrongNode);
        }
        if target.core >= welcome.cores {
            return Err(HandshakeError::NoSuchCore);
        }
        let transcript = transcript(hello, &frame.whole);
        let proof = self.initiator_proof(&transcript);
        let Welcome { node, cores, version, .. } = welcome;
        let remote = Remote { node, core: target.core, for_core: core, cores, version };
        self.state = State::AwaitsAcceptance { transcript, proof, remote };
        Ok(Progress::Send(encode_frame(Step::Proof, &proof)))
    }

    fn initiator_proof(&self, transcript: &[u8; 32]) -> [u8; PROOF_BYTES] {
        prove(self.identity.secret.mac(), b"buckets: initiator", &[transcript])
    }

    fn acceptor_proof(&self, transcript: &[u8; 32], answered: &[u8; PROOF_BYTES]) -> [u8; PROOF_BYTES] {
        prove(self.identity.secret.mac(), b"buckets: acceptor", &[transcript, answered])
    }
}

/// Every byte that was said before the proofs. Frames carry their own lengths, so none runs into the other.
fn transcript(hello: &[u8], welcome: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(hello);
    hash.update(welcome);
    hash.finalize().into()
}

fn prove(mut mac: HmacSha256, label: &[u8], parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
    mac.update(label);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn identity(node: u8) -> Identity {
        Identity {
            deployment: DeploymentId::from_bytes([9; 16]),
            node: NodeId([node; 16]),
            cores: 4,
            secret: Secret::new(b"a secret of the deployment").unwrap(),
            versions: VERSIONS,
        }
    }

    const TARGET: Target = Target { node: Some(NodeId([2; 16])), core: 3 };

    fn only(frame: &[u8]) -> HandshakeFrame {
        let (decoded, bytes) = HandshakeFrame::decode(frame).unwrap().unwrap();
        assert_eq!(bytes, frame.len());
        decoded
    }

    fn send(progress: Result<Progress, HandshakeError>) -> Result<Bytes, HandshakeError> {
        match progress? {
            Progress::Send(frame) => Ok(frame),
            Progress::Done { send, .. } => Ok(send.unwrap()),
        }
    }

    type Both = (Session, Remote, Session, Remote);

    /// Lets the two talk to the end; what is said may be changed on its way by `meddle`, which is told the number of the
    /// frame.
    fn talk(
        here: Identity,
        there: Identity,
        target: Target,
        meddle: impl Fn(usize, Bytes) -> Bytes,
    ) -> Result<Both, HandshakeError> {
        let (mut here, hello) = Handshake::initiate(Arc::new(here), 1, target, [1; 32]);
        let mut there = Handshake::accept(Arc::new(there), [2; 32]);
        let decode = |frame: Bytes| HandshakeFrame::decode(&frame)?.ok_or(HandshakeError::Ended);
        let welcome = send(there.take(&decode(meddle(0, hello))?.0))?;
        let proof = send(here.take(&decode(meddle(1, welcome))?.0))?;
        let Progress::Done { send: Some(accepted), session: theirs, remote: initiator } =
            there.take(&decode(meddle(2, proof))?.0)?
        else {
            return Err(HandshakeError::OutOfTurn);
        };
        let Progress::Done { send: None, session: ours, remote: acceptor } =
            here.take(&decode(meddle(3, accepted))?.0)?
        else {
            return Err(HandshakeError::OutOfTurn);
        };
        Ok((*ours, acceptor, *theirs, initiator))
    }

    fn as_it_is(_: usize, frame: Bytes) -> Bytes {
        frame
    }

    /// Both ends of one connection; the same keys each time.
    pub(crate) fn sessions() -> (Session, Session) {
        let (here, _, there, _) = talk(identity(1), identity(2), TARGET, as_it_is).unwrap();
        (here, there)
    }

    #[test]
    fn both_sides_learn_who_is_there() {
        let (session, acceptor, _, initiator) = talk(identity(1), identity(2), TARGET, as_it_is).unwrap();
        assert_eq!(session.version, 1);
        assert_eq!(acceptor, Remote { node: NodeId([2; 16]), core: 3, for_core: 1, cores: 4, version: 1 });
        assert_eq!(initiator, Remote { node: NodeId([1; 16]), core: 1, for_core: 3, cores: 0, version: 1 });
        let any = Target { node: None, core: 0 };
        assert!(talk(identity(1), identity(2), any, as_it_is).is_ok());
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let speaking = |node, versions| Identity { versions, ..identity(node) };
        for (here, there, spoken) in
            [(1..=1, 1..=2, 1), (1..=2, 2..=3, 2), (2..=3, 1..=2, 2), (1..=3, 2..=3, 3)]
        {
            let outcome = talk(speaking(1, here), speaking(2, there), TARGET, as_it_is);
            assert_eq!(outcome.map(|both| (both.0.version, both.2.version)), Ok((spoken, spoken)));
        }
        let apart = talk(speaking(1, 1..=1), speaking(2, 2..=3), TARGET, as_it_is);
        assert_eq!(apart.map(drop), Err(HandshakeError::Version));
        #[expect(clippy::reversed_empty_ranges, reason = "what a broken peer may say")]
        let none = talk(speaking(1, 2..=1), speaking(2, 1..=3), TARGET, as_it_is);
        assert_eq!(none.map(drop), Err(HandshakeError::Version));
    }

    #[test]
    fn strangers_are_refused_by_name() {
        let secret = Secret::new(b"another secret of somebody").unwrap();
        let deployment = DeploymentId::from_bytes([8; 16]);
        let table = [
            (Identity { secret, ..identity(1) }, TARGET, HandshakeError::WrongSecret),
            (Identity { deployment, ..identity(1) }, TARGET, HandshakeError::WrongDeployment),
            (identity(2), TARGET, HandshakeError::Reflected),
            (identity(1), Target { node: Some(NodeId([3; 16])), core: 0 }, HandshakeError::WrongNode),
            (identity(1), Target { core: 4, ..TARGET }, HandshakeError::NoSuchCore),
        ];
        for (here, target, error) in table {
            assert_eq!(talk(here, identity(2), target, as_it_is).map(drop), Err(error));
        }
    }

    #[test]
    fn who_accepts_must_hold_the_secret_too() {
        // It lets everybody in, whatever the proof; it cannot give its own.
        let (mut here, hello) = Handshake::initiate(Arc::new(identity(1)), 1, TARGET, [1; 32]);
        let mut there = Handshake::accept(Arc::new(identity(2)), [2; 32]);
        let proof = send(here.take(&only(&send(there.take(&only(&hello))).unwrap()))).unwrap();
        // Sent back as the answer it is worth nothing.
        let mirrored = encode_frame(Step::Accepted, only(&proof).body());
        assert_eq!(here.take(&only(&mirrored)).map(drop), Err(HandshakeError::WrongSecret));
    }

    #[test]
    fn a_recorded_handshake_cannot_be_played_again() {
        let (mut here, hello) = Handshake::initiate(Arc::new(identity(1)), 1, TARGET, [1; 32]);
        let mut there = Handshake::accept(Arc::new(identity(2)), [2; 32]);
        let proof = send(here.take(&only(&send(there.take(&only(&hello))).unwrap()))).unwrap();
        let mut later = Handshake::accept(Arc::new(identity(2)), [3; 32]);
        send(later.take(&only(&hello))).unwrap();
        assert_eq!(later.take(&only(&proof)).map(drop), Err(HandshakeError::WrongSecret));
    }

    #[test]
    fn whoever_changes_a_byte_on_the_way_ends_it() {
        let lengths = [HELLO_BYTES, WELCOME_BYTES, PROOF_BYTES, PROOF_BYTES];
        for (number, body_bytes) in lengths.into_iter().enumerate() {
            for at in 0..body_bytes {
                let outcome = talk(identity(1), identity(2), TARGET, |frame_number, bytes| {
                    if frame_number != number {
                        return bytes;
                    }
                    // With a good checksum: on purpose.
                    let original = only(&bytes);
                    let mut body = original.body().to_vec();
                    body[at] ^= 1;
                    encode_frame(original.step, &body)
                });
                assert!(outcome.is_err(), "frame {number}, byte {at}");
            }
        }
    }

    #[test]
    fn a_newer_hello_may_be_longer() {
        // Both sides must have the longer bytes in their transcripts: here only one has, and the proof fails, not the reading.
        let outcome = talk(identity(1), identity(2), TARGET, |number, bytes| match number {
            0 => encode_frame(Step::Hello, &[only(&bytes).body(), b"more"].concat()),
            _ => bytes,
        });
        assert_eq!(outcome.map(drop), Err(HandshakeError::WrongSecret));
    }

    #[test]
    fn garbage_ends_at_its_first_byte_and_length_is_capped() {
        assert_eq!(HandshakeFrame::decode(b"G").map(drop), Err(HandshakeError::Garbage));
        assert!(HandshakeFrame::decode(b"").unwrap().is_none());
        let mut long = encode_frame(Step::Hello, &[]).to_vec();
        long[6..8].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(HandshakeFrame::decode(&long).map(drop), Err(HandshakeError::Oversized(65_551)));
        let good = encode_frame(Step::Proof, &[7; 32]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(HandshakeFrame::decode(&bad), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn frames_out_of_turn_end_it() {
        let (mut here, hello) = Handshake::initiate(Arc::new(identity(1)), 1, TARGET, [1; 32]);
        assert_eq!(here.take(&only(&hello)).map(drop), Err(HandshakeError::OutOfTurn));
        assert_eq!(here.take(&only(&hello)).map(drop), Err(HandshakeError::OutOfTurn));
    }

    #[test]
    fn a_refusal_arrives_by_its_name() {
        for (error, name) in ERRORS {
            let (mut here, _) = Handshake::initiate(Arc::new(identity(1)), 1, TARGET, [1; 32]);
            assert_eq!(here.take(&only(&error.refusal())).map(drop), Err(error));
            assert_eq!(HandshakeError::kind_name(error.kind()), name);
        }
    }
}
