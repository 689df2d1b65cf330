//! What a node tells of itself.

use super::BadWire;
use super::fields::{Fields, PutFields};
use crate::counters::{CoreCounters, RefusedConnections};
use crate::facts::{Facts, Road};
use buckets_env::DiskSpace;
use buckets_peer::HealthState;
use bytes::{BufMut, BytesMut};
use std::time::Duration;

/// By their numbers.
const HEALTH: [HealthState; 4] =
    [HealthState::Up, HealthState::Slow, HealthState::Suspect, HealthState::Down];

/// Names among the counts of what is none.
const LEADS: &str = "groups_led";
const DRAINING: &str = "draining";
const FAR: &str = "far";

pub(super) fn put(facts: &Facts, head: &mut BytesMut) {
    let Facts { counters, refused, spaces, slow, behind, roads, leads, is_draining, is_far } = facts;
    // Among the counts, by names that older builds leave out: they can read the rest.
    let leads = leads.map(|leads| (LEADS, leads));
    let draining = is_draining.then_some((DRAINING, 1));
    let far = is_far.then_some((FAR, 1));
    let named = leads.into_iter().chain(draining).chain(far).collect::<Vec<_>>();
    put_counts(&[counters.values(), counters.gauges(), named].concat(), head);
    head.put_list(&counters.disks, |head, (disk, counts)| {
        head.put_u16_le(*disk);
        put_counts(counts, head);
    });
    put_counts(&refused.values(), head);
    head.put_list(&spaces.iter().collect::<Vec<_>>(), |head, (disk, space)| {
        head.put_u16_le(**disk);
        head.put_u64_le(space.free_bytes);
        head.put_u64_le(space.total_bytes);
    });
    head.put_list(&slow.iter().collect::<Vec<_>>(), |head, disk| head.put_u16_le(**disk));
    head.put_list(&roads.iter().collect::<Vec<_>>(), |head, (node, road)| {
        head.put_u16_le(**node);
        put_road(road, head);
    });
    head.put_list(&behind.iter().collect::<Vec<_>>(), |head, (disk, entries)| {
        head.put_u16_le(**disk);
        head.put_u64_le(**entries);
    });
}

pub(super) fn get(fields: &mut Fields) -> Result<Facts, BadWire> {
    let (mut leads, mut is_draining, mut is_far) = (None, false, false);
    let counters = get_counters(fields, |name, value| match name {
        LEADS => leads = Some(value),
        DRAINING => is_draining = value > 0,
        FAR => is_far = value > 0,
        _ => {}
    })?;
    Ok(Facts {
        counters,
        leads,
        is_draining,
        is_far,
        refused: get_refused(fields)?,
        spaces: fields
            .list(|fields| {
                let disk = fields.u16()?;
                Ok((disk, DiskSpace { free_bytes: fields.u64()?, total_bytes: fields.u64()? }))
            })?
            .into_iter()
            .collect(),
        slow: fields.list(Fields::u16)?.into_iter().collect(),
        roads: fields.list(|fields| Ok((fields.u16()?, get_road(fields)?)))?.into_iter().collect(),
        behind: fields.list(|fields| Ok((fields.u16()?, fields.u64()?)))?.into_iter().collect(),
    })
}

fn put_counts(counts: &[(&'static str, u64)], head: &mut BytesMut) {
    head.put_list(counts, |head, (name, value)| {
        head.put_bytes_of(name.as_bytes());
        head.put_u64_le(*value);
    });
}

/// Counters that this build does not know are left out; `other` sees all of them.
fn get_counters(fields: &mut Fields, mut other: impl FnMut(&str, u64)) -> Result<CoreCounters, BadWire> {
    let mut counters = CoreCounters::default();
    for (name, value) in fields.list(|fields| Ok((fields.text()?, fields.u64()?)))? {
        counters.set(&name, value);
        other(&name, value);
    }
    let known = buckets_disk::CounterValues::default().named();
    counters.disks = fields.list(|fields| {
        let disk = fields.u16()?;
        let counts = fields.list(|fields| {
            let (name, value) = (fields.bytes()?, fields.u64()?);
            let known = known.iter().find(|(known, _)| known.as_bytes() == name);
            Ok(known.map(|(known, _)| (*known, value)))
        })?;
        Ok((disk, counts.into_iter().flatten().collect()))
    })?;
    Ok(counters)
}

fn get_refused(fields: &mut Fields) -> Result<RefusedConnections, BadWire> {
    let mut refused = RefusedConnections::default();
    for (name, value) in fields.list(|fields| Ok((fields.text()?, fields.u64()?)))? {
        refused.set(&name, value);
    }
    Ok(refused)
}

fn put_road(road: &Road, head: &mut BytesMut) {
    let Road { health, round_trip, connected, lost, unreachable, refused } = road;
    head.put_u8(HEALTH.iter().position(|known| known == health).unwrap_or(0) as u8);
    let nanos = round_trip.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    head.put_optional(nanos, BytesMut::put_u64_le);
    [connected, lost, unreachable].into_iter().for_each(|count| head.put_u64_le(*count));
    put_counts(&refused.values(), head);
}

fn get_road(fields: &mut Fields) -> Result<Road, BadWire> {
    let health = HEALTH.get(usize::from(fields.u8()?)).copied();
    Ok(Road {
        health: health.ok_or(BadWire::Range("the health of a node"))?,
        round_trip: fields.optional(Fields::u64)?.map(Duration::from_nanos),
        connected: fields.u64()?,
        lost: fields.u64()?,
        unreachable: fields.u64()?,
        refused: get_refused(fields)?,
    })
}
