//! Writing an image into a domain's memory.
//!
//! A page that is mapped costs dom0 two hypercalls (Linux puts foreign frames into its own address space one by one),
//! so pages that would be zero are not mapped: fresh memory is zero already, and a fifth of a kernel is. What remains
//! is mapped in large batches and copied once, straight from the unpacked file.

use xendev::PAGE_SIZE;

use super::Piece;
use crate::{Hyper, Result};

/// Pages mapped at once: 16 MiB.
const BATCH: usize = 4096;

/// What loading took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Pages mapped and written.
    pub written: usize,
    /// Pages that were left zero.
    pub skipped: usize,
}

/// The part of a piece that lies in one page.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    piece: usize,
    /// Offset in the piece.
    from: usize,
    len: usize,
    gfn: u64,
    /// Offset in the page.
    at: usize,
}

/// Writes pieces into a domain whose memory is there, zeroed, and not yet running.
///
/// # Errors
/// Where pages cannot be mapped.
pub fn load(hyper: &Hyper, domid: u16, pieces: &[Piece<'_>]) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut batch: Vec<Chunk> = Vec::with_capacity(BATCH);
    for (index, piece) in pieces.iter().enumerate() {
        for chunk in chunks(index, piece) {
            let data = piece
                .data
                .get(chunk.from..chunk.from + chunk.len)
                .unwrap_or_default();
            if is_zero(data) {
                loaded.skipped += 1;
                continue;
            }
            batch.push(chunk);
            if batch.len() == BATCH {
                loaded.written += write(hyper, domid, pieces, &batch)?;
                batch.clear();
            }
        }
    }
    if !batch.is_empty() {
        loaded.written += write(hyper, domid, pieces, &batch)?;
    }
    Ok(loaded)
}

/// A piece, page by page.
fn chunks(piece: usize, of: &Piece<'_>) -> impl Iterator<Item = Chunk> {
    let page = PAGE_SIZE as u64;
    let (start, total) = (of.at, of.data.len());
    let mut from = 0;
    std::iter::from_fn(move || {
        if from == total {
            return None;
        }
        let address = start + from as u64;
        let at = usize::try_from(address % page).unwrap_or(0);
        let len = (total - from).min(PAGE_SIZE - at);
        let chunk = Chunk {
            piece,
            from,
            len,
            gfn: address / page,
            at,
        };
        from += len;
        Some(chunk)
    })
}

/// Writes chunks through one mapping; returns how many pages it has.
fn write(hyper: &Hyper, domid: u16, pieces: &[Piece<'_>], batch: &[Chunk]) -> Result<usize> {
    let mut gfns: Vec<u64> = batch.iter().map(|chunk| chunk.gfn).collect();
    // two pieces may meet in a page
    gfns.dedup();
    let pages = hyper.map_foreign(domid, &gfns, true)?;
    let mut rest = batch;
    let mut page = 0;
    while let Some(first) = rest.first() {
        let run = run_length(rest);
        let (these, next) = rest.split_at(run);
        let len: usize = these.iter().map(|chunk| chunk.len).sum();
        let data = pieces
            .get(first.piece)
            .and_then(|piece| piece.data.get(first.from..first.from + len));
        pages.write(page * PAGE_SIZE + first.at, data.unwrap_or_default());
        let last_gfn = first.gfn + run as u64 - 1;
        page += run - usize::from(next.first().is_some_and(|chunk| chunk.gfn == last_gfn));
        rest = next;
    }
    Ok(gfns.len())
}

/// How many chunks from the first on are neighbours, in the piece and in the domain.
fn run_length(chunks: &[Chunk]) -> usize {
    let follows = |pair: &&[Chunk]| matches!(pair, [a, b] if a.piece == b.piece && b.from == a.from + a.len && b.gfn == a.gfn + 1);
    1 + chunks.windows(2).take_while(follows).count()
}

fn is_zero(data: &[u8]) -> bool {
    let (words, tail) = data.as_chunks::<64>();
    let zero = |word: &[u8; 64]| {
        word.as_chunks::<8>()
            .0
            .iter()
            .fold(0, |or, bytes| or | u64::from_ne_bytes(*bytes))
            == 0
    };
    words.iter().all(zero) && tail.iter().all(|&byte| byte == 0)
}
