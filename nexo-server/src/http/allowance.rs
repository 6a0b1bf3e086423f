//! What is left of an allowance, told with every answer to a request that used some of it
//! (draft-ietf-httpapi-ratelimit-headers).

use std::fmt::Write as _;

use rocket::fairing::{Fairing, Info, Kind};
use rocket::{Request, Response};

use super::limits::{Left, RateLimited};
use crate::error::ApiError;

const POLICY: &str = "RateLimit-Policy";
const LEFT: &str = "RateLimit";

/// What a request's guard has counted.
#[derive(Default)]
struct Counted(Vec<Left>);

/// Keeps for the answer what is left of the allowances that a guard has asked for.
///
/// # Errors
/// That one of them is used up.
pub(super) fn counted(
    request: &Request<'_>,
    left: Result<Vec<Left>, RateLimited>,
) -> Result<(), ApiError> {
    let left = left?;
    request.local_cache(|| Counted(left));
    Ok(())
}

/// The headers of a refusal: nothing is left, and in so many seconds one more is.
#[must_use]
pub fn used_up(limited: &RateLimited) -> [(&'static str, String); 2] {
    let RateLimited { policy, retry_after } = limited;
    [(POLICY, policy.to_string()), (LEFT, format!("\"{}\";r=0;t={retry_after}", policy.name))]
}

/// Adds what is left; a refusal says so itself.
pub struct Allowances;

#[rocket::async_trait]
impl Fairing for Allowances {
    fn info(&self) -> Info {
        Info { name: "what is left of allowances", kind: Kind::Response }
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        let Counted(counted) = request.local_cache(Counted::default);
        if counted.is_empty() || response.headers().contains(LEFT) {
            return;
        }
        let (mut policies, mut lefts) = (String::new(), String::new());
        for (number, Left { policy, left }) in counted.iter().enumerate() {
            let between = if number > 0 { ", " } else { "" };
            let _ = write!(policies, "{between}{policy}");
            let _ = write!(lefts, "{between}\"{}\";r={left}", policy.name);
        }
        response.set_raw_header(POLICY, policies);
        response.set_raw_header(LEFT, lefts);
    }
}
