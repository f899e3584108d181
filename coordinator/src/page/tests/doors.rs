//! Who gets in, and to what.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::Limits;
use crate::access::Pepper;
use crate::clock::{Clock, SystemClock};
use crate::page::session::Sessions;

/// What each sees of what: signed out, a viewer, a member, a worker, an administrator, and the owner of an embedded service.
/// `ok`: it is shown; `in`: they are sent to sign in; `401`, `403`: as it says.
const MATRIX: &str = "
    /                              in  go  go  403 go  go
    /jobs                          in  ok  ok  403 403 ok
    /jobs/events                   401 ok  ok  403 403 ok
    /jobs/JOB                      in  ok  ok  403 403 ok
    /jobs/JOB/events               401 ok  ok  403 403 ok
    /jobs/JOB/subjects/ada         in  ok  ok  403 403 ok
    /subjects                      in  ok  ok  403 403 ok
    /subjects/ada                  in  ok  ok  403 403 ok
    /objects/PHOTO                 401 ok  ok  403 403 ok
    /fleet                         in  ok  ok  403 ok  ok
    /fleet/events                  401 ok  ok  403 ok  ok
    /tenants                       in  403 403 403 ok  ok
    /sign-in                       ok  ok  ok  ok  ok  ok
    /assets/1/style.css            ok  ok  ok  ok  ok  ok
    /nothing                       404 404 404 404 404 404
";

/// A cookie as the site itself would make it, for a credential that the form does not let in.
fn forged(token: &str) -> String {
    let cookie = Sessions::new(&Pepper::new(secret("pepper")), false).begin(&secret(token), SystemClock.now()).unwrap();
    cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn everybody_sees_what_the_matrix_says_and_nothing_else() {
    let site = Site::new().await;
    let _worker = Worker::registered(&site.served).await;
    let job = site.served.submitted().await;
    let photo = site.served.keys().await.pop().unwrap();
    let mut browsers = vec![site.browser.clone()];
    for role in [Role::Viewer, Role::Member, Role::Worker, Role::Admin] {
        let key = site.key("default", role).await;
        browsers.push(site.browser.with(&forged(&key.token)));
    }
    browsers.push(site.owner().await);
    for row in MATRIX.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| !row.is_empty()) {
        let path = row[0].replace("JOB", &job.id).replace("PHOTO", &photo);
        for (browser, want) in browsers.iter().zip(&row[1..]) {
            let response = browser.send("GET", &path, &[], "").await;
            let to = response.headers().get("location").map(|place| place.to_str().unwrap());
            let seen = match (response.status().as_u16(), to) {
                (200, None) => "ok",
                (303, Some("/sign-in")) => "in",
                (303, Some("/jobs" | "/fleet")) => "go",
                (401, None) => "401",
                (403, None) => "403",
                (404, None) => "404",
                other => panic!("{path}: {other:?}"),
            };
            assert_eq!(seen, *want, "{path} {browser:?}");
        }
    }
}

#[tokio::test]
async fn only_what_changes_a_session_is_posted_and_nothing_else_is_done() {
    let site = Site::new().await;
    let owner = site.owner().await;
    let paths =
        ["/", "/jobs", "/jobs/events", "/subjects", "/fleet", "/tenants", "/objects/v1/a/b/c", "/assets/1/live.js"];
    for path in paths {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(
                owner.ask(method, path, &[("sec-fetch-site", "same-origin")], "").await.status,
                405,
                "{method} {path}"
            );
        }
    }
    assert_eq!(owner.get("/sign-out").await.status, 405, "a link signs nobody out");
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let site = Site::new().await;
    let _worker = Worker::registered(&site.served).await;
    let job = site.served.submitted().await;
    let photo = site.served.keys().await.pop().unwrap();
    let other = site.signed_in(&site.key("other", Role::Member).await.token).await;
    let job = format!("/jobs/{}", job.id);
    for path in [
        job.clone(),
        format!("{job}/events"),
        format!("{job}/subjects/ada"),
        "/subjects/ada".into(),
        format!("/objects/{photo}"),
        "/jobs/01890a5d-ac96-774b-bcce-b302099a8057".into(),
        "/jobs/no-id".into(),
        "/subjects/No!Name".into(),
    ] {
        assert_eq!(other.get(&path).await.status, 404, "{path}");
    }
    for path in ["/jobs", "/subjects", "/fleet"] {
        let answer = other.get(path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("ada") && !answer.body.contains("node-1"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_session_and_its_stream() {
    let limits = Limits { recheck: Duration::from_millis(20), ..Limits::default() };
    let site = Site::with(|options| Options { limits, ..options }).await;
    let key = site.key("default", Role::Viewer).await;
    let viewer = site.signed_in(&key.token).await;
    assert_eq!(viewer.get("/jobs").await.status, 200);
    let (stream, revoked) = tokio::join!(viewer.get("/fleet/events"), async {
        let prefix = key.key.unwrap().prefix;
        site.admin().revoke_key(v1::RevokeKeyRequest { prefix }).await
    });
    revoked.unwrap();
    assert!(stream.status == 200 || stream.status == 401, "revoked before the stream began or after");
    assert_eq!(viewer.get("/jobs").await.header("location"), "/sign-in");
    assert_eq!(viewer.get("/jobs/events").await.status, 401);
}

#[tokio::test]
async fn whoever_signs_in_gets_a_session_and_whoever_signs_out_loses_it() {
    let site = Site::new().await;
    let answer = site.browser.sign_in("right").await;
    assert_eq!((answer.status, answer.header("location")), (303, "/jobs"));
    let cookie = answer.header("set-cookie");
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("right"), "{cookie}");
    let admin = site.browser.sign_in(&site.key("default", Role::Admin).await.token).await;
    assert_eq!(admin.header("location"), "/fleet", "administrators have no jobs");

    let (owner, elsewhere) = (site.browser.with(&answer.cookie()), site.owner().await);
    assert_eq!(owner.get("/jobs").await.status, 200);
    let out = owner.ask("POST", "/sign-out", &[("sec-fetch-site", "same-origin")], "").await;
    assert_eq!((out.status, out.header("location")), (303, "/sign-in"));
    assert!(out.header("set-cookie").contains("likeness=; ") && out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(out.header("clear-site-data"), "\"cache\"");
    assert_eq!(owner.get("/jobs").await.header("location"), "/sign-in", "a cookie that was copied opens nothing");
    assert_eq!(owner.get("/jobs/events").await.status, 401);
    assert_eq!(elsewhere.get("/jobs").await.status, 200, "another session of the same credential goes on");
    let again = owner.ask("POST", "/sign-out", &[("sec-fetch-site", "same-origin")], "").await;
    assert_eq!((again.status, again.header("location")), (303, "/sign-in"));
}

#[tokio::test]
async fn signing_out_ends_the_sessions_streams() {
    let limits = Limits { recheck: Duration::from_millis(20), ..Limits::default() };
    let site = Site::with(|options| Options { limits, ..options }).await;
    let owner = site.owner().await;
    let (stream, out) = tokio::join!(
        owner.get("/jobs/events"),
        owner.ask("POST", "/sign-out", &[("sec-fetch-site", "same-origin")], "")
    );
    assert_eq!(out.status, 303);
    assert!(stream.status == 200 || stream.status == 401, "signed out before the stream began or after");
}

#[tokio::test]
async fn what_opens_nothing_signs_nobody_in() {
    let site = Site::new().await;
    let worker = site.key("default", Role::Worker).await.token;
    for (token, status) in
        [("wrong", 401), (worker.as_str(), 401), ("", 400), ("two words", 400), (&"x".repeat(20_000), 400)]
    {
        let answer = site.browser.sign_in(token).await;
        assert_eq!(answer.status, status, "{token}");
        assert!(answer.body.contains("role=\"alert\"") && answer.header("set-cookie").is_empty(), "{token}");
        assert!(token.is_empty() || !answer.body.contains(token), "it is not shown again");
    }
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let site = Site::new().await;
    let own = format!("http://{}", site.browser.address);
    let refused: [&[(&str, &str)]; 6] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site"), ("origin", &own)],
    ];
    for headers in refused {
        for path in ["/sign-in", "/sign-out"] {
            let answer = site.browser.ask("POST", path, headers, "token=right").await;
            assert_eq!((answer.status, answer.header("set-cookie")), (403, ""), "{path} {headers:?}");
        }
    }
    assert_eq!(site.browser.ask("POST", "/sign-in", &[("origin", &own)], "token=right").await.status, 303);
}

#[tokio::test]
async fn every_answer_tells_browsers_what_to_refuse() {
    let site = Site::new().await;
    let owner = site.owner().await;
    let photo = "/objects/v1/default/ada/photos/none.png";
    for (browser, path, status) in [
        (&owner, "/jobs", 200),
        (&owner, "/nothing", 404),
        (&owner, photo, 404),
        (&owner, "/tenants", 200),
        (&owner, "/assets/1/live.js", 200),
        (&site.browser, "/jobs", 303),
        (&site.browser, "/sign-in", 200),
        (&site.browser, photo, 401),
        (&site.browser, "/sign-out", 405),
    ] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        let caching = answer.header("cache-control");
        assert!(caching == "no-store" || path.starts_with("/assets"), "{path}: {caching}");
    }
}

#[tokio::test]
async fn no_path_leads_out() {
    let site = Site::new().await;
    let owner = site.owner().await;
    for path in [
        "/objects/../../etc/passwd",
        "/objects/..%2f..%2f..%2fetc%2fpasswd",
        "/objects/v1/default/ada/../../../likeness.db",
        "/objects/v1/default/ada/%2e%2e/%2e%2e/likeness.db",
        "/objects//etc/passwd",
        "/objects/v1/default/ada/photos/a%00.png",
        "/objects/%ff%fe",
        "/assets/../Cargo.toml",
        "/assets/1/..%2flive.js",
        "/assets/1/%2e%2e%2fmod.rs",
        "/jobs/..%2f..%2fsubjects",
        "/subjects/..",
    ] {
        let answer = owner.get(path).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.contains("root:"), "{path}");
    }
}

#[tokio::test]
async fn whoever_sends_a_request_byte_by_byte_is_cut() {
    let limits = Limits { first_call: Duration::from_millis(100), ..Limits::default() };
    let site = Site::with(|options| Options { limits, ..options }).await;
    for begun in ["", "GET /jobs HTTP/1.1\r\nhost: x\r\nx-a: "] {
        let mut tcp = TcpStream::connect(site.browser.address).await.unwrap();
        tcp.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // Ends, one way or another.
        let _ended = tcp.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"));
    }
    let answer = site
        .browser
        .send("POST", "/sign-in", &[("sec-fetch-site", "same-origin"), ("content-length", "9")], "token=abc")
        .await;
    assert_eq!(answer.status(), 401, "a whole one is answered");
    let mut tcp = TcpStream::connect(site.browser.address).await.unwrap();
    let begun = "POST /sign-in HTTP/1.1\r\nhost: x\r\nsec-fetch-site: same-origin\r\ncontent-length: 100\r\n\r\ntoken=";
    tcp.write_all(begun.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[tokio::test]
async fn a_crowd_finds_no_room_and_is_told_so() {
    let limits = Limits { streams: 1, ..Limits::default() };
    let site = Site::with(|options| Options { limits, ..options }).await;
    let owner = site.owner().await;
    let first = owner.send("GET", "/fleet/events", &[], "").await;
    assert_eq!(owner.get("/jobs/events").await.status, 503);
    assert_eq!(owner.get("/jobs").await.status, 200, "pages have room of their own");
    drop(first);
}

#[tokio::test]
async fn over_tls_the_cookie_never_travels_in_the_clear() {
    use tokio_rustls::TlsConnector;
    crate_provider();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let tls = crate::Tls::new(cert.as_bytes(), key.as_bytes(), None).unwrap();
    let (page, address) = page(Some(tokio::sync::watch::channel(tls).1)).await;
    let _served = Served::with(|options| Options { page: Some(page), ..options }).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut tls =
        TlsConnector::from(std::sync::Arc::new(client)).connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let request = "POST /sign-in HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: same-origin\r\nconnection: close\r\n\
                   content-length: 11\r\n\r\ntoken=right";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("set-cookie: __Host-likeness=") && answer.contains("SameSite=Strict; Secure"), "{answer}");
    let mut clear = TcpStream::connect(address).await.unwrap();
    clear.write_all(b"GET /sign-in HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ended = clear.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"));
}

/// There are two providers in the tree of the tests, so one must be chosen.
fn crate_provider() {
    let _there = rustls::crypto::ring::default_provider().install_default();
}
