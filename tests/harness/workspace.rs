//! The workspace as files: manifests as cargo reads them, sources line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// The folders of the repository.
pub(crate) const FOLDERS: [&str; 6] =
    ["nexo-audit", "nexo-cli", "nexo-server", "schema", "scripts", "tests"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        // For this machine alone: the crates of other platforms need not be there.
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let version = Command::new(rustc).arg("-vV").output().unwrap().stdout;
        let version = String::from_utf8(version).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let options = ["--filter-platform", host, "--locked"].map(str::to_owned).to_vec();
        MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .other_options(options)
            .exec()
            .unwrap()
    })
}

pub(crate) fn member(name: &str) -> &'static Package {
    metadata().workspace_packages().into_iter().find(|p| p.name.as_str() == name).expect("a member")
}

/// What is linked into, or runs while building, the package: everything but dev-dependencies.
pub(crate) fn linked(name: &str) -> Vec<&'static Package> {
    let metadata = metadata();
    let nodes = &metadata.resolve.as_ref().expect("dependencies were resolved").nodes;
    let nodes: BTreeMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let (mut found, mut waiting) = (BTreeSet::new(), vec![&member(name).id]);
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            let linked = nodes[id].deps.iter().filter(|dep| {
                dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
            });
            waiting.extend(linked.map(|dep| &dep.pkg));
        }
    }
    found.into_iter().map(|id| &metadata[id]).collect()
}

/// A source file, named from the top of the repository.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// Its lines but for comments and for the unit tests at its end, numbered from 1.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]" || self.front());
        let lines = (1..).zip(lines);
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Door plates declare test modules between others.
    fn front(&self) -> bool {
        ["/mod.rs", "/lib.rs"].iter().any(|end| self.name.ends_with(end))
    }
}

/// Every Rust file of the workspace.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut found = Vec::new();
        for folder in FOLDERS {
            collect(&root().join(folder), &mut found);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    })
}

/// The files that are built into programs.
pub(crate) fn programs() -> impl Iterator<Item = &'static Source> {
    let roots = ["nexo-audit/src/", "nexo-cli/src/", "nexo-server/src/", "schema/src/"];
    sources().iter().filter(move |s| roots.iter().any(|root| s.name.starts_with(root)))
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push(Source { name, text: read(&path) });
        }
    }
}

/// Fails on the first line of code with one of these words.
pub(crate) fn refuse(source: &Source, words: &[&str]) {
    for (line, code) in source.code() {
        for word in words {
            assert!(!names(code, word), "{}:{line} names {word}: {code}", source.name);
        }
    }
}

/// Whether `code` holds `word`, not as a part of a longer one.
pub(crate) fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        !before.ends_with(part) && (!after.starts_with(part) || word.ends_with(['(', '!']))
    })
}

/// Whether `name` is a module beside the file, as `pub use` in a door plate names it.
pub(crate) fn sibling(file: &str, name: &str) -> bool {
    let folder = root().join(file);
    folder.parent().is_some_and(|f| f.join(format!("{name}.rs")).exists())
}
