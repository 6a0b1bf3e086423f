//! Whether a token may be used with the proof that came, or without one.
//!
//! Token and proof were each found valid before ([`super::token`], [`super::dpop`]); this is
//! only the table of what they say about each other (design 7, RFC 9449 section 7.1).

use super::dpop::Proven;

/// What a token and a proof say about each other: the table of design 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Binding {
    /// The token is bound to a key and no proof came.
    #[error("the token is bound to a key; send a DPoP proof")]
    ProofMissing,
    /// The relay takes bound tokens only, and this one is not bound.
    #[error("this relay takes bound tokens only; log in with a DPoP proof")]
    NotBound,
    /// The proof is by another key than the token's.
    #[error("the proof is by another key than the token's")]
    OtherKey,
}

/// Whether every token must be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpopPolicy {
    /// `--require-dpop`.
    pub require: bool,
}

impl DpopPolicy {
    /// Whether a token whose `cnf.jkt` is `bound` may be used with the proof that came. A proof
    /// beside a token that is not bound changes nothing.
    ///
    /// # Errors
    /// [`Binding`] says what is wrong.
    pub fn judge(self, bound: Option<&str>, proof: Option<&Proven>) -> Result<(), Binding> {
        match (bound, proof) {
            (None, _) if self.require => Err(Binding::NotBound),
            (None, _) => Ok(()),
            (Some(_), None) => Err(Binding::ProofMissing),
            (Some(jkt), Some(proof)) if proof.jkt == jkt => Ok(()),
            (Some(_), Some(_)) => Err(Binding::OtherKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_tokens_and_proofs() {
        let proven = |jkt: &str| Proven { jkt: jkt.to_owned(), key: [0; 32], jti: String::new() };
        let (lax, strict) = (DpopPolicy { require: false }, DpopPolicy { require: true });
        for (bound, proof, without, with) in [
            (None, None, Ok(()), Err(Binding::NotBound)),
            (None, Some(proven("a")), Ok(()), Err(Binding::NotBound)),
            (Some("a"), None, Err(Binding::ProofMissing), Err(Binding::ProofMissing)),
            (Some("a"), Some(proven("a")), Ok(()), Ok(())),
            (Some("a"), Some(proven("b")), Err(Binding::OtherKey), Err(Binding::OtherKey)),
        ] {
            assert_eq!(lax.judge(bound, proof.as_ref()), without, "{bound:?} {proof:?}");
            assert_eq!(strict.judge(bound, proof.as_ref()), with, "{bound:?} {proof:?}");
        }
    }
}
