//! Lines of stdin, as they come.

use std::io::{self, BufRead, BufReader, Read as _};

use tokio::sync::mpsc;

use crate::e2ee::padding::MAX_BODY;
use crate::error::CliError;

/// Lines that are read before somebody takes them.
const READ_AHEAD: usize = 64;

/// Why a line is no text.
#[derive(Debug)]
enum Refused {
    Read(io::Error),
    TooLong,
    NotUtf8 { at: usize },
}

/// The lines of stdin. A last one without an end is a line too.
pub(in crate::commands) struct Lines {
    lines: mpsc::Receiver<Result<String, Refused>>,
    /// Lines that were taken.
    count: u64,
    /// Why there are no more of them, once those before were taken.
    failed: Option<CliError>,
}

impl Lines {
    /// Reads on a thread of its own, so that the network goes on when nobody writes.
    pub(in crate::commands) fn of_stdin() -> Self {
        let (tell, lines) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            let stdin = BufReader::new(io::stdin());
            // Nobody takes them any more if the command has ended.
            read_lines(stdin, |line| tell.blocking_send(line).is_ok());
        });
        Self { lines, count: 0, failed: None }
    }

    /// The next line and what else is there, at most `most`; none at the end. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// [`CliError`] for a line that is no text, once those before it were taken; then there are
    /// no more.
    pub(in crate::commands) async fn next(&mut self, most: usize) -> Result<Vec<String>, CliError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut found = Vec::new();
        self.lines.recv_many(&mut found, most).await;
        let mut lines = Vec::with_capacity(found.len());
        for line in found {
            self.count += 1;
            match line {
                Ok(line) => lines.push(line),
                Err(refused) => self.failed = Some(refused.into_error(self.count)),
            }
        }
        match self.failed.take_if(|_| lines.is_empty()) {
            Some(error) => Err(error),
            None => Ok(lines),
        }
    }
}

impl Refused {
    fn into_error(self, number: u64) -> CliError {
        let detail = match self {
            Self::Read(source) => return CliError::Input { path: "stdin".to_owned(), source },
            Self::TooLong => format!("is longer than {MAX_BODY} bytes"),
            Self::NotUtf8 { at } => format!("is not UTF-8 (byte {at})"),
        };
        CliError::BadData(format!("line {number} of stdin {detail}"))
    }
}

/// Tells every line without its end, until one is no text or nobody listens.
fn read_lines(mut input: impl BufRead, mut tell: impl FnMut(Result<String, Refused>) -> bool) {
    loop {
        let mut line = Vec::new();
        // A line of the greatest length and its end; one byte more says that it is too long.
        let read = input.by_ref().take(MAX_BODY as u64 + 2).read_until(b'\n', &mut line);
        let line = match read {
            Ok(0) => return,
            Ok(_) => text(line),
            Err(error) => Err(Refused::Read(error)),
        };
        let goes_on = line.is_ok();
        if !tell(line) || !goes_on {
            return;
        }
    }
}

fn text(mut line: Vec<u8>) -> Result<String, Refused> {
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > MAX_BODY {
        return Err(Refused::TooLong);
    }
    String::from_utf8(line).map_err(|e| Refused::NotUtf8 { at: e.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Result<String, String>> {
        let mut lines = Vec::new();
        read_lines(input, |line| {
            lines.push(line.map_err(|refused| refused.into_error(7).to_string()));
            true
        });
        lines
    }

    #[test]
    fn a_line_ends_with_its_end_or_with_the_input() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b""), []);
        assert_eq!(
            lines(b"one\n\n three\r\nlast"),
            [ok("one"), ok(""), ok(" three\r"), ok("last")]
        );
        assert_eq!(lines("grüße\n".as_bytes()), [ok("grüße")]);
    }

    #[test]
    fn what_is_no_text_ends_them() {
        let longest = vec![b'x'; MAX_BODY];
        let exact = [&longest[..], b"\n", &longest].concat();
        assert_eq!(lines(&exact).iter().filter(|line| line.is_ok()).count(), 2);
        for too_long in [[&longest[..], b"x\nnext"].concat(), [&longest[..], b"xyz"].concat()] {
            let got = lines(&too_long);
            assert_eq!(got.len(), 1);
            assert!(got[0].as_ref().unwrap_err().starts_with("line 7 of stdin is longer"));
        }
        let got = lines(b"good\nb\xffd\nnever read\n");
        assert_eq!(got[0], Ok("good".to_owned()));
        assert_eq!(got[1], Err("line 7 of stdin is not UTF-8 (byte 1)".to_owned()));
        assert_eq!(got.len(), 2);
    }

    #[tokio::test]
    async fn those_before_a_bad_one_come_first() {
        let (tell, lines) = mpsc::channel(READ_AHEAD);
        read_lines(&b"a\nb\n\xff\n"[..], |line| tell.try_send(line).is_ok());
        drop(tell);
        let mut lines = Lines { lines, count: 0, failed: None };
        assert_eq!(lines.next(9).await.unwrap(), ["a", "b"]);
        let error = lines.next(9).await.unwrap_err();
        assert!(error.to_string().starts_with("line 3 "), "{error}");
        assert!(lines.next(9).await.unwrap().is_empty(), "the end");
    }
}
