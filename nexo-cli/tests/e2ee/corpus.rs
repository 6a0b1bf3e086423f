//! The bytes of strangers, replayed: every seed of the fuzzer through the function that the fuzzer
//! calls (`../../fuzz/inputs.rs`), as it is, cut, and with each of its bytes changed.
//!
//! Seeds were made with the keys of `inputs.rs`, which nobody uses, or changed by hand. What the
//! fuzzer finds is added to them.

#[expect(unreachable_pub, reason = "it is the library of the fuzz targets as well")]
#[path = "../../fuzz/inputs.rs"]
pub(crate) mod inputs;

use std::fs;
use std::path::{Path, PathBuf};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn i_every_seed_has_its_end() {
    for (target, input) in inputs::ALL {
        let seeds = files(&fuzz().join("seeds").join(target));
        let named = |start: &str| seeds.iter().filter(|(name, _)| name.starts_with(start)).count();
        let (good, bad) = (named("good-"), named("bad-"));
        assert!(good > 0 && bad > 0 && good + bad == seeds.len(), "{target}: seeds of both ends");
        for (name, bytes) in &seeds {
            assert_eq!(input(bytes), name.starts_with("good-"), "{target}/{name}");
        }
    }
}

#[test]
fn i_no_damage_to_a_seed_makes_a_reader_panic() {
    for (target, input) in inputs::ALL {
        for (_, seed) in files(&fuzz().join("seeds").join(target)) {
            let lengths = (0..seed.len()).step_by(1 + seed.len() / 48);
            lengths.clone().for_each(|length| {
                input(&seed[..length]);
            });
            for at in lengths {
                for change in [0x01, 0x80, 0xff] {
                    let mut bytes = seed.clone();
                    bytes[at] ^= change;
                    input(&bytes);
                }
                let doubled = [&seed[..at], &seed[at / 2..]].concat();
                input(&doubled);
            }
        }
    }
}

#[test]
fn i_every_reader_has_a_target_of_its_own() {
    let mut targets: Vec<String> =
        files(&fuzz().join("fuzz_targets")).into_iter().map(|(name, _)| name).collect();
    targets.sort();
    let wanted: Vec<String> = inputs::ALL.iter().map(|(name, _)| format!("{name}.rs")).collect();
    assert_eq!(targets, wanted);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (target, _) in inputs::ALL {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        let text = fs::read_to_string(fuzz().join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("nexo_cli_fuzz::{target}(data)")), "{target}");
    }
}
