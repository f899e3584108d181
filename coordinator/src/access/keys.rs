//! API keys: `prefix.secret`. The prefix finds the key in the store, which keeps of the whole only a keyed hash.

use hmac::{Hmac, KeyInit, Mac};
use likeness_proto::Secret;
use sha2::Sha256;
use subtle::ConstantTimeEq;

const MARK: &str = "lk";
/// Random bytes of a prefix.
const PREFIX: usize = 8;
/// Random bytes of a secret.
const SECRET: usize = 32;

/// The secret under which keys are hashed: whoever reads the store without it can try no key.
#[derive(Clone, Debug)]
pub(crate) struct Pepper(Secret);

/// A fresh key. Its token is shown once.
pub(crate) struct Minted {
    pub(crate) prefix: String,
    pub(crate) token: String,
    pub(crate) hash: [u8; 32],
}

impl Pepper {
    pub(crate) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Makes a key.
    pub(crate) fn mint(&self) -> Minted {
        let prefix = format!("{MARK}{}", hex::encode(random::<PREFIX>()));
        let token = format!("{prefix}.{}", hex::encode(random::<SECRET>()));
        Minted { hash: self.hash(&token), prefix, token }
    }

    /// Another secret, which this one and `label` give.
    pub(crate) fn derive(&self, label: &str) -> [u8; 32] {
        self.hash(label)
    }

    fn hash(&self, token: &str) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(token.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Whether `token` is the one that was hashed to `hash`. Takes as long whether it is or not, and without a hash too.
    pub(crate) fn fits(&self, token: &str, hash: Option<&[u8; 32]>) -> bool {
        let same = self.hash(token).ct_eq(hash.unwrap_or(&[0; 32]));
        bool::from(same) && hash.is_some()
    }
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// The prefix of what looks like a key.
pub(crate) fn prefix(token: &str) -> Option<&str> {
    let is_hex = |text: &str, bytes: usize| {
        text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let (prefix, secret) = token.split_once('.')?;
    (is_hex(prefix.strip_prefix(MARK)?, PREFIX) && is_hex(secret, SECRET)).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(text: &str) -> Pepper {
        Pepper::new(Secret::new(text).unwrap())
    }

    #[test]
    fn a_key_fits_its_own_hash_under_its_own_pepper_alone() {
        let (key, other) = (pepper("a").mint(), pepper("a").mint());
        assert_eq!(prefix(&key.token), Some(key.prefix.as_str()));
        assert!(pepper("a").fits(&key.token, Some(&key.hash)));
        assert!(!pepper("a").fits(&other.token, Some(&key.hash)));
        assert!(!pepper("b").fits(&key.token, Some(&key.hash)));
        assert!(!pepper("a").fits(&key.token, None));
    }

    #[test]
    fn a_hash_is_what_rfc_4231_says() {
        // HMAC-SHA-256, test case 2.
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(pepper("Jefe").hash("what do ya want for nothing?")), want);
    }

    #[test]
    fn what_is_no_key_is_looked_up_nowhere() {
        let token = pepper("a").mint().token;
        for text in [
            "",
            ".",
            "lk.",
            "lk00.00",
            &token.to_uppercase(),
            &token[1..],
            &format!("{token}0"),
            &token.replace('.', ""),
        ] {
            assert_eq!(prefix(text), None, "{text}");
        }
    }
}
