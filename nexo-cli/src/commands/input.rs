//! What people and scripts hand in: handles, texts, times.

mod lines;

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use nexo_schema::ids::Handle;
use zeroize::Zeroizing;

use crate::clock;
use crate::e2ee::padding::MAX_BODY;
use crate::error::CliError;
use crate::options::named;

pub(super) use lines::Lines;

/// Reads a handle; case and surrounding space do not matter, as at the relay.
pub(super) fn handle(text: &str) -> Result<Handle, CliError> {
    Handle::parse_lenient(text).map_err(|e| CliError::Usage(format!("{text:?}: {e}")))
}

/// The text of a message: the argument, a file, or stdin.
pub(super) async fn message_text(
    text: Option<&str>,
    file: Option<&Path>,
) -> Result<String, CliError> {
    let bytes = match (text, file) {
        (Some("-"), _) => stdin().await?,
        (Some(text), _) => return Ok(text.to_owned()),
        (None, Some(path)) => from_file(path)?,
        (None, None) if !std::io::stdin().is_terminal() => stdin().await?,
        (None, None) => {
            let detail = "no text: give it as an argument, with --body-file, or on stdin";
            return Err(CliError::Usage(detail.to_owned()));
        }
    };
    utf8(bytes)
}

/// One secret or invite from a file, without its line end.
pub(super) fn line_of(path: &Path) -> Result<String, CliError> {
    Ok(utf8(from_file(path)?)?.trim_ascii().to_owned())
}

/// A secret of several words from a file, or with - from stdin; never an argument.
pub(super) async fn secret(path: &Path) -> Result<Zeroizing<String>, CliError> {
    let bytes = if path == Path::new("-") { stdin().await? } else { from_file(path)? };
    Ok(Zeroizing::new(utf8(bytes)?))
}

/// A file of secrets, whole.
pub(super) fn secret_file(path: &Path) -> Result<String, CliError> {
    utf8(from_file(path)?)
}

fn utf8(bytes: Vec<u8>) -> Result<String, CliError> {
    if bytes.len() > MAX_BODY {
        let detail = format!("the text is longer than {MAX_BODY} bytes");
        return Err(CliError::BadData(detail));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        CliError::BadData(format!("the text is not UTF-8 (byte {at})"))
    })
}

fn from_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let limit = MAX_BODY as u64 + 1;
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| CliError::Input { path: named(path), source })?;
    Ok(bytes)
}

/// Reads stdin on a thread of its own, so that the deadline and signals still work when nobody
/// ever writes to it.
async fn stdin() -> Result<Vec<u8>, CliError> {
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let limit = MAX_BODY as u64 + 1;
        let read = std::io::stdin().take(limit).read_to_end(&mut bytes).map(|_| bytes);
        // Nobody waits any more if the deadline has passed.
        let _ = done.send(read);
    });
    let read = wait.await.map_err(|_| CliError::Os("stdin cannot be read".to_owned()))?;
    read.map_err(|source| CliError::Input { path: "stdin".to_owned(), source })
}

/// A time in the past, Unix seconds: RFC 3339, an age like 2h, or `all`.
pub(super) fn since(text: &str, now: u64) -> Result<u64, CliError> {
    if text == "all" {
        return Ok(0);
    }
    let age = age(text).map(|seconds| now.saturating_sub(seconds));
    age.or_else(|| clock::parse_rfc3339(text)).ok_or_else(|| {
        let detail = "--since: expected all, an age like 90s, 15m, 2h, 7d, or a time like \
                      2026-11-23T10:00:00Z";
        CliError::Usage(detail.to_owned())
    })
}

/// A length of time like 90s, 15m, 2h, 7d, in seconds.
pub(super) fn age(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| number.parse::<u64>().ok()?.checked_mul(unit))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_the_past() {
        let now = 1_000_000_000;
        for (text, seconds) in [
            ("all", 0),
            ("90s", now - 90),
            ("15m", now - 900),
            ("2h", now - 7200),
            ("7d", now - 604_800),
            ("99999d", 0),
            ("2001-09-09T01:46:40Z", 1_000_000_000),
        ] {
            assert_eq!(since(text, now).ok(), Some(seconds), "{text}");
        }
        for text in ["", "2", "h", "-2h", "2w", "2é", "99999999999999999999s", "yesterday"] {
            assert_eq!(since(text, now).map_err(|e| e.exit().code()), Err(64), "{text:?}");
        }
    }

    #[tokio::test]
    async fn texts_are_utf8_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        let read = |bytes: Vec<u8>| {
            std::fs::write(&path, bytes).unwrap();
            let path = path.clone();
            async move { message_text(None, Some(&path)).await.map_err(|e| e.exit().code()) }
        };
        assert_eq!(read("grüße\n".into()).await.as_deref(), Ok("grüße\n"));
        assert_eq!(read(vec![b'a', 0xff]).await, Err(65), "not UTF-8");
        assert_eq!(read(vec![b'a'; MAX_BODY + 1]).await, Err(65), "too long");
        let missing = message_text(None, Some(Path::new("/nonexistent"))).await;
        assert_eq!(missing.map_err(|e| e.exit().code()), Err(66));
        assert_eq!(message_text(Some("hi"), None).await.ok().as_deref(), Some("hi"));
    }

    #[test]
    fn handles_are_read_as_the_relay_reads_them() {
        assert_eq!(handle(" Alice ").map(|h| h.to_string()).ok().as_deref(), Some("alice"));
        assert_eq!(handle("no handle").map_err(|e| e.exit().code()), Err(64));
    }
}
