//! Files that hold a secret: mode 0600, written whole and durably, or not at all.
//!
//! Several servers may start on one empty directory at the same moment, in containers with the
//! same process ids, and all but one must find what that one wrote. So a file is written under a
//! name nobody else has, and then linked, which fails where there is one already. What a secret
//! says, and what is done about one that exists, is the callers' business.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nexo_schema::bytes::to_hex;

/// Writes a new file.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is one: it is whole, and left alone. Otherwise what
/// the system says.
pub(crate) fn create(path: &Path, secret: &[u8]) -> io::Result<()> {
    let draft = draft(path, secret)?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    // Also for one that is not ours: whoever uses it relies on its being there tomorrow.
    sync(path)?;
    linked
}

/// Writes the file over the one that is there.
///
/// # Errors
/// What the system says.
pub(crate) fn replace(path: &Path, secret: &[u8]) -> io::Result<()> {
    let draft = draft(path, secret)?;
    if let Err(error) = fs::rename(&draft, path) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync(path)
}

/// The secret in a file beside `path`. A crash may leave one behind; nothing was signed with it.
fn draft(path: &Path, secret: &[u8]) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", to_hex(&random)));
    let draft = PathBuf::from(name);
    let written = write(&draft, secret);
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.map(|()| draft)
}

fn write(draft: &Path, secret: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    // Whatever the umask takes away.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(secret)?;
    file.sync_all()
}

fn sync(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn a_file_is_whole_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        create(&path, b"one").unwrap();
        let again = create(&path, b"two").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn of_many_that_create_it_one_does() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.key");
            let start = Barrier::new(4);
            let makers = |n: u8| {
                let (path, start) = (&path, &start);
                move || {
                    start.wait();
                    let made = create(path, &[n; 4000]);
                    // Whoever made it, from here on it is there, and whole.
                    let found = fs::read(path).unwrap();
                    assert!(found.len() == 4000 && found.iter().all(|b| *b == found[0]));
                    made.is_ok().then_some(n)
                }
            };
            let won: Vec<u8> = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|n| scope.spawn(makers(n))).collect();
                all.into_iter().filter_map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(fs::read(&path).unwrap()[0], won[0]);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_cannot_be_published_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"x").is_err());
        assert!(create(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
