//! The table of exit codes, row by row.

use super::*;
use nexo_schema::error::Problem;

#[test]
fn the_table_of_exit_codes() {
    let refused = |code| CliError::from(ApiError::Refused(Problem::new(code, "")));
    let rows: Vec<(CliError, u8)> = vec![
        (CliError::Usage(String::new()), 64),
        (CliError::from(DeliverError::OtherText), 65),
        (CliError::from(PeerError::Unknown(String::new())), 67),
        (CliError::from(ApiError::Network(String::new())), 69),
        (refused(ErrorCode::HandleTaken), 73),
        (refused(ErrorCode::RateLimited), 75),
        (CliError::from(PeerError::NoPrekey(String::new())), 75),
        (CliError::from(ApiError::OtherAccount), 76),
        (refused(ErrorCode::Forbidden), 77),
        (CliError::from(VaultError::WrongKey), 78),
        (CliError::from(ProfileError::NotRegistered(String::new())), 78),
        (CliError::from(PeerError::OtherAccount), 80),
        (CliError::from(DeliverError::NoReceipt), 81),
        (CliError::from(VaultError::Newer), 82),
        (CliError::StatedVkey(String::new()), 83),
        (CliError::from(TrustError::Unresolved), 84),
        (CliError::from(TrustError::Stale { age: 1 }), 85),
        (refused(ErrorCode::StateRollback), 90),
        (CliError::Timeout { seconds: 30, waiting: None }, 124),
        (CliError::Interrupted, 130),
    ];
    for (error, code) in rows {
        assert_eq!(error.exit().code(), code, "{error:?}");
    }
}

#[test]
fn every_refusal_of_the_relay_has_a_code_of_its_kind() {
    for &code in ErrorCode::ALL {
        let exit = refused(code, code.status());
        assert_ne!(exit, Exit::Done, "{code:?}");
        assert_ne!(exit, Exit::Bug, "{code:?}");
    }
    assert_eq!(refused(ErrorCode::Unknown, 503), Exit::Temporary);
    assert_eq!(refused(ErrorCode::Unknown, 500), Exit::Unreachable);
    assert_eq!(refused(ErrorCode::Unknown, 418), Exit::Protocol);
}
