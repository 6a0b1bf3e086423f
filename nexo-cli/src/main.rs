//! The program `nexo-cli`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: TLS finds exactly one provider (design/limits.md 8.1). It fails only if one
    // is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    nexo_cli::run(std::env::args_os()).into()
}
