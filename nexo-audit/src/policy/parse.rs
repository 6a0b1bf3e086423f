//! From the octets of a trust file to its parts (C2SP tlog-policy).
//!
//! ```text
//! file    = line*                     each line ends with LF; 0x09, 0x20..0x7e, 0x80..0xff
//! line    = blank | '#' comment | word (blanks word)*      blanks: spaces and tabs
//! rule    = "#nexo:" blanks word blanks word               a comment to everybody else
//! ```
//!
//! Names are octets: two of them are equal when their bytes are, whatever they look like.

use super::reading::{MAX_FILE, MAX_ITEMS, PolicyError};
use super::{Group, Log, Member, Policy, Rules, Witness};
use crate::duration::duration;
use crate::key::{KeyError, LogKey, WitnessKey, post_quantum_key};
use std::collections::{HashMap, HashSet};

/// A comment that is a rule of ours.
const RULE: &str = "#nexo:";
/// The quorum that asks for nobody, and so no name.
const NOBODY: &[u8] = b"none";

/// What was read so far.
#[derive(Default)]
struct Reader<'a> {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    quorum: Option<Option<Member>>,
    rules: Rules,
    names: HashMap<&'a [u8], Member>,
    members: HashSet<&'a [u8]>,
    /// Public keys, of logs and witnesses: a log that witnesses itself is no witness.
    keys: HashSet<Vec<u8>>,
}

/// Reads the file; whether it is sound is not judged here.
pub(super) fn parse(bytes: &[u8]) -> Result<Policy, PolicyError> {
    if bytes.len() > MAX_FILE {
        return Err(PolicyError::TooLong);
    }
    if bytes.last().is_some_and(|last| *last != b'\n') {
        return Err(PolicyError::Cut);
    }
    let mut reader = Reader::default();
    for (at, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = at + 1;
        if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(PolicyError::Octet { line });
        }
        let words = text.split(|byte| matches!(byte, b' ' | b'\t'));
        let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        reader.line(line, &words)?;
    }
    let quorum = reader.quorum.ok_or(PolicyError::NoQuorum)?;
    let Reader { logs, witnesses, groups, rules, .. } = reader;
    Ok(Policy { logs, witnesses, groups, quorum, rules })
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: usize, words: &[&'a [u8]]) -> Result<(), PolicyError> {
        match words {
            [] => Ok(()),
            [first, rest @ ..] if *first == RULE.as_bytes() => {
                self.rule(rest).ok_or(PolicyError::Rule { line })
            }
            [first, ..] if first.starts_with(RULE.as_bytes()) => Err(PolicyError::Rule { line }),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", vkey] => self.log(line, vkey, None),
            [b"log", vkey, url] => self.log(line, vkey, Some(url)),
            [b"witness", name, vkey] => self.witness(line, name, vkey, None),
            [b"witness", name, vkey, url] => self.witness(line, name, vkey, Some(url)),
            [b"group", name, threshold, members @ ..] if !members.is_empty() => {
                self.group(line, name, threshold, members)
            }
            [b"quorum", name] => self.quorum(line, name),
            [b"log" | b"witness" | b"group" | b"quorum", ..] => Err(PolicyError::Fields { line }),
            _ => Err(PolicyError::Word { line }),
        }
    }

    fn log(&mut self, line: usize, vkey: &[u8], url: Option<&&[u8]>) -> Result<(), PolicyError> {
        bounded(&self.logs, line)?;
        let key = self.key(line, vkey, LogKey::parse, |key| key.verifier().key_bytes().to_vec())?;
        self.logs.push(Log { key, url: url.map(|url| shown(url)) });
        Ok(())
    }

    fn witness(
        &mut self,
        line: usize,
        name: &'a [u8],
        vkey: &[u8],
        url: Option<&&[u8]>,
    ) -> Result<(), PolicyError> {
        bounded(&self.witnesses, line)?;
        let bytes = |key: &WitnessKey| key.verifier().key_bytes().to_vec();
        let key = self.key(line, vkey, WitnessKey::parse, bytes)?;
        self.define(line, name, Member::Witness(self.witnesses.len()))?;
        let url = url.map(|url| shown(url));
        self.witnesses.push(Witness { name: shown(name), key, url });
        Ok(())
    }

    /// A key, which no line before has; `None` when it is of the post-quantum kind.
    fn key<K>(
        &mut self,
        line: usize,
        vkey: &[u8],
        parse: fn(&str) -> Result<K, KeyError>,
        bytes: impl Fn(&K) -> Vec<u8>,
    ) -> Result<Option<K>, PolicyError> {
        let refused = |cause| PolicyError::Key { line, cause };
        let text = str::from_utf8(vkey).map_err(|_| refused(KeyError::Name))?;
        let (key, public) = match post_quantum_key(text).map_err(refused)? {
            Some(public) => (None, public),
            None => {
                let key = parse(text).map_err(refused)?;
                let public = bytes(&key);
                (Some(key), public)
            }
        };
        let fresh = self.keys.insert(public);
        if fresh { Ok(key) } else { Err(PolicyError::SameKey { line }) }
    }

    fn group(
        &mut self,
        line: usize,
        name: &'a [u8],
        threshold: &[u8],
        names: &[&'a [u8]],
    ) -> Result<(), PolicyError> {
        bounded(&self.groups, line)?;
        let mut members = Vec::with_capacity(names.len());
        for name in names {
            members.push(*self.names.get(name).ok_or(PolicyError::Unknown { line })?);
            if !self.members.insert(name) {
                return Err(PolicyError::MemberTwice { line });
            }
        }
        let threshold = match threshold {
            b"any" => Some(1),
            b"all" => Some(members.len()),
            digits => count(digits),
        };
        let possible = 1..=members.len();
        let threshold = threshold.filter(|threshold| possible.contains(threshold));
        let threshold = threshold.ok_or(PolicyError::Threshold { line })?;
        self.define(line, name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { name: shown(name), threshold, members });
        Ok(())
    }

    fn quorum(&mut self, line: usize, name: &[u8]) -> Result<(), PolicyError> {
        if self.quorum.is_some() {
            return Err(PolicyError::SecondQuorum { line });
        }
        self.quorum = Some(match self.names.get(name) {
            None if name == NOBODY => None,
            found => Some(*found.ok_or(PolicyError::Unknown { line })?),
        });
        Ok(())
    }

    fn define(&mut self, line: usize, name: &'a [u8], member: Member) -> Result<(), PolicyError> {
        if name == NOBODY || self.names.contains_key(name) {
            return Err(PolicyError::Name { line });
        }
        self.names.insert(name, member);
        Ok(())
    }

    /// A rule of ours, each at most once.
    fn rule(&mut self, words: &[&[u8]]) -> Option<()> {
        let [name, value] = words else { return None };
        let twice = match *name {
            b"max-age" => {
                let age = duration(str::from_utf8(value).ok()?).ok()?;
                self.rules.max_age.replace(age).is_some()
            }
            b"faulty" => self.rules.faulty.replace(count(value)?).is_some(),
            b"clients" => self.rules.clients.replace(count(value)?).is_some(),
            _ => return None,
        };
        (!twice).then_some(())
    }
}

fn bounded<T>(items: &[T], line: usize) -> Result<(), PolicyError> {
    if items.len() < MAX_ITEMS { Ok(()) } else { Err(PolicyError::TooMany { line }) }
}

/// A number in its one spelling.
fn count(digits: &[u8]) -> Option<usize> {
    let canonical = match digits {
        [b'0'] => true,
        [b'0', ..] | [] => false,
        _ => digits.iter().all(u8::is_ascii_digit),
    };
    str::from_utf8(digits).ok().filter(|_| canonical)?.parse().ok()
}

/// Octets as people see them.
fn shown(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
