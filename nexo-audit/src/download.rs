//! Fetching the leaves between two heads: in order, a few tiles ahead.
//!
//! A partial tile may be deleted once its full one exists (C2SP tlog-tiles), which can happen
//! between reading the head and asking for the tile. So a 404 on a partial one is answered by
//! asking for the full one; only a 404 on that means that leaves are missing.

use crate::fetch::{FetchError, Source};
use crate::finding::Finding;
use crate::rebuild::{Chunk, Served};
use crate::tile::{Span, WIDTH};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Tiles in flight or waiting for their turn, for one reader. Hides the round trip; bounds the
/// memory to 8 x ([`MAX_BUNDLE`] + [`MAX_TILE`]).
pub(crate) const AHEAD: usize = 8;
/// A full tile.
pub(crate) const MAX_TILE: usize = 256 * 32;
/// Longest bundle that is read. 256 of today's entries are at most 34 kB (133 bytes each and a
/// length); the rest is room for kinds to come.
const MAX_BUNDLE: usize = 1 << 20;

/// Chunks of a range of leaves. Runs inside a Tokio runtime; dropping it stops the requests.
pub(crate) struct Download<S, I> {
    source: Arc<S>,
    spans: I,
    running: JoinSet<(u64, Result<Chunk, Finding>)>,
    arrived: BTreeMap<u64, Result<Chunk, Finding>>,
    next: u64,
    ahead: usize,
}

impl<S: Source, I: Iterator<Item = Span>> Download<S, I> {
    /// `spans` must be of consecutive tiles, the first of which is `first`; so many are asked for
    /// ahead of the one that is taken.
    pub(crate) fn new(source: Arc<S>, first: u64, spans: I, ahead: usize) -> Self {
        let (running, arrived) = (JoinSet::new(), BTreeMap::new());
        Self { source, spans, running, arrived, next: first, ahead }
    }

    /// The next chunk in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<Chunk, Finding>> {
        loop {
            self.fill();
            if let Some(chunk) = self.arrived.remove(&self.next) {
                self.next += 1;
                return Some(chunk);
            }
            match self.running.join_next().await? {
                Ok((tile, chunk)) => drop(self.arrived.insert(tile, chunk)),
                // Nothing cancels a request while this waits, so it panicked: a bug, passed on.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    fn fill(&mut self) {
        while self.running.len() + self.arrived.len() < self.ahead {
            let Some(span) = self.spans.next() else { return };
            let source = Arc::clone(&self.source);
            self.running.spawn(async move { (span.tile, chunk(&*source, span).await) });
        }
    }
}

/// A tile and its entries.
pub(crate) async fn chunk<S: Source>(source: &S, span: Span) -> Result<Chunk, Finding> {
    let at = |width| Span { width, ..span };
    let (tile, bundle) = tokio::try_join!(
        served(source, span.width, MAX_TILE, |width| at(width).tile_path()),
        served(source, span.width, MAX_BUNDLE, |width| at(width).bundle_path()),
    )?;
    Ok(Chunk { span, tile, bundle })
}

/// The resource that has a path at every width, at this one or, when that is gone, in full.
pub(crate) async fn served<S: Source>(
    source: &S,
    width: u16,
    limit: usize,
    path_of: impl Fn(u16) -> String,
) -> Result<Served, Finding> {
    let path = path_of(width);
    match source.get(&path, limit).await {
        Ok(bytes) => Ok(Served { path, width, bytes }),
        Err(FetchError::NotFound) if u64::from(width) < WIDTH => {
            let (full, full_path) = (256, path_of(256));
            match source.get(&full_path, limit).await {
                Ok(bytes) => Ok(Served { path: full_path, width: full, bytes }),
                // The head says that the partial one exists; it says nothing of the full one.
                Err(FetchError::NotFound) => Err(Finding::MissingResource { path }),
                Err(error) => Err(Finding::of_fetch(&full_path, error)),
            }
        }
        Err(error) => Err(Finding::of_fetch(&path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::Shelf;
    use crate::tile::spans;

    async fn all(source: Shelf, from: u64, to: u64) -> Vec<Result<Chunk, Finding>> {
        let mut download = Download::new(Arc::new(source), from / WIDTH, spans(from, to), AHEAD);
        let mut chunks = Vec::new();
        while let Some(chunk) = download.next().await {
            chunks.push(chunk);
        }
        chunks
    }

    #[tokio::test]
    async fn chunks_come_in_order_however_they_arrive() {
        let source = Shelf::default().shuffled();
        for tile in 0..40 {
            source.put(&format!("tile/0/{tile:03}"), vec![tile; 3]);
            source.put(&format!("tile/entries/{tile:03}"), vec![tile; 5]);
        }
        let chunks = all(source, 0, 40 * 256).await;
        assert_eq!(chunks.len(), 40);
        for (tile, chunk) in (0u8..).zip(chunks) {
            let chunk = chunk.unwrap();
            assert_eq!(chunk.span.tile, u64::from(tile));
            assert_eq!((chunk.tile.bytes[0], chunk.bundle.bytes[4]), (tile, tile));
        }
    }

    #[tokio::test]
    async fn a_partial_tile_that_is_gone_is_read_from_the_full_one() {
        let source = Shelf::default();
        source.put("tile/0/000", vec![1]);
        source.put("tile/entries/000.p/7", vec![2]);
        let chunks = all(source, 0, 7).await;
        let chunk = chunks[0].as_ref().unwrap();
        assert_eq!((chunk.tile.width, chunk.tile.path.as_str()), (256, "tile/0/000"));
        assert_eq!((chunk.bundle.width, chunk.bundle.path.as_str()), (7, "tile/entries/000.p/7"));
    }

    #[tokio::test]
    async fn missing_and_oversized_resources_are_named() {
        let source = Shelf::default();
        source.put("tile/0/000.p/7", vec![0; 7 * 32]);
        let path = "tile/entries/000.p/7".to_owned();
        assert_eq!(all(source, 0, 7).await, [Err(Finding::MissingResource { path })]);
        let source = Shelf::default();
        source.put("tile/0/000.p/7", vec![0; MAX_TILE + 1]);
        source.put("tile/entries/000.p/7", vec![]);
        let [Err(Finding::Malformed { path, .. })] = &all(source, 0, 7).await[..] else {
            panic!("an oversized tile was taken");
        };
        assert_eq!(path, "tile/0/000.p/7");
    }
}
