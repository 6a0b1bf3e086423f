//! The words of `state`, `device`, `recover` and `close`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `state`.
#[derive(Debug, Subcommand)]
pub enum State {
    /// Write who this device is to a file, without sessions and messages
    Export(Export),
    /// Become that device in a new home; the old one must not be used any more
    Import(Import),
    /// Say that this home is the only one, though it was copied or restored
    Adopt,
    /// Seal the state under another passphrase or key; the one in force is given as always
    Protect(Protect),
    /// Put a key to the state into the kernel's keyring: commands of this user then need neither
    /// passphrase nor key, until the machine is started again
    #[cfg(feature = "keyring")]
    Unlock(Unlock),
    /// Take that key back
    #[cfg(feature = "keyring")]
    Lock,
}

/// `state unlock`.
#[cfg(feature = "keyring")]
#[derive(Debug, Args)]
pub struct Unlock {
    /// Seconds after which the kernel forgets it.
    #[arg(long, value_name = "SECS")]
    pub seconds: Option<std::num::NonZeroU32>,
}

/// `state protect`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Protect {
    /// Under the passphrase in this file.
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Under the passphrase that this open file descriptor has.
    #[arg(long, value_name = "N")]
    pub new_passphrase_fd: Option<u32>,
    /// Under the key in this file, which is made if there is none. In the home, as state.key, it
    /// is found without being named.
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
    /// Under nothing: whoever reads the file reads it all.
    #[arg(long)]
    pub in_clear: bool,
}

/// `state export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The file, a secret; must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `state import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file.
    pub file: PathBuf,
}

/// `device`.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// On a new device: show a code and wait until another device approves it
    Link(Link),
    /// On a device with admin: let the device with this code in
    Approve(Approve),
    /// Show the account's devices, also those of the past
    List,
    /// End a device
    Revoke(Revoke),
    /// Change what a device may do, or until when
    Update(Update),
    /// Say that a device which was added elsewhere is one's own, also one that another device with
    /// admin added: whoever has stolen that one could do the same
    Confirm(Confirm),
    /// Make a device for a script: one line of text, no state
    Issue(Issue),
    /// Replace the recovery key
    SetRecovery(SetRecovery),
}

/// `device link`.
#[derive(Debug, Args)]
pub struct Link {
    /// The account's handle.
    pub handle: String,
    /// The device's name, for the eyes of whoever approves it.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
    /// The account's fingerprint; another account is refused.
    #[arg(long, value_name = "nexo1:FINGERPRINT")]
    pub expect: Option<String>,
}

/// What a device may do, and until when.
#[derive(Debug, Args)]
pub struct Rights {
    /// Days, hours, minutes or seconds until the device is void, like 90d.
    #[arg(long, value_name = "AGE")]
    pub expires: Option<String>,
    /// Limit it to the conversation with this account; may be given again.
    #[arg(long = "to", value_name = "HANDLE")]
    pub to: Vec<String>,
}

/// `device approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// The code that the new device shows.
    pub code: String,
    /// What it may do: admin, send, recv, with commas.
    #[arg(long, value_name = "CAPS", default_value = "send,recv")]
    pub caps: String,
    /// Its bounds.
    #[command(flatten)]
    pub rights: Rights,
}

/// `device revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Its id, or at least eight characters of it.
    pub device: String,
    /// For people, at most 64 bytes; everybody who reads the chain sees it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// `device update`.
#[derive(Debug, Args)]
pub struct Update {
    /// Its id, or at least eight characters of it.
    pub device: String,
    /// What it may do from now on: admin, send, recv, with commas; stateless is for life.
    #[arg(long, value_name = "CAPS", required_unless_present = "expires")]
    pub caps: Option<String>,
    /// Days, hours, minutes or seconds from now until it is void, like 90d; or never.
    #[arg(long, value_name = "AGE")]
    pub expires: Option<String>,
}

/// `device confirm`.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Its id, or at least eight characters of it.
    pub device: String,
}

/// `device issue`.
#[derive(Debug, Args)]
pub struct Issue {
    /// What it may do: send and stateless, perhaps admin, with commas.
    #[arg(long, value_name = "CAPS", default_value = "send,stateless")]
    pub caps: String,
    /// Its name; the log has a commitment to it only.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
    /// Where the line goes, a secret; - is stdout.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
    /// Its bounds.
    #[command(flatten)]
    pub rights: Rights,
}

/// `device set-recovery`.
#[derive(Debug, Args)]
pub struct SetRecovery {
    /// File of the recovery key in force, the line or the 24 words; - is stdin.
    #[arg(long, value_name = "FILE")]
    pub old: PathBuf,
    /// Where the new one goes; must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// The account's handle.
    pub handle: String,
    /// File of the recovery key, the line or the 24 words; - is stdin.
    #[arg(long, value_name = "FILE", required_unless_present = "recovery_key_fd")]
    pub recovery_key: Option<PathBuf>,
    /// Read the recovery key from this open file descriptor.
    #[arg(long, value_name = "N", conflicts_with = "recovery_key")]
    pub recovery_key_fd: Option<u32>,
    /// The account's fingerprint; another account is refused.
    #[arg(long, value_name = "nexo1:FINGERPRINT")]
    pub expect: Option<String>,
    /// The new device's name; the log has a commitment to it only.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
}

/// `close`.
#[derive(Debug, Args)]
pub struct Close {
    /// That it is meant: there is no way back, also not by the recovery key.
    #[arg(long, required = true)]
    pub yes: bool,
}
