//! The log, read with code that none of us wrote: Cloudflare's `signed_note` and `tlog_tiles`.
//!
//! They parse and verify the checkpoint at every size from 0 to 1,000, rebuild its root from the
//! tiles the relay serves at that size and from the entries, and judge the relay's proofs between
//! all those sizes. Larger trees, at random sizes, are grown by the relay's own library and read
//! from the tiles it writes: what a relay serves is those bytes.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use nexo_audit::entry::split_bundle;
use nexo_schema::bytes::from_base64;
use nexo_server::log::{Edge, Tiles, consistency, inclusion};
use proptest::prelude::*;
use serde_json::Value;
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{
    Checkpoint, Error, Hash, HashReader, Tile, TileHashReader, TileReader, check_record,
    check_tree, prove_record, prove_tree, record_hash, stored_hashes, tree_hash,
};

use crate::harness::wire::Wire;
use crate::harness::{Plain, Server, number};

/// Every size up to here is signed, read and proved.
const EVERY: u64 = 1000;

/// C2SP tlog-tiles: tiles are 8 levels high.
const HEIGHT: u8 = 8;

/// Requests in flight. More only queue in the relay.
const AT_ONCE: usize = 24;

/// A checkpoint by their parser, after their verifier found the log's signature good.
fn opened(note: &[u8], vkey: &str) -> Checkpoint {
    let verifier = StandardVerifier::new(vkey).unwrap();
    let note = Note::from_bytes(note).unwrap();
    let (good, unknown) = note.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((good.len(), unknown.len()), (1, 1), "the log's, and the time key's");
    let checkpoint = Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!(checkpoint.extension(), "");
    assert_eq!(good[0].name(), checkpoint.origin());
    checkpoint
}

/// All hashes of a tree as they store them, made from entries alone.
#[derive(Default)]
struct FromEntries {
    hashes: Vec<Hash>,
    size: u64,
}

impl FromEntries {
    fn push(&mut self, entry: &[u8]) {
        let new = stored_hashes(self.size, entry, self).unwrap();
        self.hashes.extend(new);
        self.size += 1;
    }
}

impl HashReader for FromEntries {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let at = |&index: &u64| self.hashes.get(usize::try_from(index).unwrap()).copied();
        indexes.iter().map(at).collect::<Option<_>>().ok_or(Error::IndexesNotInTree)
    }
}

/// Tiles by path, as served: `tile/<L>/<N>[.p/<W>]`.
#[derive(Default)]
struct Served(BTreeMap<String, Vec<u8>>);

/// The path they give a tile has its height in it, which C2SP's has not.
fn path(tile: &Tile) -> String {
    tile.path().replacen("tile/8/", "tile/", 1)
}

impl TileReader for Served {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        tiles.iter().map(|t| self.0.get(&path(t)).cloned().ok_or(Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// A log of [`EVERY`] entries, each committed alone, and its checkpoint at every size.
struct Grown {
    wire: Wire,
    heads: Vec<Checkpoint>,
}

impl Grown {
    async fn by(server: &Server) -> Self {
        let wire = server.wire();
        let head = async || opened(&wire.get("/checkpoint").await.body, server.vkey());
        let mut heads = vec![head().await];
        let alice = Plain::new(server, "alice").await;
        heads.push(head().await);
        let conv = alice.conversation("alice").await;
        while (heads.len() as u64) <= EVERY {
            alice.say(&conv, "x").await;
            heads.push(head().await);
        }
        for (size, head) in (0..).zip(&heads) {
            assert_eq!((head.size(), head.origin()), (size, server.origin()));
        }
        Self { wire, heads }
    }

    /// Their hashes over the entries that the relay serves.
    async fn entries(&self) -> FromEntries {
        let mut tree = FromEntries::default();
        for bundle in 0..EVERY.div_ceil(256) {
            let width = (EVERY - bundle * 256).min(256);
            let path = match width {
                256 => format!("/tile/entries/{bundle:03}"),
                partial => format!("/tile/entries/{bundle:03}.p/{partial}"),
            };
            let reply = self.wire.get(&path).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let width = u16::try_from(width).unwrap();
            split_bundle(&reply.body, width).unwrap().iter().for_each(|entry| tree.push(entry));
        }
        tree
    }

    /// Every tile of every size.
    async fn tiles(&self) -> Served {
        let sizes = 0..=EVERY;
        let mut paths: Vec<String> =
            sizes.flat_map(|size| Tile::new_tiles(HEIGHT, 0, size)).map(|t| path(&t)).collect();
        paths.sort_unstable();
        paths.dedup();
        Served(self.all(paths).await.collect())
    }

    /// Reads many paths; `/` is put before each.
    async fn all(&self, paths: Vec<String>) -> impl Iterator<Item = (String, Vec<u8>)> + use<> {
        let read = stream::iter(paths).map(async |path| {
            let reply = self.wire.get(&format!("/{path}")).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            (path, reply.body)
        });
        read.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter()
    }

    /// Reads many JSON views.
    async fn views(&self, paths: Vec<String>) -> impl Iterator<Item = Value> + use<> {
        self.all(paths).await.map(|(_, body)| serde_json::from_slice(&body).unwrap())
    }

    fn head(&self, size: u64) -> &Checkpoint {
        &self.heads[usize::try_from(size).unwrap()]
    }
}

fn hashes(list: &Value) -> Vec<Hash> {
    let hash = |hash: &Value| Hash::parse_hash(hash.as_str().unwrap()).unwrap();
    list.as_array().unwrap().iter().map(hash).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_code_agrees_with_the_relay_at_every_size_to_a_thousand() {
    let server = Server::start();
    let log = Grown::by(&server).await;
    let (entries, tiles) = (log.entries().await, log.tiles().await);

    // Roots: signed, of the entries, of the tiles.
    for head in &log.heads {
        let (size, root) = (head.size(), *head.hash());
        assert_eq!(tree_hash(size, &entries).unwrap(), root, "entries of {size}");
        if size > 0 {
            // Refuses tiles that do not lead to the root.
            let authentic = TileHashReader::new(size, root, &tiles);
            assert_eq!(tree_hash(size, &authentic).unwrap(), root, "tiles of {size}");
        }
    }

    // Consistency: each size with the newest, and with one a stride before it.
    let newest = (1..=EVERY).map(|from| (from, EVERY));
    let strides = (2..=EVERY).map(|to| (1 + (to * 617) % (to - 1), to));
    let path = |(from, to)| format!("log/consistency?from={from}&to={to}");
    for view in log.views(newest.chain(strides).map(path).collect()).await {
        let (from, to) = (number(&view["from"]), number(&view["to"]));
        let (old, new) = (log.head(from), log.head(to));
        let proof = hashes(&view["hashes"]);
        check_tree(&proof, to, *new.hash(), from, *old.hash()).unwrap();
        assert_eq!(proof, prove_tree(to, from, &entries).unwrap(), "{from} to {to}");
    }

    // Inclusion: the newest leaf of each size, and one before it.
    let indexes = (1..=EVERY).flat_map(|size| [(size - 1, size), ((size * 617) % size, size)]);
    let path = |(index, size)| format!("log/inclusion?index={index}&size={size}");
    for view in log.views(indexes.map(path).collect()).await {
        let (index, size) = (number(&view["index"]), number(&view["size"]));
        let leaf = Hash::parse_hash(view["leaf_hash"].as_str().unwrap()).unwrap();
        let head = log.head(size);
        let proof = hashes(&view["hashes"]);
        check_record(&proof, size, *head.hash(), index, leaf).unwrap();
        assert_eq!(proof, prove_record(size, index, &entries).unwrap(), "{index} of {size}");
    }
    server.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_code_verifies_offline_proofs() {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    for count in 0..12u64 {
        for index in 0..=count {
            let file = server.wire().get(&format!("/log/proof?index={index}")).await.text();
            let (proof, note) = file.split_once("\n\n").unwrap();
            let head = opened(note.as_bytes(), server.vkey());
            let mut lines = proof.lines();
            assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
            let entry = lines.next().unwrap().strip_prefix("extra ").unwrap();
            let leaf = record_hash(&from_base64(entry).unwrap());
            let place = format!("index {index}");
            assert_eq!(lines.next(), Some(place.as_str()));
            let path = lines.map(|line| Hash::parse_hash(line).unwrap()).collect();
            check_record(&path, head.size(), *head.hash(), index, leaf).unwrap();
            assert!(check_record(&path, head.size(), *head.hash(), index ^ 1, leaf).is_err());
        }
        alice.say(&conv, "x").await;
    }
}

/// A large tree as the relay's library grows it: the last state of each tile, and the root at
/// some sizes.
struct Large {
    tiles: BTreeMap<(u8, u64), Vec<u8>>,
    roots: Vec<(u64, Hash)>,
}

impl Large {
    fn grown_through(sizes: &[u64]) -> Self {
        let (mut edge, mut tiles, mut roots) = (Edge::default(), BTreeMap::new(), Vec::new());
        for &size in sizes {
            let leaves: Vec<_> =
                (edge.size()..size).map(|n| record_hash(&n.to_be_bytes()).0).collect();
            let written = edge.append(&leaves);
            tiles.extend(written.into_iter().map(|t| ((t.level, t.index), t.hashes)));
            roots.push((size, Hash(edge.root())));
        }
        Self { tiles, roots }
    }
}

impl TileReader for Large {
    fn height(&self) -> u8 {
        HEIGHT
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let read = |tile: &Tile| {
            let bytes = self.tiles.get(&(tile.level(), tile.level_index()))?;
            Some(bytes.get(..usize::try_from(tile.width()).ok()? * 32)?.to_vec())
        };
        tiles.iter().map(|tile| read(tile).ok_or(Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// The same tiles, for the relay's library.
struct Ours<'a>(&'a Large);

impl Tiles for Ours<'_> {
    type Error = Error;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<[u8; 32]>, Error> {
        let tile = Tile::new(HEIGHT, level, index, width.into(), false);
        let read = self.0.read_tiles(&[tile])?.remove(0);
        Ok(read.as_chunks::<32>().0.to_vec())
    }
}

fn theirs(proof: Vec<[u8; 32]>) -> Vec<Hash> {
    proof.into_iter().map(Hash).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]
    #[test]
    fn strangers_code_agrees_in_larger_trees(
        mut sizes in prop::collection::btree_set(1001u64..150_000, 8),
        leaves in prop::collection::vec(any::<u64>(), 8),
    ) {
        // Where a level is just full, or has just begun.
        sizes.extend([65_535, 65_536, 65_537]);
        let sizes: Vec<u64> = sizes.into_iter().collect();
        let log = Large::grown_through(&sizes);
        for (at, &(size, root)) in log.roots.iter().enumerate() {
            let authentic = TileHashReader::new(size, root, &log);
            prop_assert_eq!(tree_hash(size, &authentic).unwrap(), root);
            for leaf in &leaves {
                let index = leaf % size;
                let path = theirs(inclusion(index, size, &mut Ours(&log)).unwrap());
                prop_assert_eq!(&path, &prove_record(size, index, &authentic).unwrap());
                let hash = record_hash(&index.to_be_bytes());
                check_record(&path, size, root, index, hash).unwrap();
            }
            for &(from, old) in &log.roots[..=at] {
                let proof = theirs(consistency(from, size, &mut Ours(&log)).unwrap());
                prop_assert_eq!(&proof, &prove_tree(size, from, &authentic).unwrap());
                check_tree(&proof, size, root, from, old).unwrap();
            }
        }
    }
}
