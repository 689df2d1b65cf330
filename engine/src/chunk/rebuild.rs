//! Chunks of a part are made again from its others and written to their disks.
//!
//! What must hold: what is written was coded from verified blocks; a chunk is reported as written only when it is flushed and
//! recorded; an older chunk of the same name stays readable until then.

use super::read::{PartReader, WINDOW_BYTES};
use crate::core::Core;
use crate::manifest::Part;
use crate::message::{ChunkName, DiskIndex, Refusal, Request};
use crate::object::api::ObjectError;
use buckets_env::{AlignedBuf, AlignedBytes};
use bytes::Bytes;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A block that came from another node as it was has no padding.
fn for_disk(data: AlignedBytes) -> AlignedBytes {
    if data.is_aligned() { data } else { AlignedBuf::padded_copy(&data).freeze() }
}

/// Writes `chunks` of a part, given those that are not to be read (bit `i`: chunk `i`). Returns the numbers of those that are
/// durable now.
pub(crate) async fn rebuild(
    core: &Rc<Core>,
    part: &Part,
    unread: u32,
    chunks: &[(u8, DiskIndex)],
    owner: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let mut readable = part.clone();
    readable.placement.missing |= unread;
    let reader = PartReader::new(core, &readable, None)?;
    let mut left: Vec<(u8, DiskIndex)> = chunks.to_vec();
    let stripes = reader.stripes(&(0..part.size));
    let per_window = reader.stripes_per(WINDOW_BYTES);
    let mut start = stripes.start;
    while start < stripes.end && !left.is_empty() {
        let window = start..stripes.end.min(start + per_window);
        start = window.end;
        // What is read, and what is made of it.
        let bytes = 2 * reader.bytes_of(&window);
        let _held = core.body_share(bytes).await?;
        let wanted: BTreeSet<u8> = left.iter().map(|(chunk, _)| *chunk).collect();
        let blocks = reader.read_chunks(window.clone(), &wanted).await?;
        for stripe in window {
            let appends = left.iter().map(|(chunk, disk)| {
                let block = blocks.get(&(*chunk, stripe)).cloned();
                let (disk, owner) = (*disk, owner.clone());
                let chunk = ChunkName { object: part.object, number: *chunk };
                async move {
                    let block = block.ok_or(ObjectError::Internal("a block was not rebuilt".into()))?;
                    let append = Request::ChunkAppend {
                        disk,
                        chunk,
                        block: stripe,
                        len: block.len,
                        data: for_disk(block.data),
                        finish: (stripe + 1 == stripes.end).then_some(owner),
                    };
                    core.ask_disk(disk, append).await
                }
            });
            let answers = join_all(appends.collect::<Vec<_>>()).await;
            let mut answers = answers.into_iter();
            left.retain(|(chunk, _)| match answers.next() {
                Some(Ok(_)) => true,
                Some(Err(refusal)) => {
                    tracing::debug!(object = %part.object, chunk, %refusal, "a chunk could not be written again");
                    false
                }
                None => false,
            });
        }
    }
    Ok(left.into_iter().map(|(chunk, _)| chunk).collect())
}
