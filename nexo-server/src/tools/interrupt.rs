//! Ctrl-C as a flag: a tool that has something to leave behind sees it and ends by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::exit::Exit;

/// A flag that the first Ctrl-C sets; the second ends the process.
///
/// # Errors
/// If there is no thread to wait for it.
pub(super) fn flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wait = async move {
        // Without a handler Ctrl-C ends the process, as it does in any program.
        if tokio::signal::ctrl_c().await.is_ok() {
            set.store(true, Ordering::Relaxed);
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(Exit::Interrupted.code().into());
            }
        }
    };
    thread::Builder::new().name("interrupt".into()).spawn(move || runtime.block_on(wait))?;
    Ok(flag)
}
