//! Tokens that stand in configurations: the simplest way to prove who one is.

use crate::auth::AuthError;
use crate::secret::Secret;

/// The scheme of RFC 6750, as it stands before a token in the `authorization` header.
pub(super) const SCHEME: &str = "Bearer ";
/// Below this a token could be guessed; 16 random base64 characters hold 96 bits.
pub(super) const TOKEN_MIN_LEN: usize = 16;

/// A token that opens a gRPC API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken(Secret);

impl AdminToken {
    /// Takes a token over if it is long enough to be one and can travel in a header.
    pub fn new(token: Secret) -> Result<Self, AuthError> {
        let text = token.expose();
        if text.len() < TOKEN_MIN_LEN {
            return Err(AuthError::TooShort);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthError::NotPrintable);
        }
        Ok(Self(token))
    }

    /// The value of the `authorization` header that carries this token.
    pub(crate) fn header(&self) -> Secret {
        Secret::new(format!("{SCHEME}{}", self.0.expose()))
    }

    /// True if it is this token, in a time that does not tell how much of it was right.
    pub(super) fn matches(&self, given: &[u8]) -> bool {
        self.0.matches(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_must_be_hard_to_guess_and_fit_a_header() {
        assert_eq!(
            AdminToken::new(Secret::new("short")),
            Err(AuthError::TooShort)
        );
        let spaced = Secret::new("0123456789 abcdef");
        assert_eq!(AdminToken::new(spaced), Err(AuthError::NotPrintable));
    }
}
