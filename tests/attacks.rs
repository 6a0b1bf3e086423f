//! The attacks of design/e2ee.md 4 and the holes of 4.B: each has a test, and here is the list.
//!
//! A test that shows an attack has its number in front of its name: `f4_f7_hole_08_...` is about
//! F4, F7 and row 8. What a test shows is read there; that it is there is shown here.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::workspace::{Source, sources};

/// How many attacks each part of the section has. G and I are one each.
const ATTACKS: [(char, u32); 9] = [
    ('a', 12),
    ('b', 14),
    ('c', 11),
    ('d', 9),
    ('e', 15),
    ('f', 13),
    ('g', 0),
    ('h', 14),
    ('i', 0),
];

/// What cannot be attacked here, and why.
const NOT_HERE: [(&str, &str); 1] =
    [("d8", "there are no attachments yet, and so no files that come in pieces")];

/// How many holes the seed has.
const HOLES: u32 = 58;

/// Holes whose tests are named after something else: the row, and a test that fails if it opens.
const NAMED_OTHERWISE: [(u32, &str); 16] = [
    (4, "what_is_sealed_opens_for_all"),
    (10, "b13_every_lie_about_an_account_is_refused"),
    (19, "e9_a_fork"),
    (26, "only_the_author_and_the_very_message_are_wiped"),
    (27, "c6_every_byte_of_payload_and_packet_counts"),
    (28, "a_message_that_does_not_open_changes_nothing_but_its_row"),
    (29, "every_receiving_device_of_the_chain_is_addressed"),
    (30, "c8_c9_a_stolen_state_reads_neither_the_past_nor_what_comes_after_an_answer"),
    (31, "wycheproof_hkdf_sha256"),
    (38, "a_used_refresh_token_ends_the_login_it_belongs_to"),
    // Every refusal is read by `Reply::problem`, which looks for words from the inside.
    (39, "g_headers_of_tokens_that_are_not_ours"),
    // Hundreds of requests on a pool of a few connections.
    (42, "whoever_guesses_tokens_is_slowed_down_and_their_neighbour_is_not"),
    (46, "readers_that_stall_cost_a_bounded_amount_and_nobody_else_anything"),
    (48, "h12_no_secret_is_ever_said"),
    // In clear to another machine only if it is asked for.
    (55, "wrong_usage_is_64"),
    (56, "wycheproof_hkdf_sha256"),
];

/// Holes without a test, and why.
const NOT_HOLES_HERE: [(u32, &str); 2] = [
    (53, "the counts stay in `/health` by decision (design/README.md 5); `contract` has them"),
    (54, "libsodium.js is not loaded by anything here"),
];

/// The names of all tests that run without being asked for.
fn tests() -> BTreeSet<&'static str> {
    let found: BTreeSet<&str> = sources().iter().flat_map(of).collect();
    assert!(found.len() > 800, "{} tests", found.len());
    found
}

fn of(source: &'static Source) -> Vec<&'static str> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = name_of(line) else { continue };
        let above = lines[..at].iter().rev();
        let above: Vec<_> =
            above.take_while(|line| line.starts_with("#[") || line.starts_with("///")).collect();
        let has = |start: &str| above.iter().any(|line| line.starts_with(start));
        // Or it is named in a list of tests that run on both engines.
        let listed =
            [format!("both!({name});"), format!("both!(async {name});"), format!("{name},")];
        let listed = lines.iter().any(|line| listed.iter().any(|one| one == line));
        if (has("#[test]") || has("#[tokio::test") || listed) && !has("#[ignore") {
            found.push(name);
        }
    }
    found
}

fn name_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// The numbers in front of a test's name: `["f4", "f7", "hole_08"]`.
fn numbers(test: &str) -> Vec<String> {
    let mut words = test.split('_').peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if word == "hole" {
            found.extend(words.next().map(|row| format!("hole_{row}")));
        } else if is_attack(word) && (words.peek().is_some()) {
            found.push(word.to_owned());
        } else {
            break;
        }
    }
    found
}

fn is_attack(word: &str) -> bool {
    let Some(part) = word.chars().next() else { return false };
    let known = ATTACKS.iter().find(|(of, _)| *of == part);
    known.is_some_and(|(_, count)| match word[1..].parse::<u32>() {
        Ok(number) => (1..=*count).contains(&number),
        // "A" begins many a test's name: only whole parts have no number.
        Err(_) => word.len() == 1 && *count == 0,
    })
}

fn shown() -> BTreeMap<String, Vec<&'static str>> {
    let mut shown: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for test in tests() {
        for number in numbers(test) {
            shown.entry(number).or_default().push(test);
        }
    }
    shown
}

#[test]
fn every_attack_has_a_test_with_its_number() {
    let shown = shown();
    for (part, count) in ATTACKS {
        let ids = (1..=count).map(|n| format!("{part}{n}"));
        let whole = (count == 0).then(|| part.to_string());
        for id in ids.chain(whole) {
            let excused = NOT_HERE.iter().any(|(of, _)| *of == id);
            assert_ne!(shown.contains_key(&id), excused, "{id}");
        }
    }
}

#[test]
fn every_hole_has_a_test_or_a_reason() {
    let (shown, tests) = (shown(), tests());
    for row in 1..=HOLES {
        let named = shown.contains_key(&format!("hole_{row:02}"));
        let otherwise = NAMED_OTHERWISE.iter().find(|(of, _)| *of == row);
        let excused = NOT_HOLES_HERE.iter().any(|(of, _)| *of == row);
        let otherwise = otherwise.is_some_and(|(_, test)| {
            assert!(tests.contains(test), "hole {row}: there is no test {test}");
            true
        });
        assert!(named || otherwise || excused, "hole {row}");
        assert!(!(excused && (named || otherwise)), "hole {row} has a test after all");
    }
}

#[test]
fn numbers_are_read_from_the_front_of_a_name() {
    assert_eq!(numbers("f4_f7_hole_08_only_the_author"), ["f4", "f7", "hole_08"]);
    assert_eq!(numbers("g_members_that_stand_twice"), ["g"]);
    for none in ["a_token_of_one_device", "f14_nothing", "a0_nothing", "h_nothing", "b1", "e9th_x"]
    {
        assert!(numbers(none).is_empty(), "{none}");
    }
}
