//! Lies about what is new: the head is right, and what is served under it is not.

use super::{NOW, Nothing, Observation, Proof, SEEN, Victim, told_to_both, truth};
use crate::harness::liar::{Answer, Log, Site};

/// Tile 1 is full, and begins with entries that the victim knows; 2 is partial.
const FULL: (&str, &str) = ("tile/0/001", "tile/entries/001");
const PARTIAL: (&str, &str) = ("tile/0/002.p/88", "tile/entries/002.p/88");
/// Bytes of an entry in these bundles, its length before it.
const ENTRY: usize = 2 + 11 + 4 + 4 + 4 + 1 + 4 + 32;

#[test]
fn a_rewritten_entry() {
    for (path, index) in [(FULL.1, 511), (PARTIAL.1, 599)] {
        let lie = || truth().altered(path, |bytes| *bytes.last_mut().unwrap() ^= 1);
        let found = told_to_both(lie, 93, "entry_mismatch", Observation);
        assert_eq!(found["detail"]["index"], index);
    }
}

#[test]
fn swapped_entries() {
    let swapped = Log::of(NOW).but(|log| log.entries.swap(400, 401));
    let found =
        told_to_both(|| truth().borrowed(FULL.1, &swapped), 93, "entry_mismatch", Observation);
    assert_eq!(found["detail"]["index"], 400);
}

#[test]
fn a_bundle_of_another_place() {
    let bundle = Log::of(NOW).answer("tile/entries/000").unwrap();
    told_to_both(
        || truth().with(FULL.1, Answer::ok(bundle.clone())),
        93,
        "entry_mismatch",
        Observation,
    );
}

#[test]
fn a_dropped_entry() {
    let lie = || truth().altered(PARTIAL.1, |bytes| bytes.truncate(bytes.len() - ENTRY));
    told_to_both(lie, 95, "bad_entry", Observation);
    // From the tile as well.
    let lie = || lie().altered(PARTIAL.0, |bytes| bytes.truncate(87 * 32));
    told_to_both(lie, 94, "tile_mismatch", Observation);
}

#[test]
fn an_added_entry() {
    let lie = || truth().altered(PARTIAL.1, |bytes| bytes.extend_from_within(..ENTRY));
    told_to_both(lie, 95, "bad_entry", Observation);
}

#[test]
fn entries_and_tiles_of_another_log() {
    let other = Log::of(NOW).but(|log| log.entries.swap(400, 401));
    let lie = || truth().borrowed(FULL.0, &other).borrowed(FULL.1, &other);
    told_to_both(lie, 91, "root_mismatch", Observation);
}

#[test]
fn an_altered_tile() {
    for (path, at, index) in [(FULL.0, 8191, 511), (PARTIAL.0, 0, 512)] {
        let lie = || truth().altered(path, |bytes| bytes[at] ^= 0x80);
        let found = told_to_both(lie, 94, "tile_mismatch", Observation);
        assert_eq!(found["detail"]["index"], index);
    }
}

#[test]
fn tiles_of_wrong_widths() {
    let tile = Log::of(NOW + 1).answer("tile/0/002.p/89").unwrap();
    told_to_both(
        || truth().with(PARTIAL.0, Answer::ok(tile.clone())),
        94,
        "tile_mismatch",
        Observation,
    );
    let full = Log::of(NOW).answer("tile/0/000").unwrap();
    told_to_both(
        || truth().with(PARTIAL.0, Answer::ok(full.clone())),
        94,
        "tile_mismatch",
        Observation,
    );
    told_to_both(
        || truth().with(FULL.0, Answer::ok(&full[32..])),
        94,
        "tile_mismatch",
        Observation,
    );
}

#[test]
fn truncated_tiles() {
    for cut in [0, 1, 31, 32, 87 * 32, 88 * 32 - 1] {
        let lie = truth().altered(PARTIAL.0, |bytes| bytes.truncate(cut));
        Victim::who_knows_the_log().finds(lie, 94, "tile_mismatch", Observation);
    }
    told_to_both(
        || truth().altered(FULL.0, |bytes| bytes.truncate(8191)),
        94,
        "tile_mismatch",
        Observation,
    );
}

#[test]
fn truncated_bundles() {
    for cut in [0, 1, 2, ENTRY - 1, ENTRY, 88 * ENTRY - 1] {
        let lie = truth().altered(PARTIAL.1, |bytes| bytes.truncate(cut));
        Victim::who_knows_the_log().finds(lie, 95, "bad_entry", Observation);
    }
    told_to_both(
        || truth().altered(FULL.1, |bytes| bytes.truncate(8191)),
        95,
        "bad_entry",
        Observation,
    );
}

#[test]
fn bad_length_prefixes() {
    // A length that is one more or less moves every entry after it; 0xffff leads out of the bundle.
    for change in [
        |bytes: &mut Vec<u8>| bytes[1] += 1,
        |bytes: &mut Vec<u8>| bytes[1] -= 1,
        |bytes: &mut Vec<u8>| bytes[..2].fill(0xff),
        |bytes: &mut Vec<u8>| bytes[..2].fill(0),
        |bytes: &mut Vec<u8>| bytes.swap(0, 1),
    ] {
        told_to_both(|| truth().altered(PARTIAL.1, change), 95, "bad_entry", Observation);
    }
}

#[test]
fn junk_that_was_signed() {
    // The tree is right; what it holds is no entry of a Nexo log.
    let junk = Log::of(NOW).but(|log| log.entries[555] = b"junk".to_vec());
    let found = told_to_both(|| Site::of(&junk), 95, "bad_entry", Proof);
    assert_eq!(found["detail"]["index"], 555);
    let future = Log::of(NOW).but(|log| log.entries[555][23] = 0x7f);
    told_to_both(|| Site::of(&future), 95, "bad_entry", Proof);
}

#[test]
fn missing_partials() {
    for path in [PARTIAL.0, PARTIAL.1] {
        let found = told_to_both(|| truth().without(path), 92, "missing_resource", Observation);
        assert_eq!(found["detail"]["path"], path);
    }
}

#[test]
fn missing_full_tiles() {
    for path in [FULL.0, FULL.1] {
        let found = told_to_both(|| truth().without(path), 92, "missing_resource", Observation);
        assert_eq!(found["detail"]["path"], path);
    }
}

/// No lie: partial ones may go once the full one is there (C2SP tlog-tiles).
#[test]
fn partials_that_became_full_meanwhile_are_no_lie() {
    let (older, newer) = (Log::of(NOW), Log::of(768));
    let lie = Site::of(&older).without(PARTIAL.0).without(PARTIAL.1);
    let lie = lie.with("tile/0/002", Answer::ok(newer.answer("tile/0/002").unwrap()));
    let bundle = newer.answer("tile/entries/002").unwrap();
    let site = lie.clone().with("tile/entries/002", Answer::ok(bundle.clone()));
    let victim = Victim::who_knows_the_log();
    victim.check(site.serve().url(), &[]).ok();
    // A full one that is wrong where the head does not reach yet is no matter of this head.
    let beyond =
        Answer::ok([&bundle[..88 * ENTRY + 40], &bundle[88 * ENTRY + 41..], &[0]].concat());
    Victim::who_knows_the_log().finds(
        lie.with("tile/entries/002", beyond),
        95,
        "bad_entry",
        Observation,
    );
}

#[test]
fn what_was_seen_before_is_not_believed_anew() {
    // Entries that were hashed at an earlier audit are not read again, but by who looks at all.
    let first_of_tile = 256;
    assert!(first_of_tile < SEEN);
    let lie = truth().altered(FULL.1, |bytes| bytes[ENTRY - 1] ^= 1);
    Victim::who_knows_the_log().check(lie.clone().serve().url(), &[]).ok();
    for victim in [Victim::who_is_new(), Victim::who_knows_the_log().in_full()] {
        let found = victim.finds(lie.clone(), 93, "entry_mismatch", Observation);
        assert_eq!(found["detail"]["index"], first_of_tile);
    }
    let lie = truth().altered("tile/0/000", |bytes| bytes[0] ^= 1);
    Victim::who_knows_the_log().check(lie.clone().serve().url(), &[]).ok();
    Victim::who_knows_the_log().in_full().finds(lie, 94, "tile_mismatch", Observation);
}

/// Of the upper levels proofs are made, and no entry; who looks at all looks at them.
#[test]
fn upper_tiles() {
    let upper = "tile/1/000.p/2";
    let full = || Victim::who_knows_the_log().in_full();
    for change in [
        |bytes: &mut Vec<u8>| bytes[0] ^= 1,
        |bytes: &mut Vec<u8>| bytes[63] ^= 0x80,
        |bytes: &mut Vec<u8>| bytes.truncate(32),
        |bytes: &mut Vec<u8>| bytes.truncate(63),
        |bytes: &mut Vec<u8>| bytes.extend([0; 32]),
        |bytes: &mut Vec<u8>| bytes.clear(),
    ] {
        let lie = truth().altered(upper, change);
        Victim::who_knows_the_log().check(lie.clone().serve().url(), &[]).ok();
        full().finds(lie.clone(), 94, "tile_mismatch", Observation);
        Victim::who_is_new().in_full().finds(lie, 94, "tile_mismatch", Observation);
    }
    full().finds(truth().without(upper), 92, "missing_resource", Observation);
    let endless = Answer::Endless(String::new(), vec![0; 1 << 16]);
    full().finds(truth().with(upper, endless), 65, "bad_data", Nothing);
}
