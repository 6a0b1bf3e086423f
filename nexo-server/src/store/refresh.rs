//! Refresh tokens: one family per login, one use per token, reuse ends the family (design 7).

use diesel::prelude::*;
use nexo_schema::ids::DeviceId;

use super::schema::refresh_tokens;
use super::{Conn, StoreError, signed};

/// Seconds in which a token that was just used may be repeated, by a client that lost the answer.
const REPEAT: i64 = 30;

/// A login that tokens are issued for.
#[derive(Debug, Clone)]
pub struct Login {
    /// The device.
    pub device: DeviceId,
    /// Thumbprint of the key the tokens are bound to.
    pub jkt: Option<String>,
    /// Names the login; random.
    pub family: [u8; 16],
}

/// Why a token was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Never issued, expired, or of an ended family.
    #[error("the token is not known")]
    Unknown,
    /// Used before: the family is ended.
    #[error("the token was used before")]
    Reused,
    /// The database answered with an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<diesel::result::Error> for RotateError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Whose token it is, used or not.
///
/// # Errors
/// [`StoreError`].
pub fn login_of(conn: &mut Conn, hash: &[u8; 32], now: u64) -> Result<Option<Login>, StoreError> {
    Ok(find(conn, hash, signed(now))?.map(|(login, _)| login))
}

/// Keeps a login's first token.
///
/// # Errors
/// [`StoreError`].
pub fn put_login(
    conn: &mut Conn,
    login: &Login,
    hash: &[u8; 32],
    exp: u64,
    now: u64,
) -> Result<(), StoreError> {
    diesel::delete(refresh_tokens::table.filter(refresh_tokens::exp.lt(signed(now))))
        .execute(conn)?;
    insert(conn, login, hash, exp)
}

/// Replaces the token `hash` by `successor` and says whose it is. Must run in a transaction.
///
/// # Errors
/// [`RotateError`]. The caller commits also after [`RotateError::Reused`], which ends the family.
pub fn rotate(
    conn: &mut Conn,
    hash: &[u8; 32],
    successor: &[u8; 32],
    exp: u64,
    now: u64,
) -> Result<Login, RotateError> {
    let now = signed(now);
    let (login, rotated_at) = find(conn, hash, now)?.ok_or(RotateError::Unknown)?;
    match rotated_at {
        None => {
            diesel::update(refresh_tokens::table.find(&hash[..]))
                .set(refresh_tokens::rotated_at.eq(now))
                .execute(conn)?;
            insert(conn, &login, successor, exp)?;
            Ok(login)
        }
        Some(at) if now - at <= REPEAT && is_unused(conn, successor, now)? => Ok(login),
        Some(_) => {
            let family = refresh_tokens::family.eq(&login.family[..]);
            diesel::delete(refresh_tokens::table.filter(family)).execute(conn)?;
            Err(RotateError::Reused)
        }
    }
}

fn is_unused(conn: &mut Conn, hash: &[u8; 32], now: i64) -> Result<bool, StoreError> {
    Ok(find(conn, hash, now)?.is_some_and(|(_, rotated_at)| rotated_at.is_none()))
}

fn find(
    conn: &mut Conn,
    hash: &[u8; 32],
    now: i64,
) -> Result<Option<(Login, Option<i64>)>, StoreError> {
    let row = refresh_tokens::table
        .find(&hash[..])
        .filter(refresh_tokens::exp.ge(now))
        .select((
            refresh_tokens::device_id,
            refresh_tokens::jkt,
            refresh_tokens::family,
            refresh_tokens::rotated_at,
        ))
        .first::<(String, Option<String>, Vec<u8>, Option<i64>)>(conn)
        .optional()?;
    let Some((device, jkt, family, rotated_at)) = row else { return Ok(None) };
    let corrupt = |what| StoreError::corrupt("refresh_tokens", what);
    let login = Login {
        device: DeviceId::parse(&device).map_err(|_| corrupt("the device id is none"))?,
        jkt,
        family: family[..].try_into().map_err(|_| corrupt("the family is not 16 bytes long"))?,
    };
    Ok(Some((login, rotated_at)))
}

fn insert(conn: &mut Conn, login: &Login, hash: &[u8; 32], exp: u64) -> Result<(), StoreError> {
    diesel::insert_into(refresh_tokens::table)
        .values((
            refresh_tokens::hash.eq(&hash[..]),
            refresh_tokens::family.eq(&login.family[..]),
            refresh_tokens::device_id.eq(login.device.as_str()),
            refresh_tokens::jkt.eq(&login.jkt),
            refresh_tokens::exp.eq(signed(exp)),
        ))
        .execute(conn)?;
    Ok(())
}
