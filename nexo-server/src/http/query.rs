//! Values in a query. A mistyped number is refused, never taken for absent.

use nexo_schema::error::ErrorCode;

use crate::error::ApiError;

/// A non-negative number in a query, within what positions and times can be.
pub(crate) fn number(name: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let read = |text: &str| {
        let number = text.parse().ok().filter(|&n| n <= i64::MAX as u64);
        number.ok_or_else(|| {
            ApiError::new(ErrorCode::BadRequest, format!("{name}: expected a whole number"))
        })
    };
    text.map(read).transpose()
}

/// Whether a flag was set.
pub(super) fn wanted(flag: Option<&str>) -> bool {
    matches!(flag, Some("1" | "true"))
}
