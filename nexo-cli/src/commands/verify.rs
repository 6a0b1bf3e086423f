//! `verify`: the number that two people compare over another channel (e2ee 2.21).

use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::fingerprint::account;
use super::{Context, input};
use crate::cli::Verify;
use crate::clock;
use crate::e2ee::{account_fingerprint, safety_number};
use crate::error::CliError;
use crate::profile::Profile;
use crate::vault::VaultError;

pub(super) async fn run(context: &Context, args: &Verify) -> Result<(), CliError> {
    let handle = input::handle(&args.handle)?;
    let given = (!args.number.is_empty()).then(|| digits(&args.number.concat())).transpose()?;
    let profile = Profile::open(&context.options).await?;
    let account = account(context, &profile, &handle).await?;
    let number = safety_number(profile.pin.origin.as_str(), profile.identity.account, account);
    if let Some(given) = &given {
        let same = given.as_bytes().ct_eq(digits(&number)?.as_bytes());
        if !bool::from(same) {
            return Err(CliError::SafetyNumber(handle.to_string()));
        }
        // From now on the handle is this account and no other.
        let now = clock::seconds();
        let named = profile.vault.write(|tx| tx.name_account(&handle, account, now)).await;
        named.map_err(|e: VaultError| e)?;
    }
    let object = json!({
        "schema": "nexo.verified/1",
        "handle": handle,
        "fingerprint": account_fingerprint(account),
        "safety_number": number,
        "verified": given.is_some(),
    });
    let text = if given.is_some() { format!("{handle} is verified") } else { number };
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}

/// The sixty digits of a number, whatever stands between them.
fn digits(text: &str) -> Result<String, CliError> {
    let digits: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if digits.len() == 60 && digits.bytes().all(|b| b.is_ascii_digit()) {
        Ok(digits)
    } else {
        Err(CliError::Usage("a safety number is twelve groups of five digits".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_sixty_digits() {
        let group = "12345 ".repeat(12);
        assert_eq!(digits(&group).ok(), Some("12345".repeat(12)));
        for bad in ["", "1", &group[1..], &group.replace('1', "x"), &format!("{group}1")] {
            assert_eq!(digits(bad).map_err(|e| e.exit().code()), Err(64), "{bad:?}");
        }
    }
}
