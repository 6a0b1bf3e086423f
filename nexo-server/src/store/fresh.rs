//! What a committed batch made public, for those who wait for it.

use nexo_schema::ids::{AccountId, ConvId};

use super::messages::StoredItem;

/// A batch that is public, or all that other servers on the same database added since.
#[derive(Debug, Clone, Default)]
pub struct Fresh {
    /// Entries in the log before it.
    pub before: u64,
    /// Entries in the log with it.
    pub size: u64,
    /// Conversations in which something was placed; ascending, no two alike.
    pub conversations: Vec<ConvId>,
    /// Accounts that take part in them; ascending, no two alike.
    pub accounts: Vec<AccountId>,
    /// Accounts whose devices changed.
    pub keys_changed: Vec<AccountId>,
    /// Its messages and deletions in log order, as the database would give them, but without
    /// their packets. `None` if another server made it: then only the database has them.
    pub items: Option<Vec<StoredItem>>,
}
