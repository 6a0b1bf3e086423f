//! Which file system a directory is on, by the kernel's own table.

use std::path::{Path, PathBuf};

use super::HomeError;

/// File systems on which locks and WAL do not do what SQLite needs, or only on one host.
const NETWORK_FS: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "9p",
    "ceph",
    "glusterfs",
    "lustre",
    "ocfs2",
    "gfs2",
    "ncpfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.gcsfuse",
];

/// `statfs` would need unsafe code, so the kernel's text table is asked. Where there is none
/// (not Linux), nothing is refused.
pub(super) fn refuse_network_fs(path: &Path) -> Result<(), HomeError> {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return Ok(()) };
    match file_system_of(path, &table) {
        Some(kind) if NETWORK_FS.contains(&kind.as_str()) => {
            Err(HomeError::NetworkFs { path: path.to_owned(), kind })
        }
        _ => Ok(()),
    }
}

/// The type of the file system `path` is on: that of the longest mount point above it, the
/// last one mounted there.
///
/// ```text
/// 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw     (proc(5))
/// ```
fn file_system_of(path: &Path, table: &str) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in table.lines() {
        let (mount, rest) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        let kind = rest.split(' ').next()?;
        let depth = point.components().count();
        if path.starts_with(&point) && best.is_none_or(|(length, _)| depth >= length) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Mount points write space, tab, line end and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    PathBuf::from(plain.replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h8_the_longest_and_last_mount_decides() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 0:41 / /home/a\\040b rw - tmpfs tmpfs rw
32 22 0:42 / /mnt rw - ext4 /dev/sdb rw
33 32 0:43 / /mnt rw master:2 - fuse.sshfs host: rw
";
        for (path, kind) in [
            ("/etc", "ext4"),
            ("/home/x", "nfs4"),
            ("/homes", "ext4"),
            ("/home/a b/c", "tmpfs"),
            ("/mnt/x", "fuse.sshfs"),
        ] {
            assert_eq!(file_system_of(Path::new(path), table).as_deref(), Some(kind), "{path}");
        }
        assert!(NETWORK_FS.contains(&"nfs4") && !NETWORK_FS.contains(&"tmpfs"));
        assert_eq!(file_system_of(Path::new("/"), "garbage"), None);
    }
}
