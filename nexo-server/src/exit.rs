//! Exit codes: one table, from which `--help` and the process status come.
//!
//! A number that nexo-cli or nexo-audit also has means the same there (PROTOCOL.md 12).

nexo_schema::exits! {
    /// Done.
    Done = 0, "done; for log verify: nothing is wrong";
    /// Wrong arguments.
    Usage = 64, "usage";
    /// There is no log yet, or not the token that was named.
    NoKey = 66, "no log key, or no such auditor token";
    /// The web server.
    Web = 69, "web server";
    /// No random bytes, no thread.
    Os = 71, "no randomness";
    /// Something cannot be made where something is.
    CannotCreate = 73, "the database to be filled is not empty";
    /// Reading or writing failed, or the log is not one to go on from.
    Io = 74, "database or log";
    /// Try again.
    Temporary = 75, "the database is in use by a server";
    /// Configuration.
    Config = 78, "keys or configuration";
    /// The log does not hold together.
    Mismatch = 81, "rows, entries, tiles or heads do not fit each other";
    /// Ctrl-C.
    Interrupted = 130, "interrupted";
}

/// The table as text, for the end of `--help`.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascending_and_all_in_the_table() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        assert_eq!(table().lines().count(), codes.len() + 1);
    }
}
