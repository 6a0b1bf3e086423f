//! An honest log cannot be framed: whatever is put into a file of evidence from what it signed and
//! served, no verdict is ever called a proof.
//!
//! A proof convinces people who trust nobody, so a false one is worse than a lie that was missed.
//! Every verdict is claimed of every arrangement of a real log's notes, tiles and entries.

use nexo_audit::LogKey;
use nexo_audit::evidence::{Evidence, JudgementError, Standing, verify};
use nexo_audit::finding::TABLE;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const VKEY: &str = include_str!("../../fuzz/seeds/recorded/log.vkey");
const NEWER: &str = include_str!("../../fuzz/seeds/head/good-large");
const OLDER: &str = include_str!("../../fuzz/seeds/head/good-small");
const KEYS: &str = include_str!("../../fuzz/seeds/log_keys/good-key-list");
const BUNDLE: &[u8] = include_bytes!("../../fuzz/seeds/recorded/bundle-of-29");
const OLDER_BUNDLE: &[u8] = include_bytes!("../../fuzz/seeds/recorded/bundle-of-nine");
const CONSISTENCY: &[u8] = include_bytes!("../../fuzz/seeds/recorded/consistency-9-to-29");

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Everything the log served, at every path it could be said to come from.
fn resources() -> Vec<Value> {
    let paths = [
        "checkpoint",
        "log/keys",
        "log/consistency?from=9&to=29",
        "tile/0/000.p/29",
        "tile/0/000",
        "tile/1/000.p/1",
        "tile/entries/000.p/29",
        "tile/entries/000.p/9",
    ];
    let bodies: [&[u8]; 7] = [
        NEWER.as_bytes(),
        OLDER.as_bytes(),
        KEYS.as_bytes(),
        BUNDLE,
        OLDER_BUNDLE,
        CONSISTENCY,
        b"",
    ];
    let mut all = vec![json!([])];
    for path in paths {
        let served = |body: &&[u8]| json!([{ "path": path, "bytes": base64(body) }]);
        all.extend(bodies.iter().map(served));
    }
    all
}

/// Nodes and leaves that belong to the log's trees, and some that do not.
fn nodes() -> Vec<Value> {
    let served: Value = serde_json::from_slice(CONSISTENCY).unwrap();
    let proof = served["hashes"].as_array().unwrap().clone();
    vec![json!([]), json!(proof), json!(proof[1..]), json!([base64(&[0; 32])])]
}

fn leaves() -> Vec<Value> {
    let entries = nexo_audit::entry::split_bundle(BUNDLE, 29).unwrap();
    let leaf = |index: u64, path: Value| {
        let entry = base64(entries[usize::try_from(index).unwrap()]);
        json!([{ "index": index, "entry": entry, "path": path }])
    };
    // A proof of the log's own, with the path in it.
    let proof = include_bytes!("../../fuzz/seeds/proof/good-last");
    let proof = nexo_audit::proof::OfflineProof::parse(proof).unwrap();
    let path: Vec<String> = proof.path.iter().map(|hash| base64(hash)).collect();
    vec![json!([]), leaf(proof.index, json!(path)), leaf(3, json!(path)), leaf(0, json!([]))]
}

/// What a file can hold besides heads: a resource of any kind, or nodes and leaves with some.
fn parts(with_nodes: bool) -> Vec<Value> {
    let part = |prefix: &Value, leaves: &Value, resources: &Value| json!({ "prefix": prefix, "leaves": leaves, "resources": resources });
    let (nodes, leaves, served) = (nodes(), leaves(), resources());
    if !with_nodes {
        return served.iter().map(|resources| part(&nodes[0], &leaves[0], resources)).collect();
    }
    let tree = nodes.iter().flat_map(|nodes| leaves.iter().map(move |leaves| (nodes, leaves)));
    let some = || served.iter().step_by(9);
    tree.flat_map(|(nodes, leaves)| some().map(|served| part(nodes, leaves, served))).collect()
}

/// Files that claim `verdict` of these two heads.
fn files(verdict: &str, held: &Value, shown: &Value) -> Vec<Value> {
    let time_key = KEYS.lines().nth(2).unwrap().strip_prefix("time ").unwrap();
    let policy = format!("log {VKEY}witness one {time_key}\nquorum one\n");
    let mut parts = parts(false);
    if *shown == json!(NEWER) || *held == json!(NEWER) {
        parts.extend(self::parts(true));
    }
    for file in &mut parts {
        file["schema"] = "nexo.evidence/1".into();
        file["verdict"] = verdict.into();
        file["log_vkey"] = VKEY.trim_end().into();
        file["seen_at"] = "2026-11-23T07:30:00Z".into();
        file["held"] = held.clone();
        file["shown"] = shown.clone();
        file["log_keys"] = KEYS.into();
        file["policy"] = policy.clone().into();
    }
    parts
}

#[test]
fn no_arrangement_of_what_an_honest_log_said_is_a_proof_against_it() {
    let key = LogKey::parse(VKEY.trim_end()).unwrap();
    let notes = [Value::Null, json!(NEWER), json!(OLDER)];
    let (mut observed, mut framed) = (0, BTreeMap::<String, Value>::new());
    for (row, held) in TABLE.iter().flat_map(|row| notes.iter().map(move |held| (row, held))) {
        for file in notes.iter().flat_map(|shown| files(row.name, held, shown)) {
            let text = file.to_string();
            let evidence = Evidence::parse(text.as_bytes()).unwrap();
            let judgement = match verify(&evidence, &key) {
                Ok(judgement) => judgement,
                // Of what has nothing to do with a log there is no evidence.
                Err(JudgementError::Verdict { .. }) => break,
                Err(_) => continue,
            };
            observed += 1;
            if judgement.standing == Standing::Proof {
                framed.insert(format!("{judgement:?}"), file);
            }
        }
    }
    assert!(framed.is_empty(), "{framed:#?}");
    assert!(observed > 1000, "{observed} files show something");
}
