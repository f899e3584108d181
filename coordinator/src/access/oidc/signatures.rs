//! Signatures of tokens, checked by ring: three algorithms and no others. `none` and those of shared secrets have no code here, so no
//! token can ask for them.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as checking;

/// Makes ring check the signatures of tokens. Said again, it changes nothing.
pub(super) fn install() {
    static PROVIDER: CryptoProvider =
        CryptoProvider { signer_factory, verifier_factory, key_utils: KeyUtils::new_unimplemented() };
    let _there = PROVIDER.install_default();
}

/// Nothing is signed here.
fn signer_factory(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match algorithm {
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA if algorithm.family() == key.family() => {
            Ok(Box::new(Checker { algorithm: *algorithm, key: key.clone() }))
        }
        _other => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Checker {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                checking::RsaPublicKeyComponents { n, e }.verify(
                    &checking::RSA_PKCS1_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            // P-256: x and y, after a byte that says so; the signature is r and s (RFC 7518, section 3.4).
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                checking::UnparsedPublicKey::new(&checking::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                checking::UnparsedPublicKey::new(&checking::ED25519, point).verify(message, signature)
            }
            _other => return Err(signature::Error::new()),
        };
        checked.map_err(|_| signature::Error::new())
    }
}
