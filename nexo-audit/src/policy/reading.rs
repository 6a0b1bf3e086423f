//! Why a trust file is refused.

use super::safety::Unsound;
use crate::key::KeyError;

/// Longest trust file that is read, bytes.
pub const MAX_FILE: usize = 256 * 1024;
/// Most logs, witnesses and groups each. C2SP asks for at least 32.
pub(super) const MAX_ITEMS: usize = 256;

/// Why bytes are not a trust file to go by. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`MAX_FILE`].
    #[error("the file is longer than {MAX_FILE} bytes")]
    TooLong,
    /// The last line does not end: the rest may be missing.
    #[error("the last line has no line end; is the file whole?")]
    Cut,
    /// A control character other than tab and line end.
    #[error("line {line} has a control character")]
    Octet {
        /// The line.
        line: usize,
    },
    /// The line begins with none of the four words.
    #[error("line {line} is not a log, witness, group or quorum line")]
    Word {
        /// The line.
        line: usize,
    },
    /// Too few or too many words.
    #[error("line {line} has too few or too many words")]
    Fields {
        /// The line.
        line: usize,
    },
    /// A vkey that cannot be used.
    #[error("line {line}: {cause}")]
    Key {
        /// The line.
        line: usize,
        /// What is wrong with it.
        cause: KeyError,
    },
    /// The public key is in an earlier line as well.
    #[error("line {line} has the public key of an earlier line")]
    SameKey {
        /// The line.
        line: usize,
    },
    /// The name is taken, or is `none`.
    #[error("line {line} gives a name that is taken")]
    Name {
        /// The line.
        line: usize,
    },
    /// A member or quorum that no earlier line defines.
    #[error("line {line} names what no earlier line defines")]
    Unknown {
        /// The line.
        line: usize,
    },
    /// A member that is one already.
    #[error("line {line} has a member that is in a group already")]
    MemberTwice {
        /// The line.
        line: usize,
    },
    /// The threshold is not `any`, `all` or a number from 1 to that of the members.
    #[error("line {line} has a threshold that is not any, all, or from 1 to the number of members")]
    Threshold {
        /// The line.
        line: usize,
    },
    /// More than one quorum line.
    #[error("line {line} is a second quorum line")]
    SecondQuorum {
        /// The line.
        line: usize,
    },
    /// No quorum line.
    #[error("no line says quorum; write \"quorum none\" to ask for no witness")]
    NoQuorum,
    /// More logs, witnesses or groups than are read.
    #[error("line {line} is beyond {MAX_ITEMS} of its kind")]
    TooMany {
        /// The line.
        line: usize,
    },
    /// A `#nexo:` line that is unknown, malformed or there twice.
    #[error("line {line} is no rule of nexo-audit, or a second one of its kind")]
    Rule {
        /// The line.
        line: usize,
    },
    /// Two quorums could be shown two logs.
    #[error(transparent)]
    Unsound(#[from] Unsound),
}
