//! Operations of all ranks, built on messages between two of them. Rank 0 is the centre of all but the broadcast.

use super::numbers::{self, Number};
use super::{Communicator, CommunicatorError, Kind, Tag};

/// All ranks but this one, in order.
fn others<C: Communicator + ?Sized>(ranks: &C) -> impl Iterator<Item = usize> + use<C> {
    let own = ranks.rank();
    (0..ranks.size()).filter(move |&rank| rank != own)
}

pub(super) fn broadcast<C: Communicator + ?Sized>(
    ranks: &mut C,
    root: usize,
    bytes: &mut Vec<u8>,
    kind: Kind,
) -> Result<(), CommunicatorError> {
    let tag = Tag::of(kind);
    if ranks.rank() != root {
        *bytes = ranks.receive(root, tag)?;
        return Ok(());
    }
    for rank in others(ranks) {
        ranks.send(rank, tag, bytes)?;
    }
    Ok(())
}

/// The messages of all ranks at rank 0, in the order of the ranks; nothing at the others.
fn gather<C: Communicator + ?Sized>(
    ranks: &mut C,
    bytes: &[u8],
    kind: Kind,
) -> Result<Option<Vec<Vec<u8>>>, CommunicatorError> {
    let tag = Tag::of(kind);
    if ranks.rank() != 0 {
        ranks.send(0, tag, bytes)?;
        return Ok(None);
    }
    let mut all = vec![bytes.to_vec()];
    for rank in others(ranks) {
        all.push(ranks.receive(rank, tag)?);
    }
    Ok(Some(all))
}

pub(super) fn all_gather<C: Communicator + ?Sized>(
    ranks: &mut C,
    bytes: &[u8],
) -> Result<Vec<Vec<u8>>, CommunicatorError> {
    // One message back: for every rank the length, and then what it sent.
    let mut joined = Vec::new();
    if let Some(all) = gather(ranks, bytes, Kind::Gather)? {
        for part in all {
            joined.extend((part.len() as u64).to_le_bytes());
            joined.extend(part);
        }
    }
    broadcast(ranks, 0, &mut joined, Kind::Gather)?;
    let length = joined.len();
    let truncated = || CommunicatorError::Length {
        rank: 0,
        expected: "more".to_owned(),
        found: length,
    };
    let mut rest = joined.as_slice();
    let mut all = Vec::with_capacity(ranks.size());
    for _ in 0..ranks.size() {
        let (length, after) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let length = u64::from_le_bytes(*length) as usize;
        let (part, after) = after.split_at_checked(length).ok_or_else(truncated)?;
        all.push(part.to_vec());
        rest = after;
    }
    Ok(all)
}

pub(super) fn all_reduce_sum<T: Number, C: Communicator + ?Sized>(
    ranks: &mut C,
    values: &mut [T],
) -> Result<(), CommunicatorError> {
    let expected = values.len() * T::BYTES;
    let read = |rank: usize, bytes: &[u8]| match bytes.len() == expected {
        true => Ok(numbers::from_bytes::<T>(bytes)),
        false => Err(CommunicatorError::Length {
            rank,
            expected: expected.to_string(),
            found: bytes.len(),
        }),
    };
    let own = numbers::to_bytes(values);
    let mut total = Vec::new();
    if let Some(all) = gather(ranks, &own, Kind::Reduce)? {
        for (rank, bytes) in all.iter().enumerate().skip(1) {
            let terms = read(rank, bytes)?;
            for (sum, term) in values.iter_mut().zip(terms) {
                *sum = *sum + term;
            }
        }
        total = numbers::to_bytes(values);
    }
    broadcast(ranks, 0, &mut total, Kind::Reduce)?;
    values.copy_from_slice(&read(0, &total)?);
    Ok(())
}

pub(super) fn barrier<C: Communicator + ?Sized>(ranks: &mut C) -> Result<(), CommunicatorError> {
    gather(ranks, &[], Kind::Barrier)?;
    broadcast(ranks, 0, &mut Vec::new(), Kind::Barrier)
}
