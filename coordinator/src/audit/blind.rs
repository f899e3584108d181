use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use likeness_proto::{JobId, ObjectKey, Secret, Sha256, SubjectName, TenantId};

/// Names things where no name may stand, as a keyed hash: HMAC-SHA-256, under a secret derived from the pepper, of what kind of thing it
/// is, a zero byte and its name. Whoever has the pepper can find a name again; nobody else can try names.
#[derive(Clone)]
pub struct Blind([u8; 32]);

impl Blind {
    /// Blinds under the secret that `pepper` gives.
    #[must_use]
    pub fn new(pepper: &Secret) -> Self {
        Self(hmac(pepper.expose().as_bytes(), &[b"likeness keyed hashes 1"]))
    }

    /// A subject of a tenant.
    #[must_use]
    pub fn subject(&self, tenant: &TenantId, subject: &SubjectName) -> Sha256 {
        self.hash("subject", &format!("{tenant}/{subject}"))
    }

    /// A tenant.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Sha256 {
        self.hash("tenant", tenant.as_str())
    }

    /// A person, as an identity provider names it.
    pub(crate) fn person(&self, issuer: &str, subject: &str) -> Sha256 {
        self.hash("person", &format!("{issuer}\n{subject}"))
    }

    /// An API key, by its prefix.
    pub(crate) fn key(&self, prefix: &str) -> Sha256 {
        self.hash("key", prefix)
    }

    /// A job.
    #[must_use]
    pub fn job(&self, job: JobId) -> Sha256 {
        self.hash("job", &job.to_string())
    }

    /// An object.
    #[must_use]
    pub fn object(&self, key: &ObjectKey) -> Sha256 {
        self.hash("object", key.as_str())
    }

    fn hash(&self, kind: &str, name: &str) -> Sha256 {
        Sha256::from_bytes(hmac(&self.0, &[kind.as_bytes(), &[0], name.as_bytes()]))
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blind(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blind(pepper: &str) -> Blind {
        Blind::new(&Secret::new(pepper).unwrap())
    }

    #[test]
    fn a_hash_is_of_one_pepper_one_kind_and_one_name() {
        let (acme, ada): (TenantId, SubjectName) = ("acme".parse().unwrap(), "ada".parse().unwrap());
        let hash = blind("pepper").subject(&acme, &ada);
        assert_eq!(hash, blind("pepper").subject(&acme, &ada));
        assert_ne!(hash, blind("salt").subject(&acme, &ada));
        assert_ne!(hash, blind("pepper").subject(&acme, &"bob".parse().unwrap()));
        assert_ne!(blind("pepper").tenant(&acme), blind("pepper").key("acme"));
        assert_eq!(format!("{:?}", blind("pepper")), "Blind(…)");
    }
}
