//! The provider's keys, as they were fetched last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use likeness_proto::{ErrorCode, Refusal};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::provider::Provider;
use crate::access::unauthenticated;

/// How often keys are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Keys that are older are fetched again, while the old ones serve.
    pub(super) max_age: Duration,
    /// Fetches are at least this far apart, whatever tokens name: whoever sends them can make us call the provider.
    pub(super) apart: Duration,
}

/// A key and the one way in which it signs.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

pub(super) type Set = HashMap<String, Arc<Key>>;

/// Keys by their ids.
#[derive(Debug)]
pub(super) struct Keys(Arc<Cache>);

#[derive(Debug)]
struct Cache {
    provider: Provider,
    pace: Pace,
    known: Mutex<Known>,
    /// Held by the one that fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    set: Arc<Set>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

impl Keys {
    pub(super) fn new(provider: Provider, pace: Pace) -> Self {
        Self(Arc::new(Cache { provider, pace, known: Mutex::default(), fetching: tokio::sync::Mutex::default() }))
    }

    /// The key of this id. One that is known is found at once; one that is not is looked for at the provider, unless it was asked a
    /// short time ago.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<Key>, Refusal> {
        let known = self.0.known(kid);
        if known.is_none() || self.0.is_old() {
            let cache = Arc::clone(&self.0);
            // In a task of its own: a caller who gives up ends no fetch that others wait for.
            let refreshing = tokio::spawn(async move { cache.refresh().await });
            if known.is_none() && refreshing.await.is_err() {
                return Err(Refusal::internal("keys of the identity provider could not be read"));
            }
        }
        known.or_else(|| self.0.known(kid)).ok_or_else(|| self.0.unknown())
    }
}

impl Cache {
    fn known(&self, kid: &str) -> Option<Arc<Key>> {
        self.state().set.get(kid).cloned()
    }

    fn is_old(&self) -> bool {
        self.state().fetched.is_none_or(|at| at.elapsed() >= self.pace.max_age) && self.may_try()
    }

    fn may_try(&self) -> bool {
        self.state().tried.is_none_or(|at| at.elapsed() >= self.pace.apart)
    }

    /// Fetches the keys, if that is not done already or was a short time ago. Where it fails, those that are known stay.
    async fn refresh(&self) {
        let _alone = self.fetching.lock().await;
        if !self.may_try() {
            return;
        }
        self.state().tried = Some(Instant::now());
        match self.provider.keys().await {
            Ok(text) => {
                let set = Arc::new(read(&text));
                tracing::info!(keys = set.len(), "keys of the identity provider fetched");
                let mut state = self.state();
                (state.set, state.fetched) = (set, Some(Instant::now()));
            }
            Err(error) => tracing::warn!(error, "keys of the identity provider not fetched, the old ones stay"),
        }
    }

    fn unknown(&self) -> Refusal {
        match self.state().fetched {
            Some(_) => unauthenticated(
                "the token is signed with a key that the identity provider does not list; sign in again",
            ),
            None => Refusal::new(ErrorCode::Unavailable, "the identity provider gives no keys now; try again later"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of a JWKS that sign in a way which is accepted. What else is in it is no error: providers list keys for others too.
pub(super) fn read(text: &[u8]) -> Set {
    #[derive(Deserialize)]
    struct Listed {
        keys: Vec<Value>,
    }
    let listed = serde_json::from_slice::<Listed>(text).map_or_else(|_| Vec::new(), |listed| listed.keys);
    let keys = listed.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
    keys.filter_map(|jwk| Some((jwk.common.key_id.clone()?, Arc::new(Key::of(&jwk)?)))).collect()
}

impl Key {
    /// A public key that signs; `None`: another kind.
    fn of(jwk: &Jwk) -> Option<Self> {
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _other => return None,
        };
        let fits = jwk.common.key_algorithm.is_none_or(|name| name == named);
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        (fits && signs).then(|| DecodingKey::from_jwk(jwk).ok()).flatten().map(|key| Self { algorithm, key })
    }
}
