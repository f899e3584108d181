//! A browser's session: the credential that was signed in with, sealed into a cookie under a secret that the pepper gives. So it is the
//! same at every coordinator of a store and after a restart, no server keeps it, nobody but a coordinator can read it, and it opens what
//! its credential opens at that moment, a revoked one nothing. What is kept, of all coordinators, is which sessions were signed out of.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use likeness_proto::{Refusal, Secret};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::access::Pepper;
use crate::clock::Timestamp;
use crate::store::SessionId;

/// A session lives this long, whatever its credential.
const LIFE_SECONDS: u32 = 12 * 3600;
/// Bytes of a cookie that every browser keeps.
const LONGEST: usize = 4000;
const LABEL: &str = "likeness page session 1";

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) token: Secret,
    pub(super) ends: Timestamp,
    /// Which of the sessions of its credential it is.
    pub(super) id: SessionId,
}

/// Seals and opens sessions.
pub(super) struct Sessions {
    key: LessSafeKey,
    /// Whether browsers come over TLS alone.
    secure: bool,
}

impl Sessions {
    pub(super) fn new(pepper: &Pepper, secure: bool) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &pepper.derive(LABEL)).expect("32 bytes are a key of AES-256");
        Self { key: LessSafeKey::new(key), secure }
    }

    /// With the prefix, browsers take the cookie over TLS alone, and from no other host of the same site.
    fn name(&self) -> &'static str {
        if self.secure { "__Host-likeness" } else { "likeness" }
    }

    /// The `set-cookie` that begins a session.
    ///
    /// # Errors
    /// When the token is too long for a cookie.
    pub(super) fn begin(&self, token: &Secret, now: Timestamp) -> Result<HeaderValue, Refusal> {
        let ends = now.millis() + i64::from(LIFE_SECONDS) * 1000;
        let mut sealed = [&ends.to_be_bytes(), token.expose().as_bytes()].concat();
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the system has random numbers");
        let seal =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(LABEL), &mut sealed);
        seal.expect("a token is short enough to seal");
        let value = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat());
        if value.len() > LONGEST {
            let length = token.expose().len();
            let message = format!("the token has {length} characters, more than a cookie holds; sign in with a key");
            return Err(Refusal::invalid(message));
        }
        Ok(self.cookie(&value, LIFE_SECONDS))
    }

    /// The `set-cookie` that ends it.
    pub(super) fn end(&self) -> HeaderValue {
        self.cookie("", 0)
    }

    fn cookie(&self, value: &str, seconds: u32) -> HeaderValue {
        let (name, secure) = (self.name(), if self.secure { "; Secure" } else { "" });
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::try_from(text).expect("base64 may stand in a header")
    }

    /// The session that a request shows, if it goes on.
    pub(super) fn of(&self, headers: &HeaderMap, now: Timestamp) -> Option<Session> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == self.name())?;
        self.open(value).filter(|session| now < session.ends)
    }

    fn open(&self, value: &str) -> Option<Session> {
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (id, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*id);
        let opened = self.key.open_in_place(nonce, Aad::from(LABEL), &mut sealed).ok()?;
        let (ends, token) = opened.split_first_chunk()?;
        let token = Secret::new(std::str::from_utf8(token).ok()?).ok()?;
        Some(Session { token, ends: Timestamp::from_millis(i64::from_be_bytes(*ends)), id: *id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn sessions(pepper: &str) -> Sessions {
        Sessions::new(&Pepper::new(secret(pepper)), false)
    }

    /// What a browser sends back.
    fn shown(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, format!("theme=dark; {pair}").parse().unwrap())])
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    #[test]
    fn a_session_is_its_credential_until_its_time_is_over() {
        let sessions = sessions("pepper");
        let headers = shown(&sessions.begin(&secret("lk01.secret"), NOW).unwrap());
        assert_eq!(sessions.of(&headers, NOW).unwrap().token, secret("lk01.secret"));
        let last = Timestamp::from_millis(1_000 + i64::from(LIFE_SECONDS) * 1000 - 1);
        assert!(sessions.of(&headers, last).is_some());
        assert!(sessions.of(&headers, Timestamp::from_millis(last.millis() + 1)).is_none());
        assert!(sessions.of(&shown(&sessions.end()), NOW).is_none());
    }

    #[test]
    fn nobody_reads_the_credential_or_changes_it() {
        let cookie = sessions("pepper").begin(&secret("lk01.secret"), NOW).unwrap();
        let again = sessions("pepper").begin(&secret("lk01.secret"), NOW).unwrap();
        assert_ne!(cookie, again, "two sessions of a key do not tell that they are of one");
        let value = cookie.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned();
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"lk01"));
        assert!(sessions("salt").open(&value).is_none(), "of another service");
        for index in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[index] ^= 1;
            assert!(sessions("pepper").open(&URL_SAFE_NO_PAD.encode(bent)).is_none(), "byte {index}");
        }
        for text in ["", "x", "////", &value[..8], &format!("{value}A")] {
            assert!(sessions("pepper").open(text).is_none(), "{text}");
        }
    }

    #[test]
    fn scripts_and_other_sites_get_nothing_of_it_nor_a_connection_in_the_clear() {
        let tls = Sessions::new(&Pepper::new(secret("pepper")), true);
        let cookie = tls.begin(&secret("key"), NOW).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(text.starts_with("__Host-likeness=") && text.ends_with("; Secure"), "{text}");
        for cookie in [text, sessions("pepper").end().to_str().unwrap()] {
            assert!(cookie.contains("; Path=/; ") && cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        }
    }

    #[test]
    fn a_token_that_no_cookie_holds_is_refused() {
        let refusal = sessions("pepper").begin(&secret(&"x".repeat(4000)), NOW).unwrap_err();
        assert!(refusal.message.contains("4000 characters"), "{refusal}");
    }
}
