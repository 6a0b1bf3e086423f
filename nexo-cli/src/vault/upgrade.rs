//! Bringing the tables up to date: all of it or nothing, and the file as it was is kept.
//!
//! Before tables are changed the state is copied to `state.db.old` (0600), whole and in one
//! piece; then every pending migration runs in one transaction. A migration that fails, or a
//! power cut, leaves the state as it was. The copy is for a person: it holds keys that the state
//! has forgotten since, so it goes away after a week, and a state that is opened as another file
//! than it was is refused in any case ([`super::place`]).

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::Sqlite;
use diesel_migrations::MigrationHarness as _;

use super::VaultError;
use crate::home::{Home, write_new_private};

/// The copy.
const COPY: &str = "state.db.old";
/// The copy while it is being made.
const DRAFT: &str = "state.db.draft";
/// How long it is kept.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

type Migrations = Vec<Box<dyn Migration<Sqlite>>>;

/// Runs what `source` has and the database has not. `home` is where the copy goes; a state in
/// memory has none. The caller holds the lock.
pub(super) fn bring_up_to_date(
    conn: &mut SqliteConnection,
    source: impl MigrationSource<Sqlite>,
    home: Option<&Home>,
) -> Result<(), VaultError> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| VaultError::Migrate(e.to_string());
    let pending: Migrations = conn.pending_migrations(source).map_err(failed)?;
    if pending.is_empty() {
        return home.map_or(Ok(()), |home| Ok(home.forget_older(COPY, KEPT)?));
    }
    let applied = conn.applied_migrations().map_err(failed)?;
    if let Some(home) = home.filter(|_| !applied.is_empty()) {
        keep_copy(conn, home)?;
    }
    // Each migration opens a transaction of its own, which is a savepoint in this one.
    conn.immediate_transaction(|conn| conn.run_migrations(&pending).map(drop)).map_err(failed)
}

fn keep_copy(conn: &mut SqliteConnection, home: &Home) -> Result<(), VaultError> {
    // Of an attempt that was cut.
    home.forget(DRAFT)?;
    let draft = home.file(DRAFT);
    // SQLite would follow the umask; into an empty file it writes with that file's mode.
    write_new_private(&draft, b"")?;
    diesel::sql_query("VACUUM INTO ?")
        .bind::<Text, _>(draft.to_string_lossy().into_owned())
        .execute(conn)?;
    Ok(home.put_in_place(DRAFT, COPY)?)
}

impl super::Vault {
    /// Writes the journal into the database and empties it, so that what a row held before is in
    /// neither. Readers elsewhere may keep that from happening now; the last of them does it.
    pub(super) fn forget_old_pages(&self) -> Result<(), VaultError> {
        Ok(self.conn.borrow_mut().batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::migration::{MigrationMetadata, MigrationName, MigrationVersion, Result};
    use diesel_migrations::{EmbeddedMigrations, embed_migrations};
    use std::fmt;
    use std::os::unix::fs::PermissionsExt as _;

    const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../schema/migrations/cli");

    /// A migration made of its SQL, behind those of the program.
    #[derive(Clone, Copy)]
    struct Step(&'static str, &'static str);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl MigrationName for Step {
        fn version(&self) -> MigrationVersion<'_> {
            MigrationVersion::from(self.0)
        }
    }

    impl MigrationMetadata for Step {}

    impl Migration<Sqlite> for Step {
        fn run(&self, conn: &mut dyn diesel::connection::BoxableConnection<Sqlite>) -> Result<()> {
            Ok(conn.batch_execute(self.1)?)
        }

        fn revert(&self, _: &mut dyn diesel::connection::BoxableConnection<Sqlite>) -> Result<()> {
            Ok(())
        }

        fn metadata(&self) -> &dyn MigrationMetadata {
            self
        }

        fn name(&self) -> &dyn MigrationName {
            self
        }
    }

    struct Steps(&'static [Step]);

    impl MigrationSource<Sqlite> for Steps {
        fn migrations(&self) -> Result<Migrations> {
            let steps = self.0.iter().map(|step| Box::new(*step) as Box<dyn Migration<Sqlite>>);
            Ok(steps.collect())
        }
    }

    fn connect(home: &Home) -> SqliteConnection {
        let path = home.file("state.db");
        SqliteConnection::establish(&path.to_string_lossy()).unwrap()
    }

    fn home(dir: &tempfile::TempDir) -> Home {
        Home::create(&dir.path().join("home"), true).unwrap()
    }

    fn tables(conn: &mut SqliteConnection) -> i64 {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            n: i64,
        }
        let counted = diesel::sql_query(
            "SELECT count(*) AS n FROM sqlite_schema WHERE name IN ('one', 'two')",
        );
        counted.get_result::<Count>(conn).unwrap().n
    }

    const ONE: Step = Step("99990101000000", "CREATE TABLE one (a INTEGER) STRICT;");
    const TWO: Step = Step("99990102000000", "CREATE TABLE two (a INTEGER) STRICT;");
    const BAD: Step = Step("99990102000000", "CREATE TABLE two (a INTEGER) STRICT; nonsense;");

    #[test]
    fn a_new_state_needs_no_copy_and_an_old_one_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let mut conn = connect(&home);
        bring_up_to_date(&mut conn, MIGRATIONS, Some(&home)).unwrap();
        assert!(!home.file(COPY).exists());
        conn.batch_execute("INSERT INTO meta VALUES ('x', x'01')").unwrap();
        bring_up_to_date(&mut conn, Steps(&[ONE, TWO]), Some(&home)).unwrap();
        assert_eq!(tables(&mut conn), 2);
        let copy = home.file(COPY);
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!home.file(DRAFT).exists());
        let mut copied = SqliteConnection::establish(&copy.to_string_lossy()).unwrap();
        assert_eq!(tables(&mut copied), 0, "as it was before");
        let kept = diesel::sql_query("SELECT * FROM meta WHERE name = 'x'").execute(&mut copied);
        assert!(kept.is_ok());
    }

    #[test]
    fn a_migration_that_fails_undoes_those_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let mut conn = connect(&home);
        bring_up_to_date(&mut conn, MIGRATIONS, Some(&home)).unwrap();
        let failed = bring_up_to_date(&mut conn, Steps(&[ONE, BAD]), Some(&home));
        assert!(matches!(failed, Err(VaultError::Migrate(_))));
        assert_eq!(tables(&mut conn), 0, "neither the one nor the half of the other");
        assert!(home.file(COPY).exists());
        // A draft of an attempt that was cut is in nobody's way.
        write_new_private(&home.file(DRAFT), b"half").unwrap();
        bring_up_to_date(&mut conn, Steps(&[ONE, TWO]), Some(&home)).unwrap();
        assert_eq!(tables(&mut conn), 2);
    }

    #[test]
    fn the_copy_is_kept_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let mut conn = connect(&home);
        bring_up_to_date(&mut conn, MIGRATIONS, Some(&home)).unwrap();
        bring_up_to_date(&mut conn, Steps(&[ONE]), Some(&home)).unwrap();
        bring_up_to_date(&mut conn, Steps(&[ONE]), Some(&home)).unwrap();
        let copy = home.file(COPY);
        assert!(copy.exists());
        let modified = copy.metadata().unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(&copy).unwrap();
        file.set_modified(modified - KEPT - Duration::from_secs(60)).unwrap();
        bring_up_to_date(&mut conn, Steps(&[ONE]), Some(&home)).unwrap();
        assert!(!copy.exists());
    }
}
