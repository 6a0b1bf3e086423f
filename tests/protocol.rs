//! PROTOCOL.md against the code: routes, error codes, exit codes.
//!
//! The text is the law and the code one reading of it; where they differ, that is the bug. Both
//! directions are compared, so neither can have something the other does not.

use std::collections::{BTreeMap, BTreeSet};

use nexo_schema::error::ErrorCode;

use crate::harness::workspace::{read, root};

#[test]
fn the_contents_of_the_protocol_are_its_sections() {
    let text = protocol();
    let list = text.split("\nContents: ").nth(1).unwrap().split("\n\n").next().unwrap();
    let words = list.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let listed: Vec<&str> = words.split(" · ").collect();
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<String> = headings.map(|h| h.replacen('.', "", 1).to_lowercase()).collect();
    assert_eq!(listed.len(), headings.len());
    for (listed, heading) in listed.iter().zip(&headings) {
        assert!(heading.starts_with(listed), "{listed:?} is {heading:?}");
    }
}

#[test]
fn every_route_is_in_the_protocol_and_every_route_of_the_protocol_is_served() {
    let served: BTreeSet<String> = nexo_server::http::all()
        .iter()
        .map(|route| format!("{} {}", route.method, plain(&route.uri.to_string())))
        .collect();
    let mut written = BTreeSet::new();
    for section in [6, 8, 9] {
        written.extend(routes_in(&section_of(&protocol(), section)));
    }
    // The name of the time key, in the words of section 6.
    written.remove("GET /time");
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    let (secret, promised): (Vec<_>, Vec<_>) = (only(&served, &written), only(&written, &served));
    assert!(secret.is_empty(), "served but not in PROTOCOL.md: {secret:?}");
    assert!(promised.is_empty(), "in PROTOCOL.md but not served: {promised:?}");
}

#[test]
fn every_error_code_is_in_the_protocol_with_its_status() {
    let mut written = BTreeMap::new();
    for group in section_of(&protocol(), 11).split('·') {
        let spans = group.split('`').skip(1).step_by(2);
        // The status follows the names that share it.
        let is_status = |word: &str| word.trim_end_matches('.').parse::<u16>().ok();
        let status = group.split_whitespace().filter_map(is_status).next_back();
        written.extend(spans.filter(|s| !s.contains('/')).map(|name| (name.to_owned(), status)));
    }
    let declared = ErrorCode::ALL.iter().map(|c| (c.name().to_owned(), Some(c.status())));
    assert_eq!(written, declared.collect());
}

/// One number means the same in both programs, and in no third way in the text.
#[test]
fn every_exit_code_is_in_the_protocol() {
    let rows = section_of(&protocol(), 12);
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let written: BTreeSet<u8> =
        rows.flat_map(|cell| cell.split(" · ")).filter_map(|code| code.parse().ok()).collect();
    let cli = nexo_cli::exit::Exit::ALL.iter().map(|exit| exit.code());
    let audit = nexo_audit::finding::TABLE.iter().map(|row| row.code);
    let used: BTreeSet<u8> = cli.chain(audit).collect();
    assert_eq!(written, used);
}

#[test]
fn the_exit_codes_of_the_server_are_in_the_protocol_and_mean_what_they_mean_elsewhere() {
    let section = section_of(&protocol(), 12);
    let list = section.split("\n0 done").nth(1).unwrap().split("\n\n").next().unwrap();
    let list = format!("0 done{list}").split_whitespace().collect::<Vec<_>>().join(" ");
    let written: Vec<&str> = list.split(" · ").collect();
    let declared = nexo_server::exit::Exit::ALL;
    let declared: Vec<String> =
        declared.iter().map(|exit| format!("{} {}", exit.code(), exit.meaning())).collect();
    assert_eq!(written, declared);
    let shared: BTreeSet<u8> = nexo_cli::exit::Exit::ALL.iter().map(|exit| exit.code()).collect();
    assert!(nexo_server::exit::Exit::ALL.iter().all(|exit| shared.contains(&exit.code())));
}

#[test]
fn every_kind_of_finding_is_in_the_protocol() {
    let section = section_of(&protocol(), 6);
    let list = section.split("Kinds:").nth(1).unwrap().split('.').next().unwrap();
    let written: Vec<&str> = list.split(',').map(str::trim).collect();
    let kinds = nexo_server::tools::verify::Kind::ALL.map(|(_, name)| name);
    assert_eq!(written, kinds);
}

/// The paths in backticks, as `METHOD /path/*`; without a method they are read with GET.
fn routes_in(section: &str) -> BTreeSet<String> {
    let (mut routes, mut methods) = (BTreeSet::new(), Vec::new());
    for (number, span) in section.split('`').enumerate() {
        if number % 2 == 0 {
            // Only "`GET` and `POST /path`" carries a method over.
            if span.trim() != "and" {
                methods.clear();
            }
            continue;
        }
        let mut words = span.split_whitespace();
        let Some(mut word) = words.next() else { continue };
        if ["GET", "POST", "PUT"].contains(&word) {
            methods.push(word);
            match words.next() {
                Some(next) => word = next,
                None => continue,
            }
        }
        if word.starts_with('/') {
            if methods.is_empty() {
                methods.push("GET");
            }
            routes.extend(methods.drain(..).map(|method| format!("{method} {}", plain(word))));
        }
    }
    routes
}

/// A path without query and optional parts, with a star for every variable part.
fn plain(path: &str) -> String {
    let path = path.split(['?', '[']).next().unwrap_or(path);
    let parts = path.split('/').map(|part| if part.starts_with(['<', '{']) { "*" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// The text of a numbered section.
fn section_of(text: &str, number: u32) -> String {
    let from = text.find(&format!("\n## {number}. ")).expect("a numbered section");
    let rest = &text[from + 1..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

fn protocol() -> String {
    read(&root().join("schema/PROTOCOL.md"))
}
