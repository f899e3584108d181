//! An identity provider on this machine.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self as signing, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::OidcOptions;

/// A key pair of the provider.
pub(in crate::access) enum Signer {
    Rsa(signing::RsaKeyPair),
    P256(signing::EcdsaKeyPair),
    Ed25519(signing::Ed25519KeyPair),
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// The one in `rsa.pk8`, which was made for these tests: ring makes none.
    pub(super) fn rsa() -> Self {
        Self::Rsa(signing::RsaKeyPair::from_pkcs8(include_bytes!("rsa.pk8")).unwrap())
    }

    pub(super) fn p256() -> Self {
        let (random, kind) = (SystemRandom::new(), &signing::ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = signing::EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(signing::EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).unwrap())
    }

    pub(in crate::access) fn ed25519() -> Self {
        let made = signing::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(signing::Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The public key as a provider lists it.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                let (n, e) = (public.n, public.e);
                json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": base64(n), "e": base64(e)})
            }
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": base64(x), "y": base64(y)})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": base64(pair.public_key())})
            }
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signing::RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of the key `kid` that says `claims`.
    pub(in crate::access) fn token(&self, kid: &str, claims: &Value) -> String {
        token(&json!({"alg": self.algorithm(), "kid": kid}), claims, |message| self.sign(message))
    }
}

pub(super) fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
    let signature = base64(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A server that lists keys.
pub(in crate::access) struct Idp {
    pub(in crate::access) url: String,
    state: Arc<State>,
}

struct State {
    keys: Mutex<Value>,
    down: AtomicBool,
    asked: AtomicUsize,
}

impl Idp {
    pub(in crate::access) async fn start(keys: &[(&str, &Signer)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State { keys: Mutex::default(), down: AtomicBool::new(false), asked: AtomicUsize::new(0) };
        let idp = Self { url: url.clone(), state: Arc::new(state) };
        idp.lists(keys.iter().map(|(kid, signer)| signer.jwk(kid)).collect());
        let state = Arc::clone(&idp.state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                answer(client, &url, &state).await;
            }
        });
        idp
    }

    /// Lists these keys from now on.
    pub(super) fn lists(&self, keys: Vec<Value>) {
        *self.state.keys.lock().unwrap() = json!({ "keys": keys });
    }

    /// Answers 503 from now on, or no longer.
    pub(super) fn is_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// How often its keys were asked for.
    pub(super) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(in crate::access) fn options(&self) -> OidcOptions {
        OidcOptions {
            issuer: self.url.clone(),
            audience: "likeness".into(),
            jwks: None,
            tenant_claim: "tenant".into(),
            role_claim: "role".into(),
        }
    }

    /// What its tokens say of a viewer of acme, until the second 1000.
    pub(in crate::access) fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": "likeness", "exp": 1000, "sub": "zoe", "tenant": "acme", "role": "viewer"})
    }
}

async fn answer(mut client: TcpStream, url: &str, state: &State) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && client.read_buf(&mut request).await.unwrap() > 0 {}
    let (status, body) = match request.starts_with(b"GET /keys ") {
        _any if state.down.load(Ordering::SeqCst) => ("503 Down", json!({})),
        true => {
            state.asked.fetch_add(1, Ordering::SeqCst);
            ("200 OK", state.keys.lock().unwrap().clone())
        }
        false => ("200 OK", json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
    };
    let body = body.to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    client.write_all(answer.as_bytes()).await.unwrap();
}
