//! The program `nexo-server`; everything is in the library, where tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    ExitCode::from(nexo_server::program::run(std::env::args_os(), &environment))
}
