//! The one provider of cryptography of this process.

/// Makes ring the provider of every TLS connection. Said again, it changes nothing.
pub fn install_provider() {
    // Fails only when there is one already, which is this one.
    let _there = rustls::crypto::ring::default_provider().install_default();
}
