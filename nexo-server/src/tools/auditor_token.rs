//! `auditor-token`: makes, lists and revokes the tokens that open key events to auditors.
//!
//! A relay that is serving knows of all three at once: it looks a token up each time.

use std::path::PathBuf;

use crate::auth::auditor;
use crate::clock::Clock;
use crate::store::{Database, Store, StoreError, auditors, drop_auditor, put_auditor};

/// What to do with tokens, and where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The database.
    pub database: Database,
    /// What to do.
    pub action: Action,
}

/// What to do with tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make one.
    Make {
        /// Seconds from now until it is void.
        lifetime: u64,
    },
    /// Tell which there are.
    List,
    /// Make one void.
    Revoke {
        /// Its name, as it is listed; never the token, which is no word for a command line.
        name: String,
    },
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// There is no token of that name.
    #[error("there is no auditor token of that name; --list shows those there are")]
    Unknown,
}

/// What was done: data for stdout and words for stderr, each without its last line end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The token, or a line for each.
    pub data: Option<String>,
    /// What a person may want to know beside it.
    pub words: Option<String>,
}

/// Carries an order out.
///
/// # Errors
/// [`Failed`].
pub async fn run(order: Order, clock: &Clock) -> Result<Done, Failed> {
    let store = Store::open(&order.database)?;
    let now = clock.seconds();
    match order.action {
        Action::Make { lifetime } => make(&store, lifetime, now).await,
        Action::List => list(&store, now).await,
        Action::Revoke { name } => revoke(&store, name).await,
    }
}

async fn make(store: &Store, lifetime: u64, now: u64) -> Result<Done, Failed> {
    let token = auditor::new()?;
    // A token that was just made is one.
    let hash = auditor::hash(&token).ok_or(Failed::Unknown)?;
    let exp = now.saturating_add(lifetime);
    store.write(move |conn| put_auditor(conn, &hash, exp, now)).await?;
    let words = format!("token {}, until {exp} (Unix seconds)", auditor::name(&hash));
    Ok(Done { data: Some(token), words: Some(words) })
}

/// Name and end of each, in one line.
async fn list(store: &Store, now: u64) -> Result<Done, Failed> {
    let there = store.read(auditors).await?;
    let lines: Vec<String> = there
        .iter()
        .filter(|(_, exp)| *exp >= now)
        .map(|(hash, exp)| format!("{} {exp}", auditor::name(hash)))
        .collect();
    Ok(Done { data: (!lines.is_empty()).then(|| lines.join("\n")), words: None })
}

async fn revoke(store: &Store, name: String) -> Result<Done, Failed> {
    let revoked = store
        .write(move |conn| {
            let there = auditors(conn)?;
            let meant = |hash: &[u8; 32]| auditor::name(hash) == name;
            match there.iter().map(|(hash, _)| *hash).find(meant) {
                Some(hash) => drop_auditor(conn, &hash),
                None => Ok(false),
            }
        })
        .await?;
    if revoked { Ok(Done::default()) } else { Err(Failed::Unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::is_auditor;

    const NOW: u64 = 1_700_000_000;

    fn act(dir: &std::path::Path, action: Action, now: u64) -> Result<Done, Failed> {
        let database = Database::File(dir.join("nexo.db"));
        let order = Order { data_dir: dir.to_owned(), database, action };
        rocket::execute(run(order, &Clock::fixed(now)))
    }

    fn known(dir: &std::path::Path, token: &str, now: u64) -> bool {
        let store = Store::open(&Database::File(dir.join("nexo.db"))).unwrap();
        let hash = auditor::hash(token).unwrap();
        rocket::execute(store.read(move |conn| is_auditor(conn, &hash, now))).unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let make = || act(dir.path(), Action::Make { lifetime: 60 }, NOW).unwrap();
        let (one, two) = (make(), make());
        let [one_token, two_token] = [&one, &two].map(|done| done.data.clone().unwrap());
        assert!(known(dir.path(), &one_token, NOW) && known(dir.path(), &one_token, NOW + 60));
        assert!(!known(dir.path(), &one_token, NOW + 61));
        assert!(!known(dir.path(), &auditor::new().unwrap(), NOW));

        let listed = act(dir.path(), Action::List, NOW).unwrap().data.unwrap();
        assert_eq!(listed.lines().count(), 2);
        assert!(!listed.contains(&one_token) && !one.words.unwrap().contains(&one_token));
        let name = auditor::name(&auditor::hash(&one_token).unwrap());
        assert!(listed.contains(&format!("{name} {}", NOW + 60)), "{listed}");
        act(dir.path(), Action::Revoke { name: name.clone() }, NOW).unwrap();
        assert!(!known(dir.path(), &one_token, NOW) && known(dir.path(), &two_token, NOW));
        let again = act(dir.path(), Action::Revoke { name }, NOW);
        assert!(matches!(again, Err(Failed::Unknown)));
        let itself = act(dir.path(), Action::Revoke { name: two_token.clone() }, NOW);
        assert!(matches!(itself, Err(Failed::Unknown)));
        let name = auditor::name(&auditor::hash(&two_token).unwrap());
        act(dir.path(), Action::Revoke { name }, NOW).unwrap();
        assert!(!known(dir.path(), &two_token, NOW));
        assert_eq!(act(dir.path(), Action::List, NOW).unwrap(), Done::default());
    }

    #[test]
    fn one_that_has_ended_is_neither_listed_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        act(dir.path(), Action::Make { lifetime: 60 }, NOW).unwrap();
        assert_eq!(act(dir.path(), Action::List, NOW + 61).unwrap(), Done::default());
        act(dir.path(), Action::Make { lifetime: 60 }, NOW + 61).unwrap();
        let store = Store::open(&Database::File(dir.path().join("nexo.db"))).unwrap();
        assert_eq!(rocket::execute(store.read(auditors)).unwrap().len(), 1);
    }

    #[test]
    fn only_hashes_are_stored() {
        let dir = tempfile::tempdir().unwrap();
        let made = act(dir.path(), Action::Make { lifetime: 60 }, NOW).unwrap();
        let token = made.data.unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = match std::fs::read(&path) {
                // SQLite removes its log with the last connection, which the pool closes any time.
                Err(_) if !path.ends_with("nexo.db") => continue,
                read => read.unwrap(),
            };
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()));
        }
    }
}
