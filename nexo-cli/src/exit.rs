//! Exit codes: one table, from which `nexo-cli help-exit-codes`, `--help` and the process
//! status all come. The codes are a contract with scripts (design/product.md 5.1).

use std::process::ExitCode;

nexo_schema::exits! {
    /// Done.
    Done = 0, "done; for send: the message is in the log and its receipt was verified";
    /// Wrong arguments.
    Usage = 64, "usage: wrong or missing arguments";
    /// Input that cannot be used.
    BadData = 65, "bad input data: not UTF-8, too long, or an idempotency key used for other text";
    /// Input that is not there.
    NoInput = 66, "an input file or the message named is missing";
    /// No such recipient.
    UnknownPeer = 67, "unknown recipient, or one that native clients cannot write to";
    /// The relay is not there.
    Unreachable = 69, "the relay is unreachable or failed";
    /// A bug.
    Bug = 70, "a bug in nexo-cli";
    /// The operating system refused something basic.
    Os = 71, "the operating system refused something basic";
    /// Something cannot be made.
    CannotCreate = 73, "cannot create: a file exists, or the handle is taken";
    /// Reading or writing failed.
    Io = 74, "input or output failed";
    /// Try again.
    Temporary = 75, "temporary: rate limited, state locked, recipient without a prekey; try again";
    /// The relay said something that is not the protocol.
    Protocol = 76, "protocol: the relay's answer is malformed or does not fit the request";
    /// Not allowed.
    NotAllowed = 77, "not allowed: login refused, device revoked, registration closed, no state";
    /// Configuration.
    Config = 78, "configuration: home, permissions, state key or passphrase, server URL";
    /// A key is not the one it should be.
    KeyChanged = 80, "a key changed or is not verified: account, device or prekey";
    /// The log does not hold what the relay says.
    BadProof = 81, "an inclusion proof failed: the log does not hold what the relay says";
    /// A newer client is needed.
    ClientTooOld = 82, "the account or state was written by a newer version";
    /// The log's signature.
    BadSignature = 83, "the log's signature is missing or wrong";
    /// The log forked or went back.
    SplitView = 84, "the log forked, went back or is inconsistent; see the evidence directory";
    /// The head is too old.
    Stale = 85, "the log's newest head is too old, or this machine's clock is wrong";
    /// The own account has a device that nobody confirmed.
    ForeignDevice = 87, "this account has a device that nobody confirmed here; see device list";
    /// The local state went back in time.
    StateRollback = 90, "the local state is a copy, or older than what the relay saw of this device";
    /// A chain that breaks its rules, forked, or lost events.
    BrokenChain = 96, "an account's chain breaks its rules, has forked or lost events; see evidence";
    /// The deadline.
    Timeout = 124, "--timeout passed";
    /// Ctrl-C.
    Interrupted = 130, "interrupted";
    /// SIGTERM.
    Terminated = 143, "terminated";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
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
    fn codes_are_unique_and_ascending() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
    }

    #[test]
    fn the_contract_of_product_5_1_holds() {
        for (exit, code) in [
            (Exit::Done, 0),
            (Exit::Usage, 64),
            (Exit::BadData, 65),
            (Exit::UnknownPeer, 67),
            (Exit::Unreachable, 69),
            (Exit::Temporary, 75),
            (Exit::NotAllowed, 77),
            (Exit::Config, 78),
            (Exit::KeyChanged, 80),
            (Exit::BadProof, 81),
            (Exit::BadSignature, 83),
            (Exit::SplitView, 84),
            (Exit::Stale, 85),
            (Exit::Timeout, 124),
        ] {
            assert_eq!(exit.code(), code);
            assert!(table().contains(&format!("{code:>3}  {}", exit.meaning())));
        }
    }
}
