//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::block::{Block, BlockBuilder, BlockIter, BlockKind, HEADER_BYTES, seal};
use crate::checksum::FileSeed;
use crate::filter;
use bytes::Bytes;
use std::rc::Rc;

/// A block of a table behind a checksum that is right: walks and look-ups end, and agree where the keys are in order.
pub fn table_block(data: &[u8]) {
    let [restarts, prefix, payload @ ..] = data else { return };
    let seed = FileSeed::table(&[1; 16], 2, 3);
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[30] = *prefix;
    bytes.extend_from_slice(&payload[..payload.len().min(60_000)]);
    seal(&mut bytes, u32::from(*restarts), BlockKind::Data, seed, 7);
    let Ok(block) = Block::verify(Bytes::from(bytes), BlockKind::Data, seed, 7) else { return };
    let block = Rc::new(block);
    let mut walk = BlockIter::new(block.clone());
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Ok(true) = walk.advance() {
        let _ = (walk.value().map(<[u8]>::len), walk.value_bytes());
        keys.push(walk.key().to_vec());
        assert!(keys.len() <= block.bytes_len(), "a walk that does not end");
    }
    for key in keys.iter().take(50) {
        let _ = block.lower_bound(key);
        let mut found = BlockIter::new(block.clone());
        let _ = found.seek(key);
    }
    let _ = block.lower_bound(b"");
    let _ = block.lower_bound(&[0xff; 20]);
}

/// A filter of any bytes answers.
pub fn table_filter(data: &[u8]) {
    for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
        let _ = filter::may_contain(data, hash);
    }
}

/// Valid blocks, from which mutations begin.
pub fn table_block_seeds() -> Vec<Vec<u8>> {
    [1usize, 5, 40, 200]
        .iter()
        .map(|rows| {
            let mut builder = BlockBuilder::new(16);
            for row in 0..*rows {
                let key = format!("prefix/{row:05}/suffix");
                let value = vec![row as u8; row % 50];
                builder.add(key.as_bytes(), (row % 7 != 3).then_some(value.as_slice()));
            }
            let (bytes, restarts) = builder.take();
            let mut seed = vec![restarts as u8, bytes[30]];
            seed.extend_from_slice(&bytes[HEADER_BYTES..]);
            seed
        })
        .collect()
}
