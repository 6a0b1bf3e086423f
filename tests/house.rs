//! The architecture as a test: who may depend on whom, and what may be named where.
//!
//! Compilers do not see these walls. Each test reads the manifests or the sources as they are,
//! and names the file and line that broke the rule. Nothing runs here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cargo_metadata::DependencyKind;

use crate::harness::workspace::{
    FOLDERS, linked, member, metadata, names, programs, read, refuse, root, sibling, sources,
};

const MEMBERS: [&str; 6] =
    ["nexo-audit", "nexo-cli", "nexo-schema", "nexo-scripts", "nexo-server", "nexo-tests"];

/// Spelled apart, so that this file is not one that names it.
const TREE_CRATE: &str = concat!("rs_", "merkle");

// --- who depends on whom ---

#[test]
fn the_workspace_has_its_six_packages() {
    let names = metadata().workspace_packages().into_iter().map(|p| p.name.to_string());
    assert_eq!(names.collect::<BTreeSet<_>>(), MEMBERS.map(str::to_owned).into());
}

#[test]
fn our_packages_depend_on_each_other_only_downwards() {
    let allowed = BTreeMap::from([
        ("nexo-schema", vec![]),
        // The server cannot read a message: it is not linked with what could.
        ("nexo-server", vec!["nexo-schema"]),
        // Two implementations of the tree, a builder and a checker; not three.
        ("nexo-cli", vec!["nexo-audit", "nexo-schema"]),
        // Not even in its tests: neither side sets its own exam.
        ("nexo-audit", vec![]),
        // The growth run measures the server's own log and store from inside.
        ("nexo-scripts", vec!["nexo-audit", "nexo-cli", "nexo-schema", "nexo-server"]),
        ("nexo-tests", vec!["nexo-audit", "nexo-cli", "nexo-schema", "nexo-server"]),
    ]);
    for package in metadata().workspace_packages() {
        let ours = package.dependencies.iter().map(|d| d.name.as_str());
        let ours = ours.filter(|name| MEMBERS.contains(name));
        for name in ours {
            let may = &allowed[package.name.as_str()];
            assert!(may.contains(&name), "{} depends on {name}", package.name);
        }
    }
}

#[test]
fn the_auditor_is_linked_with_nothing_of_ours_and_no_tree_crate() {
    for package in linked("nexo-audit") {
        let name = package.name.as_str();
        assert_ne!(name, TREE_CRATE);
        assert!(name == "nexo-audit" || !name.starts_with("nexo-"), "{name}");
        assert!(package.source.is_some() || name == "nexo-audit", "{name} is a path dependency");
    }
}

#[test]
fn only_the_server_is_linked_with_the_tree_crate() {
    for member in ["nexo-cli", "nexo-schema"] {
        assert!(linked(member).iter().all(|p| p.name.as_str() != TREE_CRATE), "{member}");
    }
    assert!(linked("nexo-server").iter().any(|p| p.name.as_str() == TREE_CRATE));
}

/// They judge the programs (`tlog.rs`), so no program may lean on them.
#[test]
fn the_strangers_that_read_the_log_are_linked_with_no_program() {
    for member in MEMBERS.into_iter().filter(|member| *member != "nexo-tests") {
        for package in linked(member) {
            let name = package.name.as_str();
            assert!(!["signed_note", "tlog_tiles"].contains(&name), "{member} uses {name}");
        }
    }
}

#[test]
fn the_schema_stays_light() {
    let schema = member("nexo-schema");
    let direct = schema.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
    let direct: BTreeSet<&str> = direct.map(|d| d.name.as_str()).collect();
    assert_eq!(direct, BTreeSet::from(["base64", "serde", "serde_json", "thiserror"]));
}

/// A second TLS provider would leave rustls without a default, and some have open advisories.
#[test]
fn there_is_one_tls_provider_and_no_rsa() {
    for program in ["nexo-server", "nexo-cli", "nexo-audit"] {
        for package in linked(program) {
            let name = package.name.as_str();
            let barred = ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls", "rsa"];
            assert!(!barred.contains(&name), "{program} is linked with {name}");
        }
    }
}

#[test]
fn every_package_keeps_the_workspace_lints_and_no_file_allows_unsafe() {
    for folder in FOLDERS {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder}/Cargo.toml");
    }
    let workspace = read(&root().join("Cargo.toml"));
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}

// --- what may be named where ---

#[test]
fn one_source_file_names_the_tree_crate() {
    let naming = sources().iter().filter(|s| s.text.contains(TREE_CRATE));
    let naming: Vec<&str> = naming.map(|s| s.name.as_str()).collect();
    assert_eq!(naming, ["nexo-server/src/log/tree.rs"]);
}

#[test]
fn sql_stays_in_the_stores() {
    // app.rs maps the store's error type to answers.
    let homes = ["nexo-server/src/store/", "nexo-server/src/app.rs", "nexo-cli/src/vault/"];
    for source in programs() {
        if !homes.iter().any(|home| source.name.starts_with(home)) {
            refuse(source, &["diesel", "libsqlite3"]);
        }
    }
}

/// e2ee is a pure function of its arguments: no files, network, clock, environment, threads or
/// random generator, and nothing of the program around it.
#[test]
fn the_encryption_core_does_no_io() {
    let crates = [
        "chacha20poly1305",
        "core",
        "crate",
        "curve25519_dalek",
        "ed25519_dalek",
        "hkdf",
        "hmac",
        "ml_kem",
        "nexo_schema",
        "self",
        "sha2",
        "std",
        "subtle",
        "super",
        "thiserror",
        "x25519_dalek",
        "zeroize",
    ];
    let standard = ["array", "borrow", "cmp", "collections", "fmt", "marker", "ops", "str"];
    let core: Vec<_> = programs().filter(|s| s.name.starts_with("nexo-cli/src/e2ee/")).collect();
    assert!(core.len() > 10, "{} files", core.len());
    // Compiled for the unit tests alone, and reads vectors with serde_json.
    for source in core.into_iter().filter(|s| !s.name.ends_with("/kat.rs")) {
        for (line, code) in source.code() {
            let at = format!("{}:{line}: {code}", source.name);
            if let Some(import) = code.trim_start().trim_start_matches("pub ").strip_prefix("use ")
            {
                let first = import.split("::").next().unwrap_or(import);
                let known = crates.contains(&first) || sibling(&source.name, first);
                assert!(known, "{at}");
            }
            for part in code.split("std::").skip(1) {
                let module = part.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
                assert!(standard.contains(&module), "{at}");
            }
            for part in code.split("crate::").skip(1) {
                assert!(part.starts_with("e2ee"), "{at}");
            }
        }
        refuse(source, &["getrandom", "OsRng", "thread_rng", "tokio", "reqwest", "println!"]);
    }
}

/// Attack A9 of e2ee.md 4: two verification equations would let one signature be good for some
/// and bad for others.
#[test]
fn a9_signatures_are_checked_by_the_strict_equation_in_the_key_types() {
    let key_types = [
        "nexo-server/src/auth/keys.rs",
        "nexo-server/src/log/signer.rs",
        "nexo-cli/src/e2ee/keys.rs",
        "nexo-audit/src/key.rs",
    ];
    let mut strict = BTreeSet::new();
    for source in programs() {
        refuse(source, &["verify_batch", "verify_prehashed", "raw_verify", "hazmat"]);
        let whole: String = source.code().map(|(_, code)| code).collect();
        for import in whole.split("use ed25519_dalek::").skip(1) {
            let import = import.split(';').next().unwrap_or(import);
            // The cofactored check is a method of this trait.
            assert!(!names(import, "Verifier"), "{}: {import}", source.name);
        }
        for (line, code) in source.code() {
            let at = format!("{}:{line}: {code}", source.name);
            assert!(!(code.contains("ed25519_dalek") && names(code, "Verifier")), "{at}");
            assert!(!(code.contains("VerifyingKey") && code.contains("::verify(")), "{at}");
            if code.contains("verify_strict(") {
                assert!(key_types.contains(&source.name.as_str()), "{at}");
                strict.insert(source.name.as_str());
            }
        }
    }
    assert_eq!(strict, BTreeSet::from(key_types));
}

/// Attack A10 of e2ee.md 4: who can have a message signed under one key and hashed with another
/// learns the secret. So keys are made of seeds alone, and a signature takes nothing but a message.
#[test]
fn a10_nothing_signs_with_a_public_key_from_elsewhere() {
    let apart = ["from_keypair_bytes", "ExpandedSecretKey", "raw_sign", "raw_sign_byupdate"];
    for source in programs() {
        refuse(source, &apart);
        refuse(source, &["sign_prehashed", "to_keypair_bytes"]);
    }
}

#[test]
fn only_the_clocks_read_the_time_of_day() {
    let clocks = ["nexo-server/src/clock.rs", "nexo-cli/src/clock.rs", "nexo-audit/src/check.rs"];
    for source in programs() {
        if !clocks.contains(&source.name.as_str()) {
            refuse(
                source,
                &["SystemTime::now", "Timestamp::now", "Zoned::now", "UNIX_EPOCH.elapsed"],
            );
        }
    }
}

#[test]
fn the_log_knows_no_sql_and_no_http() {
    for source in programs().filter(|s| s.name.starts_with("nexo-server/src/log/")) {
        refuse(source, &["crate::store", "crate::http", "crate::relay", "crate::auth", "rocket"]);
    }
}

#[test]
fn the_top_of_the_repository_is_the_fixed_one() {
    let (mut folders, mut files) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(root()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_ours = !name.starts_with('.') && name != "target";
        match (is_ours, entry.file_type().unwrap().is_dir()) {
            (true, true) => folders.insert(name),
            (true, false) => files.insert(name),
            (false, _) => false,
        };
    }
    assert_eq!(folders, FOLDERS.map(str::to_owned).into());
    for name in ["Cargo.lock", "Cargo.toml", "README.md"] {
        assert!(files.remove(name), "{name} is missing");
    }
    files.retain(|name| !["CHANGELOG.md", "deny.toml"].contains(&name.as_str()));
    files.retain(|name| !name.starts_with("LICENSE"));
    assert_eq!(files, BTreeSet::new(), "no such files at the top");
}
