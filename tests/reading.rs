//! The public log as C2SP readers and people read it, at every size around the tile boundary.
//!
//! Formats byte for byte (signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles), what a
//! cache may keep, and the JSON views, whose proofs must satisfy the auditor's verifiers for
//! every pair of sizes.

use nexo_audit::checkpoint::Checkpoint;
use nexo_audit::entry::Entry;
use nexo_audit::merkle::CompactRange;
use nexo_audit::{Hash, LogKey, leaf_hash};
use nexo_schema::bytes::from_base64;
use sha2::{Digest as _, Sha256};

use crate::harness::reader::{Reader, hashes, plain_entry};
use crate::harness::{Engine, Plain, Reply, Server, both, now, number, text};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// May be kept, and is asked about before each use.
const REVALIDATE: &str = "no-cache";

/// A log that grows by one entry at a time, each in a batch of its own, so that every size is
/// signed.
struct Grower {
    server: Server,
    alice: Plain,
    conv: String,
    reader: Reader,
}

impl Grower {
    async fn start(engine: Engine) -> Self {
        let server = engine.start();
        let alice = Plain::new(&server, "alice").await;
        let conv = alice.conversation("alice").await;
        let reader = Reader::of(&server);
        Self { server, alice, conv, reader }
    }

    /// Grows the log to a size; the newest head.
    async fn to(&self, size: u64) -> Checkpoint {
        let mut head = self.reader.head().await.checkpoint;
        while head.size < size {
            let sent = self.alice.say(&self.conv, &format!("entry {}", head.size)).await;
            assert_eq!(number(&sent["sth_index"]), head.size + 1);
            head = self.reader.head().await.checkpoint;
        }
        assert_eq!(head.size, size);
        head
    }
}

/// Fails unless the answer is one for everybody, of this type and with this caching.
fn public(reply: &Reply, kind: &str, caching: &str) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), kind, "{reply:?}");
    assert_eq!(reply.header("cache-control"), caching, "{reply:?}");
    assert_eq!(reply.header("access-control-allow-origin"), "*", "{reply:?}");
    assert_eq!(reply.header("x-content-type-options"), "nosniff", "{reply:?}");
}

/// Name, key id and the rest of a signature line of a note.
fn signature_line(line: &str) -> (&str, Vec<u8>, Vec<u8>) {
    let (name, blob) = line.strip_prefix("— ").expect("an em dash").split_once(' ').unwrap();
    let blob = from_base64(blob).unwrap();
    (name, blob[..4].to_vec(), blob[4..].to_vec())
}

/// C2SP signed-note: first four bytes of SHA-256(name LF kind key).
fn key_id(vkey: &str) -> Vec<u8> {
    let (name, rest) = vkey.split_once('+').unwrap();
    let blob = from_base64(rest.split_once('+').unwrap().1).unwrap();
    Sha256::new().chain_update(name).chain_update("\n").chain_update(blob).finalize()[..4].to_vec()
}

both!(async the_checkpoint_is_a_signed_note_of_three_lines_and_two_signatures);
async fn the_checkpoint_is_a_signed_note_of_three_lines_and_two_signatures(engine: Engine) {
    let log = Grower::start(engine).await;
    log.to(5).await;
    let reply = log.reader.get("/checkpoint").await;
    public(&reply, "text/plain; charset=utf-8", REVALIDATE);
    let note = reply.text();
    let (body, signatures) = note.split_once("\n\n").unwrap();
    let lines: Vec<&str> = body.split('\n').collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (3, log.server.origin(), "5"));
    assert_eq!(from_base64(lines[2]).unwrap().len(), 32);
    assert!(signatures.ends_with('\n'));
    let [ours, time] = signatures.lines().collect::<Vec<_>>()[..] else { panic!("{note}") };

    let (name, id, signature) = signature_line(ours);
    assert_eq!((name, id, signature.len()), (lines[0], key_id(log.server.vkey()), 64));
    let time_key = log.reader.time_key().await;
    let (name, id, cosignature) = signature_line(time);
    assert_eq!(name, format!("{}/time", lines[0]));
    assert_eq!((id, cosignature.len()), (key_id(&time_key.to_string()), 72));
    // Verified by `head`; here only that the seconds are the first eight bytes.
    let seconds = u64::from_be_bytes(cosignature[..8].try_into().unwrap());
    assert_eq!(log.reader.head().await.time, Some(seconds));
    assert!(seconds.abs_diff(now()) < 60, "{seconds}");
}

both!(async the_key_list_names_the_time_key_and_is_signed_by_the_log);
async fn the_key_list_names_the_time_key_and_is_signed_by_the_log(engine: Engine) {
    let server = engine.start();
    let reader = Reader::of(&server);
    let reply = reader.get("/log/keys").await;
    public(&reply, "text/plain; charset=utf-8", REVALIDATE);
    let note = reply.text();
    let time_key = reader.time_key().await;
    let text = format!("nexo/1/log-keys\n{}\ntime {time_key}\n\n— ", server.origin());
    assert!(note.starts_with(&text), "{note}");
    assert_eq!(note.lines().count(), 5);
    // Another log's key does not open it.
    let other = LogKey::parse(engine.start().vkey()).unwrap();
    assert!(nexo_audit::parse_log_keys(note.as_bytes(), &other).is_err());
    let altered = note.replacen("time ", "time x", 1);
    let key = LogKey::parse(server.vkey()).unwrap();
    assert!(nexo_audit::parse_log_keys(altered.as_bytes(), &key).is_err());
}

both!(async the_log_states_its_own_key_for_a_first_use);
async fn the_log_states_its_own_key_for_a_first_use(engine: Engine) {
    let server = engine.start();
    let reply = Reader::of(&server).get("/log/vkey").await;
    public(&reply, "text/plain; charset=utf-8", REVALIDATE);
    assert_eq!(reply.text(), format!("{}\n", server.vkey()));
}

both!(async an_empty_log_has_a_head_too);
async fn an_empty_log_has_a_head_too(engine: Engine) {
    let server = engine.start();
    let reader = Reader::of(&server);
    let head = reader.head().await.checkpoint;
    assert_eq!((head.size, head.root), (0, nexo_audit::merkle::empty_root()));
    assert_eq!(reader.head_at(0).await, head);
    for path in ["/tile/0/000.p/1", "/tile/0/000", "/tile/entries/000.p/1", "/tile/entries/000"] {
        reader.get(path).await.problem(404, "not_found");
    }
    reader.get("/log/inclusion?index=0&size=0").await.problem(400, "bad_request");
    reader.get("/log/consistency?from=0&to=0").await.problem(400, "bad_request");
}

both!(async json_proofs_satisfy_the_auditor_for_every_pair_of_small_sizes);
async fn json_proofs_satisfy_the_auditor_for_every_pair_of_small_sizes(engine: Engine) {
    const SIZES: u64 = 35;
    let log = Grower::start(engine).await;
    let newest = log.to(SIZES).await;
    let entries = log.reader.entries(SIZES).await;
    let mut heads = vec![log.reader.head_at(0).await];
    for size in 1..=SIZES {
        heads.push(log.reader.head_at(size).await);
    }
    assert_eq!(heads.last(), Some(&newest));
    for (at, new) in heads.iter().enumerate().skip(1) {
        for old in &heads[1..=at] {
            log.reader.extends(old, new).await;
        }
        for index in 0..new.size {
            let leaf = log.reader.includes(index, new).await;
            assert_eq!(leaf, leaf_hash(&entries[usize::try_from(index).unwrap()]));
        }
    }
}

both!(async an_entry_is_covered_by_the_head_of_its_batch);
async fn an_entry_is_covered_by_the_head_of_its_batch(engine: Engine) {
    let log = Grower::start(engine).await;
    log.to(9).await;
    let path = "/log/head?covering=";
    for bad in ["", "0", "-1"] {
        log.reader.get(&format!("{path}{bad}")).await.problem(400, "bad_request");
    }
    log.reader.get("/log/head?covering=10").await.problem(404, "not_found");
    // Each entry came in a batch of its own.
    for position in [8, 9] {
        let view = log.reader.get(&format!("{path}{position}")).await.ok();
        assert_eq!(number(&view["size"]), position, "{view}");
        assert_eq!(log.reader.get(&format!("/log/head/{position}")).await.ok(), view);
    }
}

both!(async json_views_are_for_everybody_and_refuse_what_does_not_exist);
async fn json_views_are_for_everybody_and_refuse_what_does_not_exist(engine: Engine) {
    let log = Grower::start(engine).await;
    let head = log.to(9).await;
    let view = log.reader.get("/log/head").await;
    public(&view, "application/json", REVALIDATE);
    let view = view.ok();
    assert_eq!((number(&view["size"]), text(&view["root"])), (9, head.root_base64()));
    assert_eq!(view["origin"], log.server.origin());
    assert_eq!(Some(number(&view["time"])), log.reader.head().await.time);
    assert_eq!(text(&view["note"]), log.reader.get("/checkpoint").await.text());
    for path in ["/log/head/9", "/log/inclusion?index=0&size=9", "/log/consistency?from=1&to=9"] {
        let reply = log.reader.get(path).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, "*"));
    }
    // Without a size the newest is meant.
    let view = log.reader.get("/log/inclusion?index=3").await.ok();
    assert_eq!((number(&view["index"]), number(&view["size"])), (3, 9));
    let view = log.reader.get("/log/consistency?from=9").await.ok();
    assert_eq!((number(&view["to"]), hashes(&view["hashes"]).len()), (9, 0));

    let cases = [
        (
            404,
            "not_found",
            vec![
                "/log/head/10",
                "/log/inclusion?index=0&size=10",
                "/log/consistency?from=1&to=10",
                "/log/consistency?from=10&to=9223372036854775807",
            ],
        ),
        (
            400,
            "bad_request",
            vec![
                "/log/head/x",
                "/log/head/-1",
                "/log/head/09",
                "/log/inclusion",
                "/log/inclusion?size=9",
                "/log/inclusion?index=9&size=9",
                "/log/inclusion?index=-1",
                "/log/inclusion?index=1&size=",
                "/log/inclusion?index=18446744073709551616",
                "/log/consistency",
                "/log/consistency?from=0&to=9",
                "/log/consistency?from=9&to=8",
                "/log/consistency?from=1e0",
                "/log/consistency?from=1&to=9223372036854775808",
                "/log/consistency?to=9",
            ],
        ),
    ];
    for (status, code, paths) in cases {
        for path in paths {
            log.reader.get(path).await.problem(status, code);
        }
    }
}

both!(async tiles_and_bundles_are_there_for_every_published_width_and_no_other);
async fn tiles_and_bundles_are_there_for_every_published_width_and_no_other(engine: Engine) {
    let log = Grower::start(engine).await;
    let mut seen: Vec<(u64, Vec<Hash>)> = Vec::new();
    for size in [1, 2, 255, 256, 257, 513] {
        let head = log.to(size).await;
        let leaves = tree(&log, &head).await;
        // What was once served stays as it was.
        for (size, earlier) in &seen {
            assert_eq!(leaves[..earlier.len()], earlier[..], "size {size}");
        }
        seen.push((size, leaves));
    }
}

/// Reads every resource of a size, and that there is nothing behind its end; the leaves.
async fn tree(log: &Grower, head: &Checkpoint) -> Vec<Hash> {
    let (full, rest) = (head.size / 256, head.size % 256);
    let mut leaves = Vec::new();
    for tile in 0..full {
        leaves.extend(tile_of(log, tile, 256).await);
        absent(log, &[&format!("{tile:03}.p/0"), &format!("{tile:03}.p/256")]).await;
    }
    if rest > 0 {
        leaves.extend(tile_of(log, full, rest).await);
    } else {
        absent(log, &[&format!("{full:03}.p/1")]).await;
    }
    absent(log, &[&format!("{full:03}.p/{}", rest + 1), &format!("{full:03}")]).await;
    absent(log, &[&format!("{:03}.p/1", full + 1)]).await;
    let mut range = CompactRange::new();
    leaves.iter().for_each(|leaf| range.append(*leaf));
    assert_eq!(range.root(), head.root, "size {}", head.size);

    // Level 1 holds the roots of the full tiles below.
    for width in 1..=full {
        let roots = leaves.chunks_exact(256).take(usize::try_from(width).unwrap());
        let expected: Vec<u8> = roots.flat_map(root).collect();
        let reply = log.reader.get(&format!("/tile/1/000.p/{width}")).await;
        public(&reply, "application/octet-stream", IMMUTABLE);
        assert_eq!(reply.body, expected);
    }
    let beyond = [format!("/tile/1/000.p/{}", full + 1), "/tile/2/000.p/1".into()];
    for path in beyond.iter().map(String::as_str).chain(["/tile/1/000", "/tile/63/000.p/1"]) {
        log.reader.get(path).await.problem(404, "not_found");
    }
    leaves
}

fn root(leaves: &[Hash]) -> Hash {
    let mut range = CompactRange::new();
    leaves.iter().for_each(|leaf| range.append(*leaf));
    range.root()
}

/// Neither a tile nor a bundle of that path is there.
async fn absent(log: &Grower, paths: &[&str]) {
    for path in paths {
        for kind in ["0", "entries"] {
            log.reader.get(&format!("/tile/{kind}/{path}")).await.problem(404, "not_found");
        }
    }
}

/// Reads a tile and its bundle in every width up to this one; the leaves.
async fn tile_of(log: &Grower, tile: u64, width: u64) -> Vec<Hash> {
    let path = |width: u64| match width {
        256 => format!("{tile:03}"),
        partial => format!("{tile:03}.p/{partial}"),
    };
    let reply = log.reader.get(&format!("/tile/0/{}", path(width))).await;
    public(&reply, "application/octet-stream", IMMUTABLE);
    let hashes = nexo_audit::tile::hashes(&reply.body, u16::try_from(width).unwrap()).unwrap();
    let reply = log.reader.get(&format!("/tile/entries/{}", path(width))).await;
    public(&reply, "application/octet-stream", IMMUTABLE);
    let bundle = reply.body;
    // Ends between entries, so that each width is a prefix.
    let mut end = 0;
    for part in 1..=width {
        let length = u16::from_be_bytes([bundle[end], bundle[end + 1]]);
        let start = end + 2;
        end = start + usize::from(length);
        let leaf = &hashes[usize::try_from(part - 1).unwrap()];
        assert_eq!(leaf_hash(&bundle[start..end]), *leaf, "{part} of {tile}");
        Entry::parse(&bundle[start..end]).unwrap();
        let served = log.reader.bytes(&format!("/tile/entries/{}", path(part))).await;
        assert_eq!(served, bundle[..end]);
        let served = log.reader.bytes(&format!("/tile/0/{}", path(part))).await;
        assert_eq!(served, hashes[..usize::try_from(part).unwrap()].concat());
    }
    assert_eq!(end, bundle.len());
    hashes
}

both!(async tile_paths_have_one_spelling);
async fn tile_paths_have_one_spelling(engine: Engine) {
    let log = Grower::start(engine).await;
    log.to(3).await;
    log.reader.bytes("/tile/0/000.p/3").await;
    for path in [
        "/tile/0/0",
        "/tile/0/00",
        "/tile/0/0000",
        "/tile/0/x000/000",
        "/tile/0/000.p/03",
        "/tile/0/000.p/+3",
        "/tile/0/000.p/",
        "/tile/0/000.p",
        "/tile/0/000/3",
        "/tile/0/000.p/3/1",
        "/tile/0/-01",
        "/tile/0/",
        "/tile/0",
        "/tile/entries",
        "/tile/entries/0.p/3",
        "/tile/0/000.P/3",
        "/tile/00/000.p/3",
        "/tile/64/000.p/1",
        "/tile/-1/000.p/3",
        "/tile/x/000.p/3",
        "/tile/256/000.p/3",
        "/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        log.reader.get(path).await.refusal();
    }
}

both!(async entries_are_those_of_the_messages_and_stay_when_a_message_is_deleted);
async fn entries_are_those_of_the_messages_and_stay_when_a_message_is_deleted(engine: Engine) {
    let log = Grower::start(engine).await;
    let said = log.alice.say(&log.conv, "soon gone").await;
    let place = usize::try_from(number(&said["sth_index"])).unwrap();
    let before = log.reader.head().await.checkpoint;
    let expected = plain_entry(log.server.origin(), &said);
    assert_eq!(log.reader.entries(before.size).await[place - 1], expected);
    log.alice.delete(&log.conv, &text(&said["msg_id"])).await.ok();
    let after = log.reader.head().await.checkpoint;
    assert_eq!(after.size, before.size + 1, "a deletion is an entry");
    let entries = log.reader.entries(after.size).await;
    assert_eq!(entries[place - 1], expected);
    let last = Entry::parse(entries.last().unwrap()).unwrap();
    assert!(matches!(last, Entry::PlainDeletion { .. }), "{last:?}");
    log.reader.extends(&before, &after).await;
}
