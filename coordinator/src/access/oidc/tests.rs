//! Tokens of a provider that listens on this machine.

pub(in crate::access) mod provider;

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use likeness_proto::{ErrorCode, Role};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use provider::{Idp, Signer, base64, token};

/// Keys are fetched once, and never again in the life of a test.
const ONCE: Pace = Pace { max_age: Duration::from_secs(3600), apart: Duration::from_secs(3600) };
/// Whenever there is a reason.
const EAGER: Pace = Pace { max_age: Duration::from_secs(3600), apart: Duration::ZERO };
/// At every call.
const ALWAYS: Pace = Pace { max_age: Duration::ZERO, apart: Duration::ZERO };

fn second(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1000)
}

fn blind() -> Blind {
    Blind::new(&likeness_proto::Secret::new("pepper").unwrap())
}

/// A provider with one key, and what trusts it.
async fn world(pace: Pace) -> (Idp, Signer, Oidc) {
    let signer = Signer::ed25519();
    let idp = Idp::start(&[("k", &signer)]).await;
    let oidc = Oidc::at_pace(idp.options(), pace).unwrap();
    (idp, signer, oidc)
}

async fn refusal(oidc: &Oidc, token: &str) -> Refusal {
    oidc.open(token, second(500), &blind()).await.expect_err("it must be refused")
}

/// `claims` with one of them changed, or left out.
fn but(claims: &Value, name: &str, value: Value) -> Value {
    let mut changed = claims.clone();
    match value {
        Value::Null => drop(changed.as_object_mut().unwrap().remove(name)),
        value => changed[name] = value,
    }
    changed
}

#[tokio::test]
async fn a_token_of_each_pinned_algorithm_opens_what_it_says() {
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519()] {
        let idp = Idp::start(&[("k", &signer)]).await;
        let oidc = Oidc::at_pace(idp.options(), ONCE).unwrap();
        let access = oidc.open(&signer.token("k", &idp.claims()), second(500), &blind()).await.unwrap();
        assert_eq!(access.tenant, Some("acme".parse().unwrap()), "{}", signer.algorithm());
        assert_eq!((&access.roles[..], &access.worker), (&[Role::Viewer][..], &None));
        // No hash in hex holds a z.
        assert!(!access.actor.as_str().contains("zoe"), "the log names nobody: {}", access.actor);
    }
}

#[tokio::test]
async fn keys_may_be_where_the_settings_say() {
    let signer = Signer::p256();
    let idp = Idp::start(&[("k", &signer)]).await;
    let options = OidcOptions { jwks: Some(format!("{}/keys", idp.url)), ..idp.options() };
    let oidc = Oidc::at_pace(options, ONCE).unwrap();
    oidc.open(&signer.token("k", &idp.claims()), second(500), &blind()).await.unwrap();
}

#[tokio::test]
async fn claims_that_are_not_for_us_or_not_for_now_are_refused_by_name() {
    let (idp, signer, oidc) = world(ONCE).await;
    let cases = [
        ("iss", json!("https://evil.example"), "issuer"),
        ("iss", Value::Null, "iss"),
        ("iss", json!([idp.url]), "not accepted"),
        ("aud", json!("another"), "audience"),
        ("aud", json!(["another", "third"]), "audience"),
        ("aud", Value::Null, "aud"),
        ("exp", json!(469), "expired"),
        ("exp", Value::Null, "exp"),
        ("exp", json!("1000"), "not accepted"),
        ("nbf", json!(531), "not yet valid"),
    ];
    for (name, value, word) in cases {
        let refused = refusal(&oidc, &signer.token("k", &but(&idp.claims(), name, value.clone()))).await;
        assert_eq!(refused.code, ErrorCode::Unauthenticated, "{name} {value}: {refused}");
        assert!(refused.message.contains(word), "{name} {value}: {refused}");
    }
    let taken = [("exp", json!(471)), ("exp", json!(500.5)), ("nbf", json!(529)), ("aud", json!(["x", "likeness"]))];
    for (name, value) in taken {
        let token = signer.token("k", &but(&idp.claims(), name, value.clone()));
        assert!(oidc.open(&token, second(500), &blind()).await.is_ok(), "{name} {value}");
    }
}

#[tokio::test]
async fn a_provider_makes_no_workers_and_no_administrators() {
    let (idp, signer, oidc) = world(ONCE).await;
    for role in [json!("worker"), json!("admin"), json!(["admin", "worker"]), json!("Member"), json!(1), Value::Null] {
        let refused = refusal(&oidc, &signer.token("k", &but(&idp.claims(), "role", role.clone()))).await;
        assert_eq!(refused.code, ErrorCode::Forbidden, "{role}: {refused}");
    }
    let token = signer.token("k", &but(&idp.claims(), "role", json!(["admin", "viewer", "member"])));
    assert_eq!(oidc.open(&token, second(500), &blind()).await.unwrap().roles, [Role::Member, Role::Viewer]);
    for tenant in [json!("Not A Tenant"), json!(7), Value::Null] {
        let refused = refusal(&oidc, &signer.token("k", &but(&idp.claims(), "tenant", tenant.clone()))).await;
        assert_eq!(refused.code, ErrorCode::Forbidden, "{tenant}: {refused}");
    }
}

#[tokio::test]
async fn the_key_says_how_it_signs_and_the_token_does_not() {
    let (rsa, p256, ed25519) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
    let idp = Idp::start(&[("rsa", &rsa), ("p256", &p256), ("ed25519", &ed25519)]).await;
    let (oidc, claims) = (Oidc::at_pace(idp.options(), ONCE).unwrap(), idp.claims());
    for (kid, signer) in [("rsa", &rsa), ("p256", &p256), ("ed25519", &ed25519)] {
        let jwk = signer.jwk(kid);
        for algorithm in
            ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256", "HS512", "none", "None", ""]
        {
            if algorithm == signer.algorithm() {
                continue;
            }
            let header = json!({"alg": algorithm, "kid": kid});
            // By the right key, unsigned, and keyed with what everybody knows of the key, in each of its forms.
            let publics = ["n", "x"].iter().filter_map(|part| jwk[part].as_str()).flat_map(|text| {
                [
                    text.as_bytes().to_vec(),
                    base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text).unwrap(),
                ]
            });
            let tokens = publics.chain([jwk.to_string().into_bytes()]).map(|public| {
                token(&header, &claims, |message| {
                    Hmac::<Sha256>::new_from_slice(&public)
                        .unwrap()
                        .chain_update(message)
                        .finalize()
                        .into_bytes()
                        .to_vec()
                })
            });
            let others =
                [token(&header, &claims, |message| signer.sign(message)), token(&header, &claims, |_| Vec::new())];
            for token in tokens.chain(others) {
                assert_eq!(refusal(&oidc, &token).await.code, ErrorCode::Unauthenticated, "{algorithm} {kid}");
            }
        }
        oidc.open(&signer.token(kid, &claims), second(500), &blind()).await.unwrap();
    }
}

#[tokio::test]
async fn a_signature_is_of_its_key_and_of_every_word() {
    let (idp, signer, oidc) = world(ONCE).await;
    let good = signer.token("k", &idp.claims());
    let forged = Signer::ed25519().token("k", &idp.claims());
    assert!(refusal(&oidc, &forged).await.message.contains("InvalidSignature"));
    let [header, _, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let raised = base64(but(&idp.claims(), "role", json!("member")).to_string());
    refusal(&oidc, &format!("{header}.{raised}.{signature}")).await;
    let unnamed = token(&json!({"alg": "EdDSA"}), &idp.claims(), |message| signer.sign(message));
    assert!(refusal(&oidc, &unnamed).await.message.contains("kid"));
    let critical =
        token(&json!({"alg": "EdDSA", "kid": "k", "crit": ["b64"]}), &idp.claims(), |message| signer.sign(message));
    assert!(refusal(&oidc, &critical).await.message.contains("crit"));
}

#[tokio::test]
async fn keys_that_do_not_sign_or_not_so_are_as_if_they_were_not_there() {
    let (rsa, ed25519) = (Signer::rsa(), Signer::ed25519());
    let idp = Idp::start(&[]).await;
    idp.lists(vec![
        json!("no key"),
        json!({"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}),
        but(&rsa.jwk("encrypts"), "use", json!("enc")),
        but(&rsa.jwk("other"), "alg", json!("RS512")),
        but(&rsa.jwk("nameless"), "kid", Value::Null),
        ed25519.jwk("good"),
    ]);
    let oidc = Oidc::at_pace(idp.options(), ONCE).unwrap();
    for kid in ["encrypts", "other", "nameless", "shared"] {
        assert!(refusal(&oidc, &rsa.token(kid, &idp.claims())).await.message.contains("does not list"), "{kid}");
    }
    oidc.open(&ed25519.token("good", &idp.claims()), second(500), &blind()).await.unwrap();
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_calls_whatever_these_name() {
    let (idp, signer, oidc) = world(ONCE).await;
    let oidc = Arc::new(oidc);
    let good = signer.token("k", &idp.claims());
    let calls = (0..50).map(|number| {
        let (oidc, good, other) =
            (Arc::clone(&oidc), good.clone(), signer.token(&format!("other-{number}"), &idp.claims()));
        tokio::spawn(async move {
            oidc.open(&good, second(500), &blind()).await.unwrap();
            refusal(&oidc, &other).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap().message.contains("does not list"));
    }
    assert_eq!(idp.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_when_its_first_token_comes() {
    let (idp, old, oidc) = world(EAGER).await;
    oidc.open(&old.token("k", &idp.claims()), second(500), &blind()).await.unwrap();
    let new = Signer::p256();
    idp.lists(vec![old.jwk("k"), new.jwk("k2")]);
    oidc.open(&new.token("k2", &idp.claims()), second(500), &blind()).await.unwrap();
    oidc.open(&old.token("k", &idp.claims()), second(500), &blind()).await.unwrap();
    assert_eq!(idp.asked(), 2);
}

#[tokio::test]
async fn a_key_that_is_listed_no_longer_opens_nothing_after_the_keys_were_fetched_again() {
    let (idp, old, oidc) = world(ALWAYS).await;
    let token = old.token("k", &idp.claims());
    oidc.open(&token, second(500), &blind()).await.unwrap();
    idp.lists(vec![]);
    // It serves until the fetch that it sets off is done.
    while oidc.open(&token, second(500), &blind()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(refusal(&oidc, &token).await.message.contains("does not list"));
}

#[tokio::test]
async fn a_provider_that_is_down_takes_no_key_away() {
    let (idp, signer, oidc) = world(ALWAYS).await;
    let token = signer.token("k", &idp.claims());
    idp.is_down(true);
    assert_eq!(refusal(&oidc, &token).await.code, ErrorCode::Unavailable, "it never had a key");
    idp.is_down(false);
    oidc.open(&token, second(500), &blind()).await.unwrap();
    idp.is_down(true);
    for _ in 0..20 {
        oidc.open(&token, second(500), &blind()).await.unwrap();
        assert_eq!(refusal(&oidc, &signer.token("other", &idp.claims())).await.code, ErrorCode::Unauthenticated);
    }
}

#[tokio::test]
async fn a_configuration_of_another_issuer_is_not_believed() {
    let (idp, signer, _) = world(ONCE).await;
    let issuer = format!("{}/", idp.url);
    let oidc = Oidc::at_pace(OidcOptions { issuer: issuer.clone(), ..idp.options() }, ONCE).unwrap();
    let token = signer.token("k", &but(&idp.claims(), "iss", json!(issuer)));
    assert_eq!(refusal(&oidc, &token).await.code, ErrorCode::Unavailable);
    assert_eq!(idp.asked(), 0);
}

#[test]
fn options_that_would_trust_anybody_are_refused() {
    let good = OidcOptions {
        issuer: "https://id.example.org".into(),
        audience: "likeness".into(),
        jwks: None,
        tenant_claim: "tenant".into(),
        role_claim: "role".into(),
    };
    Oidc::new(good.clone()).unwrap();
    for options in [
        OidcOptions { audience: String::new(), ..good.clone() },
        OidcOptions { issuer: "http://id.example.org".into(), ..good.clone() },
        OidcOptions { jwks: Some("http://id.example.org/keys".into()), ..good },
    ] {
        Oidc::new(options).unwrap_err();
    }
}

#[test]
fn no_text_opens_anything_and_none_makes_it_panic() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (idp, signer, oidc) = runtime.block_on(world(ONCE));
    let good = signer.token("k", &idp.claims());
    runtime.block_on(oidc.open(&good, second(500), &blind())).unwrap();
    let part = || prop_oneof![".{0,40}".prop_map(base64), "[A-Za-z0-9_=-]{0,60}", ".{0,20}"];
    let header = prop_oneof![
        "(none|HS256|RS256|ES256|EdDSA)".prop_map(|alg| base64(json!({"alg": alg, "kid": "k"}).to_string())),
        part(),
    ];
    let any = prop_oneof![
        ".{0,200}",
        (header, part(), part()).prop_map(|(header, claims, signature)| format!("{header}.{claims}.{signature}")),
        (0..good.len(), "[A-Za-z0-9_.-]").prop_map({
            let good = good.clone();
            move |(at, other)| format!("{}{other}{}", &good[..at], &good[at + 1..])
        }),
    ];
    proptest!(|(text in any.prop_filter("it is the good one", |text| *text != good))| {
        let opened = runtime.block_on(oidc.open(&text, second(500), &blind()));
        prop_assert!(opened.is_err(), "{text}");
        let _ = Oidc::is_meant(&text);
    });
}
