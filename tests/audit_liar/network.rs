//! Lies of whoever stands on the way, and of a log that wants to be left alone: what is too long,
//! too slow, not text, packed, or elsewhere. None of it may cost the auditor more than its bounds.

use std::io::Write as _;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{NOW, Nothing, Observation, SEEN, Victim, told_to_both, truth};
use crate::harness::DEADLINE;
use crate::harness::liar::{Answer, Log, Site};

/// What the auditor may take of an answer without end: its largest limit, and what the system's
/// buffers hold on the way.
const MOST: u64 = 32 << 20;

fn paths() -> [String; 5] {
    let proof = format!("log/consistency?from={SEEN}&to={NOW}");
    ["checkpoint", "log/keys", &proof, "tile/0/001", "tile/entries/001"].map(str::to_owned)
}

#[test]
fn huge_answers() {
    for path in paths() {
        for byte in [b'x', 0] {
            let lie = truth().with(&path, Answer::Endless(String::new(), vec![byte; 1 << 16]));
            let liar = lie.clone().serve();
            let victim = Victim::who_knows_the_log();
            victim.check(liar.url(), &["--json"]).refused(65);
            assert!(liar.sent() < MOST, "{} bytes of {path}", liar.sent());
            victim.finds(lie, 65, "bad_data", Nothing);
        }
    }
}

#[test]
fn an_answer_that_announces_more_than_can_be() {
    for path in paths() {
        let head = "HTTP/1.1 200 X\r\nContent-Length: 1099511627776\r\n\r\n";
        let body = [head.as_bytes(), &vec![b'x'; 2 << 20]].concat();
        let lie = truth().with(&path, Answer::Raw(body));
        let victim = Victim::who_knows_the_log();
        victim.finds(lie, 65, "bad_data", Nothing);
    }
}

#[test]
fn slow_answers() {
    for path in paths() {
        for slow in [Answer::Silence, Answer::Trickle] {
            let liar = truth().with(&path, slow).serve();
            let victim = Victim::who_knows_the_log();
            let before = victim.auditor.memory();
            let start = Instant::now();
            let done = victim.check(liar.url(), &["--json", "--timeout", "1s"]);
            done.refused(124);
            assert_eq!(done.object()["verdict"], "timeout");
            assert!(start.elapsed() < DEADLINE, "the timeout counts");
            assert_eq!(victim.auditor.memory(), before);
        }
    }
}

#[test]
fn an_answer_that_breaks_off() {
    let head = "HTTP/1.1 200 X\r\nContent-Length: 8192\r\n\r\n";
    for path in paths() {
        for bytes in ["", "HTTP/1.1 200 X\r\n", head, &format!("{head}xyz")] {
            let lie = truth().with(&path, Answer::Raw(bytes.into()));
            Victim::who_knows_the_log().finds(lie, 69, "unreachable", Nothing);
        }
    }
}

#[test]
fn answers_that_are_no_http() {
    for bytes in
        [&b"\x00\x01\x02\x03"[..], b"HTTP/9.9 999\r\n\r\n", b"SSH-2.0-x\r\n", &[0xff; 9000]]
    {
        let lie = || truth().with("checkpoint", Answer::Raw(bytes.into()));
        told_to_both(lie, 69, "unreachable", Nothing);
    }
}

#[test]
fn headers_without_end() {
    let header = vec![b'x'; 1 << 20];
    let bytes = [b"HTTP/1.1 200 X\r\nX: ", &header[..], b"\r\n\r\n"].concat();
    told_to_both(
        || truth().with("checkpoint", Answer::Raw(bytes.clone())),
        69,
        "unreachable",
        Nothing,
    );
    let bytes = [b"HTTP/1.1 200 X\r\n", &b"X: x\r\n".repeat(100_000)[..], b"\r\n"].concat();
    told_to_both(
        || truth().with("checkpoint", Answer::Raw(bytes.clone())),
        69,
        "unreachable",
        Nothing,
    );
}

#[test]
fn invalid_utf8() {
    for path in ["checkpoint", "log/keys"] {
        let at_the_end = |bytes: &mut Vec<u8>| bytes.extend([0xff, b'\n']);
        let in_the_name = |bytes: &mut Vec<u8>| bytes[3] = 0xc3;
        told_to_both(|| truth().altered(path, at_the_end), 65, "bad_data", Observation);
        told_to_both(|| truth().altered(path, in_the_name), 65, "bad_data", Observation);
    }
    let proof = format!("log/consistency?from={SEEN}&to={NOW}");
    let lie = truth().altered(&proof, |bytes| bytes[20] = 0xff);
    Victim::who_knows_the_log().finds(lie, 65, "bad_data", Observation);
}

#[test]
fn control_characters() {
    for byte in [0, b'\r', 0x1b, 0x7f] {
        let lie = || truth().altered("checkpoint", |bytes| bytes[3] = byte);
        told_to_both(lie, 65, "bad_data", Observation);
    }
    // What a log says reaches a terminal; nothing in it may move the cursor.
    let lie = truth().with("checkpoint", Answer::ok("\x1b]0;owned\x07\x1b[2J\n1\nx\n\nx\n"));
    let done = Victim::who_is_new().check(lie.serve().url(), &[]);
    assert!(!done.out.contains('\x1b') && !done.err.contains('\x1b'), "{done:?}");
}

#[test]
fn a_vkey_that_is_none_on_first_use() {
    for vkey in [&b"\xff\xfe"[..], b"", b"liar.example+00000000+AAAA\n", &[b'x'; 4096]] {
        let victim = Victim { vkey: vec![], ..Victim::who_is_new() };
        let liar = truth().with("log/vkey", Answer::ok(vkey)).serve();
        victim.check(liar.url(), &["--tofu"]).refused(65);
        assert_eq!(victim.auditor.memory(), None);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Members of a gzip stream follow each other, so this can go on for ever.
#[test]
fn endless_gzip() {
    let header = || "Content-Encoding: gzip\r\n".to_owned();
    let zeros = gzip(&vec![0; 8 << 20]);
    assert!(zeros.len() < 16 << 10);
    for path in paths() {
        let lie = truth().with(&path, Answer::Endless(header(), zeros.clone()));
        let liar = lie.clone().serve();
        let victim = Victim::who_knows_the_log();
        victim.check(liar.url(), &["--json"]).refused(65);
        assert!(liar.sent() < MOST, "{} bytes of {path}", liar.sent());
        victim.finds(lie, 65, "bad_data", Nothing);
    }
}

#[test]
fn a_gzip_bomb() {
    // 512 MiB in less than a bundle may have.
    let bomb = gzip(&vec![0; 512 << 20]);
    assert!(bomb.len() < 1 << 20);
    let header = || "Content-Encoding: gzip\r\n".to_owned();
    let lie = || truth().with("tile/entries/001", Answer::Whole(200, header(), bomb.clone()));
    told_to_both(lie, 65, "bad_data", Nothing);
}

#[test]
fn gzip_that_is_none() {
    let bundle = Log::of(NOW).answer("tile/entries/001").unwrap();
    let packed = gzip(&bundle);
    for (coding, body) in
        [("gzip", &bundle[..]), ("gzip", &packed[..40]), ("br", &bundle), ("gzip, gzip", &packed)]
    {
        let header = format!("Content-Encoding: {coding}\r\n");
        let lie = truth().with("tile/entries/001", Answer::Whole(200, header, body.to_vec()));
        Victim::who_knows_the_log().finds(lie, 69, "unreachable", Nothing);
    }
}

/// No lie: bundles may come compressed without having been asked for (C2SP tlog-tiles).
#[test]
fn honest_gzip_is_no_lie() {
    let packed = gzip(&Log::of(NOW).answer("tile/entries/001").unwrap());
    let answer = Answer::Whole(200, "Content-Encoding: gzip\r\n".into(), packed);
    let site = truth().with("tile/entries/001", answer).serve();
    Victim::who_knows_the_log().check(site.url(), &[]).ok();
    Victim::who_is_new().check(site.url(), &[]).ok();
}

#[test]
fn redirects() {
    // A log has one address: elsewhere is not looked, be the truth there or nothing.
    let elsewhere = truth().serve();
    for path in paths() {
        for to in [format!("/{path}"), format!("{}/{path}", elsewhere.url()), "file:///etc".into()]
        {
            let lie = truth().with(&path, Answer::redirect(&to));
            let liar = lie.clone().serve();
            let victim = Victim::who_knows_the_log();
            victim.check(liar.url(), &[]).refused(69);
            let asked = liar.asked().iter().filter(|asked| **asked == path).count();
            assert_eq!(asked, 1, "a loop of {path}");
            victim.finds(lie, 69, "unreachable", Nothing);
        }
    }
    assert!(elsewhere.asked().is_empty(), "{:?}", elsewhere.asked());
}

#[test]
fn refusals() {
    for status in [204, 206, 301, 400, 401, 403, 410, 418, 500, 502] {
        let lie = truth().with("tile/0/001", Answer::status(status));
        Victim::who_knows_the_log().finds(lie, 69, "unreachable", Nothing);
    }
    let busy = |status| Answer::Whole(status, "Retry-After: 0\r\n".into(), vec![]);
    for status in [429, 503] {
        let lie = truth().with("checkpoint", busy(status));
        Victim::who_knows_the_log().finds(lie, 69, "unreachable", Nothing);
    }
    // Nothing at the address: no log, rather than one that lost something.
    let nothing = || truth().without("checkpoint");
    told_to_both(nothing, 69, "unreachable", Nothing);
}

#[test]
fn an_error_page_is_not_shown() {
    let page = Answer::Whole(500, String::new(), b"<b>call 555-0100</b>".to_vec());
    let done = Victim::who_is_new().check(truth().with("checkpoint", page).serve().url(), &[]);
    done.refused(69);
    assert!(!done.out.contains("call") && !done.err.contains("call"), "{done:?}");
}

/// Nothing of all this is remembered: the same victim goes through every lie and then the truth.
#[test]
fn after_everything_the_truth_is_taken() {
    let victim = Victim::who_knows_the_log();
    let liar = truth().serve();
    for path in paths() {
        for lie in
            [Answer::status(404), Answer::ok("junk"), Answer::Raw(vec![]), Answer::status(500)]
        {
            liar.tells(truth().with(&path, lie));
            assert_ne!(victim.check(liar.url(), &[]).code, 0);
        }
    }
    liar.tells(truth());
    let report = victim.check(liar.url(), &["--json"]).object();
    assert_eq!((&report["previous_size"], &report["new"]), (&SEEN.into(), &(NOW - SEEN).into()));
    let log = Log::of(NOW + 1);
    liar.tells(Site::of(&log));
    victim.check(liar.url(), &[]).ok();
}
