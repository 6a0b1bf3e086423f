//! `nexo-audit keys`: audit the log, then show one account's devices and how they came.

use super::evidence::write;
use super::session::{bar, evidence_folder, within};
use super::{RunError, check, input};
use crate::check::{Failure, Report, Verified};
use crate::cli::KeysArgs;
use crate::encoding::{to_base64, to_hex};
use crate::evidence::of_account;
use crate::fetch::{Http, Source};
use crate::keys::expect::{Expected, MAX_LIST};
use crate::keys::{Account, Broken, Question, read};
use crate::output::Printer;
use crate::sigchain::{Accounts, Chain, End, Fingerprint, History, Member, Step};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// Longest file with a token, bytes.
const MAX_TOKEN: usize = 4096;

/// Audits the log over HTTP and reads the account.
pub(crate) async fn run(
    args: &KeysArgs,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(), RunError> {
    let url = &args.check.url;
    let log = Arc::new(Http::new(url.clone()).map_err(RunError::Client)?);
    let export = match token(args)? {
        None => Http::new(url.clone()),
        Some(_) if !url.keeps_secrets() => return Err(RunError::TokenInClear),
        Some(token) => Http::with_token(url.clone(), &token),
    };
    let export = export.map_err(RunError::Client)?;
    let expected = expected(args)?;
    let (verified, account) = ask(args, log, &export, clock, printer).await?;
    if let Some(expected) = expected {
        let head = verified.memory.head.note.clone();
        if let Err(finding) = expected.compare(&args.handle, &account.history) {
            let (key, proved) = (&verified.memory.log_key, &account.proved);
            let evidence = of_account(key, &finding, &head, &args.handle, proved, clock());
            write(evidence, &evidence_folder(&args.check)?, printer);
            let failure = Failure { finding, head: Some(head), remembered: None };
            return Err(RunError::Failure(Box::new(failure)));
        }
    }
    let report = verified.report;
    let shown = if printer.is_for_nagios() {
        printer.verified(&report)
    } else if printer.wants_json() {
        printer.holds("", members(args, &report, &account.history))
    } else {
        printer.lines(&lines(args, &report, &account.history))
    };
    shown.map_err(RunError::Io)
}

async fn ask<S: Source, E: Source>(
    args: &KeysArgs,
    log: Arc<S>,
    export: &E,
    clock: fn() -> u64,
    printer: &mut Printer<'_>,
) -> Result<(Verified, Account), RunError> {
    let verified = check::audit(&args.check, Arc::clone(&log), clock, printer).await?;
    let (log_key, head) = (&verified.memory.log_key, &verified.memory.head);
    let question = Question { handle: &args.handle, log_key, head };
    let mut broken = None;
    let account = within(args.check.timeout, account(log, export, question, &mut broken)).await;
    if let Some(Broken { finding, proved }) = broken {
        let now = clock();
        let evidence = of_account(log_key, &finding, &head.note, &args.handle, &proved, now);
        write(evidence, &evidence_folder(&args.check)?, printer);
    }
    Ok((verified, account?))
}

/// What was proved of an account that is not as it should be is left in `broken`.
async fn account<S: Source, E: Source>(
    log: Arc<S>,
    export: &E,
    question: Question<'_>,
    broken: &mut Option<Broken>,
) -> Result<Account, RunError> {
    let bar = bar();
    let mut progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let read = read(log, export, question, &mut progress).await;
    bar.finish_and_clear();
    read.map_err(|found| {
        let head = Some(question.head.note.clone());
        let failure = Failure { finding: found.finding.clone(), head, remembered: None };
        *broken = Some(*found);
        RunError::Failure(Box::new(failure))
    })
}

fn token(args: &KeysArgs) -> Result<Option<String>, RunError> {
    let Some(path) = &args.token_file else { return Ok(None) };
    let bytes = input::read(path, MAX_TOKEN)?;
    let text = String::from_utf8(bytes).ok();
    let token = text.as_deref().map(str::trim).filter(|token| {
        !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(|b| b.is_ascii_graphic())
    });
    match token {
        Some(token) => Ok(Some(token.to_owned())),
        None => Err(RunError::NoToken { path: path.clone() }),
    }
}

fn expected(args: &KeysArgs) -> Result<Option<Expected>, RunError> {
    let Some(path) = &args.expect else { return Ok(None) };
    let bytes = input::read(path, MAX_LIST)?;
    if bytes.len() > MAX_LIST {
        return Err(RunError::NoList { path: path.clone() });
    }
    let text = String::from_utf8(bytes).map_err(|_| RunError::NoList { path: path.clone() })?;
    let list = Expected::parse(&text);
    list.map(Some).map_err(|cause| RunError::Expect { path: path.clone(), cause })
}

/// Members of the object, beside those of every verdict. A contract like the others:
///
/// | member | |
/// |---|---|
/// | `handle`, `native`, `account_id`, `fingerprint` | whose, and which account it is now |
/// | `origin`, `size`, `root` | the head under which everything is proved |
/// | `events` | `index` (leaf), `seq`, `change`, `device`, `signer`, `time` (the signer's word) |
/// | `devices` | every one there ever was: `device_id`, `ed25519_pub`, `caps`, `not_after`, `account_id`, `added`, `ended` (leaves), `active` |
/// | `closed` | whether the owner ended the account |
fn members(args: &KeysArgs, report: &Report, history: &History) -> Value {
    let (account, native) = current(history);
    let mut members = json!({
        "handle": args.handle.as_str(),
        "native": native,
        "account_id": to_hex(&account),
        "fingerprint": native.then(|| Fingerprint(account).to_string()),
        "origin": report.origin,
        "size": report.size,
        "root": to_base64(&report.root),
        "events": history.steps.iter().map(event).collect::<Vec<_>>(),
    });
    let (devices, closed) = match &history.accounts {
        Accounts::Native(chains) => {
            let devices = chains
                .iter()
                .flat_map(|chain| chain.devices.iter().map(move |member| device(chain, member)));
            let closed = chains.last().is_some_and(|chain| chain.ended == Some(End::Closed));
            (devices.collect(), closed)
        }
        Accounts::Plain(record) => {
            let added = history.steps.first().map(|step| step.index);
            let only = json!({
                "device_id": record.device,
                "ed25519_pub": to_base64(&record.key),
                "account_id": to_hex(&record.account),
                "added": added,
                "ended": null,
                "active": true,
            });
            (vec![only], false)
        }
    };
    members["devices"] = devices.into();
    members["closed"] = closed.into();
    members
}

/// The account that the handle belongs to now, and whether it is native.
fn current(history: &History) -> ([u8; 32], bool) {
    match &history.accounts {
        Accounts::Plain(record) => (record.account, false),
        Accounts::Native(chains) => (chains.last().map_or([0; 32], |chain| chain.account), true),
    }
}

fn event(step: &Step) -> Value {
    json!({
        "index": step.index,
        "seq": step.seq,
        "change": step.change,
        "device": step.device,
        "signer": step.signer,
        "time": step.time_ms.and_then(time),
    })
}

fn device(chain: &Chain, member: &Member) -> Value {
    let active = chain.active().any(|active| active.id == member.id);
    json!({
        "device_id": to_hex(&member.id),
        "ed25519_pub": to_base64(member.key.as_bytes()),
        "caps": member.caps.names().collect::<Vec<_>>(),
        "not_after": (member.not_after > 0).then_some(member.not_after),
        "account_id": to_hex(&chain.account),
        "added": member.added,
        "ended": member.ended,
        "active": active,
    })
}

/// The signer's milliseconds, RFC 3339; `None` for a time that is none.
fn time(milliseconds: u64) -> Option<String> {
    let milliseconds = i64::try_from(milliseconds).ok()?;
    jiff::Timestamp::from_millisecond(milliseconds).ok().map(|time| time.to_string())
}

/// The same for people.
fn lines(args: &KeysArgs, report: &Report, history: &History) -> String {
    let (account, native) = current(history);
    let name = if native { Fingerprint(account).to_string() } else { to_hex(&account) };
    let kind = if native { "native" } else { "plain" };
    let mut text = format!(
        "verified  {}  {kind}  {name}  origin={} size={}\n",
        args.handle, report.origin, report.size
    );
    for step in &history.steps {
        let device = step.device.as_deref().unwrap_or("-");
        let time = step.time_ms.and_then(time).unwrap_or_default();
        // Writing to a String does not fail.
        let _ = writeln!(text, "  leaf {:<8} {:<15} {device}  {time}", step.index, step.change);
    }
    if let Accounts::Native(chains) = &history.accounts {
        for member in chains.iter().flat_map(Chain::active) {
            let until = match member.not_after {
                0 => String::new(),
                end => format!(" until {}", time(end.saturating_mul(1000)).unwrap_or_default()),
            };
            let _ = writeln!(text, "  device {}  {}{until}", to_hex(&member.id), member.caps);
        }
    }
    text
}
