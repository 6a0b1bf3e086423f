//! `nexo-audit`: arguments in, exit code out. All else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider in every Nexo program. An error only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    ExitCode::from(nexo_audit::run(std::env::args_os(), &mut out, &mut err))
}
