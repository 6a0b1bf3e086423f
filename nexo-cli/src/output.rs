//! Where words go: results to stdout, conversation to stderr, and nothing that a message or a
//! relay says may move the cursor of a terminal.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

/// What the process writes to.
pub struct Printer {
    out: RefCell<Box<dyn Write>>,
    words: RefCell<Box<dyn Write>>,
    json: bool,
    quiet: bool,
    progress: Progress,
}

impl Printer {
    /// Prints to the process's own streams.
    #[must_use]
    pub fn standard(json: bool, quiet: bool) -> Self {
        Self::to(Box::new(io::stdout()), Box::new(anstream::stderr()), json, quiet)
    }

    /// Prints to these.
    #[must_use]
    pub fn to(out: Box<dyn Write>, words: Box<dyn Write>, json: bool, quiet: bool) -> Self {
        let (out, words) = (RefCell::new(out), RefCell::new(words));
        let progress = if quiet { Progress::silent() } else { Progress::default() };
        Self { out, words, json, quiet, progress }
    }

    /// Whether stdout is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The spinner on stderr.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// One result: an object as one line with `--json`, else the text.
    ///
    /// # Errors
    /// That stdout cannot be written.
    pub fn result(&self, object: &impl Serialize, text: &str) -> io::Result<()> {
        self.progress.clear();
        let line = if self.json { serde_json::to_string(object)? } else { text.to_owned() };
        writeln!(self.out.borrow_mut(), "{line}")
    }

    /// A result that is a line already.
    ///
    /// # Errors
    /// That stdout cannot be written.
    pub fn line(&self, line: &str) -> io::Result<()> {
        self.progress.clear();
        writeln!(self.out.borrow_mut(), "{line}")
    }

    /// A secret line that was asked for on stdout.
    ///
    /// # Errors
    /// That stdout cannot be written.
    pub fn secret(&self, line: &str) -> io::Result<()> {
        self.progress.clear();
        writeln!(self.out.borrow_mut(), "{line}")?;
        self.flush()
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// That stdout cannot be written.
    pub fn flush(&self) -> io::Result<()> {
        self.out.borrow_mut().flush()
    }

    /// A word to a person, unless `--quiet`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// A word that `--quiet` does not silence.
    pub fn warn(&self, text: &str) {
        self.progress.clear();
        // There is nobody left to tell if stderr is closed.
        let _ = writeln!(self.words.borrow_mut(), "{}", visible(text));
    }
}

/// A spinner that appears only on a terminal and only once there is something to wait for.
#[derive(Clone, Default)]
pub struct Progress {
    bar: Rc<RefCell<Option<ProgressBar>>>,
    text: Rc<RefCell<Option<String>>>,
    silent: bool,
}

impl Progress {
    /// Never shows anything.
    #[must_use]
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// Shows or changes the text.
    pub fn show(&self, text: &str) {
        *self.text.borrow_mut() = Some(text.to_owned());
        if self.silent {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| {
            // indicatif hides itself when stderr is no terminal.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(one_line(text));
    }

    /// What it shows, or would show on a terminal.
    #[must_use]
    pub fn shown(&self) -> Option<String> {
        self.text.borrow().clone()
    }

    /// Takes it away.
    pub fn clear(&self) {
        *self.text.borrow_mut() = None;
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// Text for a terminal: line ends and tabs stay, every other control character, and what turns
/// the direction of writing, becomes a visible stand-in.
#[must_use]
pub fn visible(text: &str) -> String {
    let stand_in = |c: char| match c {
        '\n' | '\t' => c,
        // U+2400.. are the pictures of the control characters below space.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        c if c.is_control() || turns_writing(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(stand_in).collect()
}

/// As [`visible`], on one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

/// A message body: lines after the first are indented, so that none of them looks like the
/// next message; line ends at the end are not printed.
#[must_use]
pub fn indented(text: &str) -> String {
    visible(text.trim_end_matches('\n')).replace('\n', "\n    ")
}

/// Bidirectional overrides and isolates, and the separators that some terminals break lines at.
fn turns_writing(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A writer whose content can be looked at.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Paper {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_text_moves_the_cursor() {
        assert_eq!(
            visible("a\u{1b}[2Jb\rc\u{7f}\u{9b}d"),
            "a\u{241b}[2Jb\u{240d}c\u{2421}\u{fffd}d"
        );
        assert_eq!(visible("abc\u{202e}def\u{2028}"), "abc\u{fffd}def\u{fffd}");
        assert_eq!(one_line("a\n\tb"), "a  b");
        assert_eq!(indented("one\n2026 bob: two\n"), "one\n    2026 bob: two");
        assert_eq!(visible("grüße ✓\tx\n"), "grüße ✓\tx\n");
    }

    #[test]
    fn json_and_text_go_to_stdout_words_to_stderr() {
        let (out, words) = (Paper::default(), Paper::default());
        let printer =
            |json, quiet| Printer::to(Box::new(out.clone()), Box::new(words.clone()), json, quiet);
        printer(false, false).result(&serde_json::json!({"a": 1}), "text").unwrap();
        printer(true, false).result(&serde_json::json!({"a": 1}), "text").unwrap();
        printer(true, false).say("said");
        printer(true, true).say("not said");
        printer(true, true).warn("warned\u{1b}");
        assert_eq!(out.text(), "text\n{\"a\":1}\n");
        assert_eq!(words.text(), "said\nwarned\u{241b}\n");
    }
}
