//! The rules of a trust file, one at a time, and what its quorums count.

use super::*;
use crate::key::KeyError;
use crate::note::{Note, SignatureError};
use crate::testlog::{NOW, Signers, Witness as Signer, oracle_root};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Lines `witness W<n> <vkey>`.
fn witnesses(count: u8) -> String {
    (0..count).map(|n| format!("witness W{n} {}\n", Signer::new(n).vkey())).collect()
}

fn members(count: u8) -> String {
    (0..count).map(|n| format!(" W{n}")).collect()
}

/// `k` of `n` witnesses.
fn flat(k: usize, n: u8) -> String {
    format!("{}group Q {k}{}\nquorum Q\n", witnesses(n), members(n))
}

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text.as_bytes(), None)
}

#[test]
fn the_example_of_the_specification_is_read() {
    let log = Signers::new("log.example").log_key();
    let mut text = format!("log {log}\n\n");
    for (n, name) in (0..).zip(["X1", "X2", "X3", "Y1", "Y2", "Y3"]) {
        text += &format!("witness {name} {}\n", Signer::new(n).vkey());
    }
    text += "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
             group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n";
    let policy = parse(&text).unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
    assert_eq!((policy.quorum_name(), policy.faulty()), ("X-and-Y", 0));
    assert!(policy.admits(&log) && !policy.admits(&Signers::other("log.example").log_key()));
    // Two of three X share one at least, two single Y none: one witness may not lie.
    let shared = Unsound::Overlap { quorum: "X-and-Y".into(), shared: 1, faulty: 1 };
    assert_eq!(Policy::parse(text.as_bytes(), Some(1)), Err(PolicyError::Unsound(shared)));
}

#[test]
fn a_key_of_the_log_is_no_witness() {
    let (log, other) = (Signers::new("log.example"), Signers::other("log.example"));
    let (log_key, time_key) = (log.log_key(), log.time_key());
    let own = |key: &dyn std::fmt::Display, time_key| {
        let policy = parse(&format!("{}witness T {key}\nquorum T\n", witnesses(2))).unwrap();
        policy.own_witness(&log_key, time_key).map(str::to_owned)
    };
    let named = Some("T".to_owned());
    assert_eq!(own(&time_key, Some(&time_key)), named);
    assert_eq!(own(&time_key, None), None);
    for known in [None, Some(&time_key)] {
        assert_eq!(own(&log.log_key_as_time_key(), known), named);
        assert_eq!(own(&other.time_key(), known), None);
        assert_eq!(own(&other.log_key_as_time_key(), known), None);
    }
}

#[test]
fn blanks_comments_urls_and_rules_are_read() {
    let key = Signers::new("log.example").log_key();
    let text = format!(
        "# comment \u{e9}\n \t# another\n\t \n  log\t{key}   https://log.example/\n\
         witness W0 {} https://w.example \t\n#nexo: max-age 15m\n #nexo:\tfaulty 0\nquorum W0\n",
        Signer::new(0).vkey()
    );
    let policy = parse(&text).unwrap();
    assert_eq!(policy.logs()[0].url.as_deref(), Some("https://log.example/"));
    assert_eq!(policy.witnesses()[0].url.as_deref(), Some("https://w.example"));
    assert_eq!((policy.max_age(), policy.faulty()), (Some(Duration::from_secs(900)), 0));
    let nobody = parse("quorum none\n").unwrap();
    assert_eq!((nobody.quorum_name(), nobody.logs().len()), ("none", 0));
    assert!(nobody.admits(&key), "a file without logs leaves them to its user");
}

#[test]
fn names_are_octets() {
    let (a, b) = (Signer::new(0).vkey(), Signer::new(1).vkey());
    let lines = |first: &[u8], second: &[u8]| {
        let line =
            |name: &[u8], key: &str| [b"witness ", name, b" ", key.as_bytes(), b"\n"].concat();
        let group = [b"group Q all ", first, b" ", second, b"\nquorum Q\n"].concat();
        [line(first, &a), line(second, &b), group].concat()
    };
    // A Kelvin sign is no K, and two octets that are no UTF-8 are two names.
    for (first, second) in [(&b"K"[..], "\u{212a}".as_bytes()), (b"\xff", b"\xfe")] {
        let policy = Policy::parse(&lines(first, second), None).unwrap();
        let text = "log.example\n1\n";
        let note = format!("{text}\n{}", Signer::new(0).line(NOW, text));
        let ballot = policy.ballot(&Note::parse(note.as_bytes()).unwrap(), NOW, DAY).unwrap();
        assert_eq!(ballot.counted.len(), 1);
        assert!(policy.judge(ballot).is_err(), "one witness does not stand for both");
    }
    let same = Policy::parse(&lines(b"K", b"K"), None);
    assert_eq!(same, Err(PolicyError::Name { line: 2 }));
}

#[test]
fn each_rule_of_the_format_has_its_error() {
    let w = |n| Signer::new(n).vkey();
    let log = Signers::new("log.example").log_key();
    let two = witnesses(2);
    let kind = KeyError::Kind { wanted: 4, found: 1 };
    for (text, why) in [
        (String::new(), PolicyError::NoQuorum),
        ("quorum none".into(), PolicyError::Cut),
        ("quorum none\r\n".into(), PolicyError::Octet { line: 1 }),
        ("# \u{7f}\nquorum none\n".into(), PolicyError::Octet { line: 1 }),
        ("quorum none\nquorum none\n".into(), PolicyError::SecondQuorum { line: 2 }),
        ("quorum\n".into(), PolicyError::Fields { line: 1 }),
        ("quorum a b\n".into(), PolicyError::Fields { line: 1 }),
        ("Quorum none\n".into(), PolicyError::Word { line: 1 }),
        ("\u{a0}quorum none\n".into(), PolicyError::Word { line: 1 }),
        ("quorum W0\n".into(), PolicyError::Unknown { line: 1 }),
        (format!("quorum W0\n{two}"), PolicyError::Unknown { line: 1 }),
        ("log\n".into(), PolicyError::Fields { line: 1 }),
        (format!("log {log} a b\n"), PolicyError::Fields { line: 1 }),
        ("log x\n".into(), PolicyError::Key { line: 1, cause: KeyError::Shape }),
        (format!("witness W {log}\n"), PolicyError::Key { line: 1, cause: kind }),
        (format!("log {log}\nlog {log}\n"), PolicyError::SameKey { line: 2 }),
        (format!("{two}witness W2 {}\n", w(1)), PolicyError::SameKey { line: 3 }),
        (
            format!("witness A {}\nwitness B {}\n", w(0), Signer::new(0).renamed()),
            PolicyError::SameKey { line: 2 },
        ),
        (
            format!("log {log}\nwitness A {}\n", Signers::new("log.example").log_key_as_time_key()),
            PolicyError::SameKey { line: 2 },
        ),
        (format!("witness none {}\n", w(0)), PolicyError::Name { line: 1 }),
        (format!("witness A {}\nwitness A {}\n", w(0), w(1)), PolicyError::Name { line: 2 }),
        (format!("{two}group W0 all W1\n"), PolicyError::Name { line: 3 }),
        (format!("{two}group Q all\n"), PolicyError::Fields { line: 3 }),
        (format!("{two}group Q all W2\n"), PolicyError::Unknown { line: 3 }),
        (format!("{two}group Q all Q\n"), PolicyError::Unknown { line: 3 }),
        (format!("{two}group Q all none\n"), PolicyError::Unknown { line: 3 }),
        (format!("{two}group Q all W0 W0\n"), PolicyError::MemberTwice { line: 3 }),
        (format!("{two}group Q all W0\ngroup R all W0\n"), PolicyError::MemberTwice { line: 4 }),
        (format!("{two}group Q 0 W0\n"), PolicyError::Threshold { line: 3 }),
        (format!("{two}group Q 3 W0 W1\n"), PolicyError::Threshold { line: 3 }),
        (format!("{two}group Q 02 W0 W1\n"), PolicyError::Threshold { line: 3 }),
        (format!("{two}group Q +2 W0 W1\n"), PolicyError::Threshold { line: 3 }),
        (format!("{two}group Q most W0 W1\n"), PolicyError::Threshold { line: 3 }),
        ("#nexo: max-age soon\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo: max-age\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo: faulty 1 2\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo: faulty -1\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo:faulty 1\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo: colour red\n".into(), PolicyError::Rule { line: 1 }),
        ("#nexo: faulty 1\n#nexo: faulty 1\n".into(), PolicyError::Rule { line: 2 }),
        ("x".repeat(MAX_FILE + 1), PolicyError::TooLong),
    ] {
        assert_eq!(parse(&text), Err(why), "{}", text.get(..200).unwrap_or(&text));
    }
}

#[test]
fn a_file_of_the_largest_size_is_read_and_one_byte_more_is_not() {
    let of_size = |size: usize| {
        let text = "quorum none\n#";
        let text = text.to_owned() + &"x".repeat(size - text.len() - 1) + "\n";
        assert_eq!(text.len(), size);
        parse(&text).map(drop)
    };
    assert_eq!(of_size(256 * 1024), Ok(()));
    assert_eq!(of_size(256 * 1024 + 1), Err(PolicyError::TooLong));
}

#[test]
fn the_number_of_lines_of_a_kind_is_bounded() {
    let groups = |count: usize| {
        let mut text = witnesses(1) + "group G0 1 W0\n";
        for n in 1..count {
            text += &format!("group G{n} 1 G{}\n", n - 1);
        }
        text + &format!("quorum G{}\n", count - 1)
    };
    assert!(parse(&groups(256)).is_ok());
    assert_eq!(parse(&groups(257)), Err(PolicyError::TooMany { line: 258 }));
    assert!(parse(&flat(200, 255)).is_ok());
}

/// design/log.md 1.10 and its two examples: 3 of 4 tolerate 1, 5 of 7 tolerate 2.
#[test]
fn two_quorums_share_more_witnesses_than_may_lie() {
    for (k, n, most) in [(1, 1, 0), (2, 2, 1), (2, 3, 0), (3, 4, 1), (4, 4, 3), (5, 7, 2)] {
        let text = flat(k, n);
        assert!(Policy::parse(text.as_bytes(), Some(most)).is_ok(), "{k} of {n}, {most}");
        let shared = 2 * k - usize::from(n);
        let (quorum, faulty) = ("Q".to_owned(), most + 1);
        let unsound = Unsound::Overlap { quorum, shared, faulty };
        let refused = Policy::parse(text.as_bytes(), Some(faulty));
        assert_eq!(refused, Err(PolicyError::Unsound(unsound)), "{k} of {n}");
    }
    // One of two, two of four: two readers, two logs.
    for (k, n) in [(1, 2), (2, 4)] {
        assert!(matches!(parse(&flat(k, n)), Err(PolicyError::Unsound(_))), "{k} of {n}");
    }
    // The file's own number, and the flag in its place.
    let text = flat(3, 4) + "#nexo: faulty 2\n";
    assert!(matches!(parse(&text), Err(PolicyError::Unsound(_))));
    assert_eq!(Policy::parse(text.as_bytes(), Some(1)).unwrap().faulty(), 1);
}

/// k of n within a quorum of all: two sets share 2k - n, and none when that is below one.
#[test]
fn groups_share_what_their_thresholds_leave() {
    for (k, n, shared) in [(1, 1, 1), (1, 2, 0), (1, 3, 0), (2, 3, 1), (3, 3, 3), (4, 5, 3)] {
        let text = format!("{}group X {k}{}\ngroup Q all X\nquorum Q\n", witnesses(n), members(n));
        let unsound = Unsound::Overlap { quorum: "Q".into(), shared, faulty: shared };
        let refused = Policy::parse(text.as_bytes(), Some(shared));
        assert_eq!(refused, Err(PolicyError::Unsound(unsound)), "{k} of {n}");
        let sound = shared.checked_sub(1).map(|most| Policy::parse(text.as_bytes(), Some(most)));
        assert!(sound.is_none_or(|policy| policy.is_ok()), "{k} of {n}");
    }
}

#[test]
fn clients_may_ask_for_another_number() {
    // k1 + k2 > n + f: with 4 witnesses and one liar, clients' 2 need this auditor's 4.
    for (clients, ours, sound) in [(2, 4, true), (2, 3, false), (1, 4, false), (3, 3, true)] {
        let text = flat(ours, 4) + &format!("#nexo: clients {clients}\n#nexo: faulty 1\n");
        assert_eq!(parse(&text).is_ok(), sound, "{clients} and {ours}");
    }
    for clients in [0, 5] {
        let text = flat(4, 4) + &format!("#nexo: clients {clients}\n");
        let unsound = Unsound::Clients { quorum: "Q".into(), clients, members: 4 };
        assert_eq!(parse(&text), Err(PolicyError::Unsound(unsound)));
    }
    for rule in ["clients 1", "faulty 1"] {
        let text = format!("#nexo: {rule}\nquorum none\n");
        assert_eq!(parse(&text), Err(PolicyError::Unsound(Unsound::Nobody)));
    }
}

fn note_with(lines: &[String]) -> String {
    let signers = Signers::new("log.example");
    let note = signers.head(3, &oracle_root(&[[9; 32]; 3]), NOW);
    note + &lines.concat()
}

fn text() -> String {
    note_with(&[]).split_once("\n\n").unwrap().0.to_owned() + "\n"
}

#[test]
fn a_quorum_is_met_by_its_witnesses_alone() {
    let policy = parse(&flat(2, 3)).unwrap();
    let text = text();
    let line = |n| Signer::new(n).line(NOW, &text);
    let met = |lines: &[String]| {
        let note = note_with(lines);
        let note = Note::parse(note.as_bytes()).unwrap();
        policy.judge(policy.ballot(&note, NOW, DAY).unwrap())
    };
    let ballot = met(&[line(0), line(2)]).unwrap();
    let names: Vec<_> = ballot.counted.iter().map(|c| (c.witness.as_str(), c.time)).collect();
    assert_eq!((names, ballot.absent), (vec![("W0", NOW), ("W2", NOW)], vec!["W1".to_owned()]));
    // One, one twice, one and a stranger, one under another key name.
    let renamed = Signer::new(1).line(NOW, &text).replace(" w1.example ", " w2.example ");
    for lines in [
        vec![],
        vec![line(0)],
        vec![line(0), line(0)],
        vec![line(0), line(9)],
        vec![line(0), renamed],
    ] {
        let unmet = met(&lines).unwrap_err();
        assert_eq!(unmet.quorum, "Q");
        assert!(unmet.ballot.counted.len() <= 1, "{unmet}");
    }
    let nobody = parse("quorum none\n").unwrap();
    let bare = note_with(&[]);
    let ballot = nobody.ballot(&Note::parse(bare.as_bytes()).unwrap(), NOW, DAY).unwrap();
    assert!(nobody.judge(ballot).is_ok());
}

#[test]
fn cosignatures_have_an_age_and_are_not_from_the_future() {
    let policy = parse(&flat(1, 1)).unwrap();
    let text = text();
    for (time, counts) in [
        (NOW, true),
        (NOW - 86_400, true),
        (NOW - 86_401, false),
        (NOW + 300, true),
        (NOW + 301, false),
        (0, false),
        (u64::MAX >> 1, false),
    ] {
        let note = note_with(&[Signer::new(0).line(time, &text)]);
        let ballot = policy.ballot(&Note::parse(note.as_bytes()).unwrap(), NOW, DAY).unwrap();
        assert_eq!(
            (ballot.counted.len(), ballot.untimely.len()),
            (counts.into(), (!counts).into())
        );
        assert_eq!(policy.judge(ballot).is_ok(), counts, "{time}");
    }
}

#[test]
fn a_cosignature_on_another_head_refuses_the_note() {
    let policy = parse(&flat(1, 1)).unwrap();
    let note = note_with(&[Signer::new(0).line(NOW, "log.example\n4\n")]);
    let refused = policy.ballot(&Note::parse(note.as_bytes()).unwrap(), NOW, DAY);
    assert_eq!(refused, Err(SignatureError::Bad { name: "w0.example".into() }));
}

#[test]
fn a_witness_with_a_post_quantum_key_never_counts() {
    let text = format!("witness P {}\ngroup Q any P\nquorum Q\n", crate::testlog::post_quantum());
    let policy = parse(&text).unwrap();
    assert_eq!(policy.witnesses()[0].key, None);
    let note = note_with(&[]);
    let ballot = policy.ballot(&Note::parse(note.as_bytes()).unwrap(), NOW, DAY).unwrap();
    assert_eq!(policy.judge(ballot).unwrap_err().ballot.absent, ["P"]);
}

#[test]
fn groups_of_groups_count_their_own_members() {
    let text = witnesses(6)
        + "group X 2 W0 W1 W2\ngroup Y 2 W3 W4 W5\ngroup Q all X Y\nquorum Q\n#nexo: faulty 1\n";
    let (policy, head) = (parse(&text).unwrap(), self::text());
    let met = |signing: &[u8]| {
        let lines: Vec<String> = signing.iter().map(|n| Signer::new(*n).line(NOW, &head)).collect();
        let note = note_with(&lines);
        let note = Note::parse(note.as_bytes()).unwrap();
        policy.judge(policy.ballot(&note, NOW, DAY).unwrap()).is_ok()
    };
    assert!(met(&[0, 2, 3, 4]) && met(&[0, 1, 2, 3, 4, 5]));
    assert!(!met(&[0, 1, 2, 3]) && !met(&[3, 4, 5]) && !met(&[]));
}

/// A random tree of groups over the witnesses, as text.
fn trees() -> impl Strategy<Value = String> {
    let group = (1usize..=3, 0usize..3);
    prop::collection::vec(group, 1..5).prop_map(|groups| {
        let mut free: Vec<String> = (0..7).map(|n| format!("W{n}")).collect();
        let mut text = witnesses(7);
        let mut last = String::from("W0");
        for (at, (size, threshold)) in groups.into_iter().enumerate() {
            let size = size.min(free.len());
            let members: Vec<String> = free.drain(..size).collect();
            let threshold = 1 + threshold % size;
            last = format!("G{at}");
            text += &format!("group {last} {threshold} {}\n", members.join(" "));
            free.push(last.clone());
        }
        text + &format!("quorum {last}\n")
    })
}

proptest! {
    /// The counted overlap is the smallest over all pairs of sets of witnesses that meet the
    /// quorum, by trying all of them.
    #[test]
    fn the_overlap_is_the_smallest_of_all_pairs(text in trees()) {
        let policy = parse::parse(text.as_bytes()).unwrap();
        let quorums: Vec<u8> = (0u8..128)
            .filter(|set| {
                let places = (0..7).filter(|n| set >> n & 1 == 1).collect();
                policy.judge(Ballot::of_places(places)).is_ok()
            })
            .collect();
        let smallest = quorums.iter().flat_map(|a| quorums.iter().map(move |b| a & b));
        let smallest = smallest.map(|both| both.count_ones() as usize).min().unwrap();
        for faulty in 0..4 {
            let sound = Policy::parse(text.as_bytes(), Some(faulty)).is_ok();
            prop_assert_eq!(sound, smallest > faulty, "{} shared\n{}", smallest, text);
        }
    }

    #[test]
    fn no_octets_panic(bytes: Vec<u8>, text in "(log|witness|group|quorum|#nexo:| |\t|\n|a|2|none)*") {
        let _ = Policy::parse(&bytes, None);
        let _ = Policy::parse(text.as_bytes(), Some(1));
    }
}
