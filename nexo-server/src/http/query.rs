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

/// A decimal number in its one spelling, without sign or leading zeros: where it names a resource.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok())?
}

/// Whether a flag was set.
pub(super) fn wanted(flag: Option<&str>) -> bool {
    matches!(flag, Some("1" | "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_by_numbers_in_one_spelling() {
        assert_eq!((decimal("0"), decimal("10")), (Some(0), Some(10)));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "00", "01", "+1", "-1", " 1", "1 ", "1e3", "x", "18446744073709551616"] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }
}
