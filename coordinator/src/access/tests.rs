//! Every cell of the table, and what keys open and when.

use std::sync::Arc;
use std::time::Duration;

use likeness_proto::Role;
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Request;

use super::gate::Caller;
use super::oidc::tests::provider::{Idp, Signer};
use super::table::Shape;
use super::*;
use crate::audit::Blind;
use crate::bucket::Bucket;
use crate::clock::ManualClock;
use crate::limits::Limits;
use crate::service::Shared;
use crate::store::sqlite::SqliteStore;
use crate::store::{NewKey, Policy, Store, Terms};

/// Who may call what. A column for each role: viewer, member, worker, admin.
const MATRIX: &str = "
    Avatars/PutSubject       . M . .
    Avatars/ListSubjects     V M . .
    Avatars/GetSubject       V M . .
    Avatars/ForgetSubject    . M . .
    Avatars/SubmitJob        . M . .
    Avatars/GetJob           V M . .
    Avatars/ListJobs         V M . .
    Avatars/CancelJob        . M . .
    Avatars/WatchJob         V M . .
    Avatars/GetLosses        V M . .
    Avatars/Download         V M . .
    Avatars/GetDownloadLink  V M . .
    Workers/Register         . . W .
    Workers/Lease            . . W .
    Workers/Renew            . . W .
    Workers/Complete         . . W .
    Workers/Fail             . . W .
    Workers/Release          . . W .
    Admin/CreateTenant       . . . A
    Admin/UpdateTenant       . . . A
    Admin/ListTenants        . . . A
    Admin/CreateKey          . . . A
    Admin/ListKeys           . . . A
    Admin/RotateKey          . . . A
    Admin/RevokeKey          . . . A
    Admin/ReplayErasures     . . . A
";

struct World {
    gate: Gate<SqliteStore>,
    clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let blind = Blind::new(&Secret::new("pepper").unwrap());
        let policy = Policy { lease: Duration::from_secs(10), attempts: 1, base_model: None, blind };
        let store = SqliteStore::open(&folder.path().join("db"), Some(clock.clone()), policy).await.unwrap();
        let acme = "acme".parse().unwrap();
        store.create_tenant(&acme, &Terms::default(), &Actor::embedded()).await.unwrap();
        let bucket = Bucket::new(Arc::new(InMemory::new()), None);
        let shared = Shared::new(store, bucket, Limits::default(), CancellationToken::new());
        let tokens = Tokens::embedded(acme, &Secret::new("embedded").unwrap());
        let pepper = Pepper::new(Secret::new("pepper").unwrap());
        let gate = Gate { tokens, pepper, shared, tls: None, people: None, clock: clock.clone() };
        Self { gate, clock, _folder: folder }
    }

    /// Makes a key and returns its prefix and token.
    async fn key(&self, role: Role, life: Option<Duration>) -> (String, String) {
        let minted = self.gate.pepper.mint();
        let tenant = matches!(role, Role::Viewer | Role::Member).then(|| "acme".parse().unwrap());
        let key = NewKey { prefix: minted.prefix.clone(), hash: minted.hash, tenant, role, life };
        self.gate.shared.store.create_key(&key, &Actor::embedded()).await.unwrap();
        (minted.prefix, minted.token)
    }

    async fn calls(&self, token: &str, path: &str) -> Result<Access, ErrorCode> {
        let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        self.gate.admit(&Caller::of(&request.body(()).unwrap())).await.map_err(|refusal| refusal.code)
    }
}

/// Services and their methods as the protos declare them.
fn rpcs() -> Vec<(&'static str, &'static str)> {
    let protos = [
        ("Avatars", include_str!("../../../proto/likeness/v1/avatars.proto")),
        ("Workers", include_str!("../../../proto/likeness/v1/workers.proto")),
        ("Admin", include_str!("../../../proto/likeness/v1/admin.proto")),
    ];
    let of = |(service, proto): (&'static str, &'static str)| {
        proto.lines().filter_map(move |line| Some((service, line.trim().strip_prefix("rpc ")?)))
    };
    protos.into_iter().flat_map(of).collect()
}

fn methods() -> Vec<String> {
    let name = |rpc: &str| rpc.split('(').next().unwrap_or_default().to_owned();
    rpcs().into_iter().map(|(service, rpc)| format!("{service}/{}", name(rpc))).collect()
}

#[tokio::test]
async fn every_role_may_call_what_the_matrix_says_and_nothing_else() {
    let world = World::new().await;
    let rows: Vec<Vec<&str>> =
        MATRIX.lines().map(|line| line.split_whitespace().collect()).filter(|row: &Vec<_>| !row.is_empty()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), methods(), "every method has a row");
    assert_eq!(rows.len(), table::TABLE.len());
    for (column, role) in Role::ALL.iter().enumerate() {
        let (_, token) = world.key(*role, None).await;
        for row in &rows {
            let answer = world.calls(&token, &format!("/likeness.v1.{}", row[0])).await;
            match row[column + 1] {
                "." => assert_eq!(answer, Err(ErrorCode::Forbidden), "{role} {}", row[0]),
                _may => assert_eq!(answer.unwrap().roles, [*role], "{role} {}", row[0]),
            }
        }
    }
}

#[tokio::test]
async fn whoever_has_a_credential_may_ask_what_there_is() {
    let world = World::new().await;
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for role in Role::ALL.iter().copied() {
        let (_, token) = world.key(role, None).await;
        assert_eq!(world.calls(&token, path).await.unwrap().roles, [role]);
    }
    assert_eq!(world.calls("wrong", path).await, Err(ErrorCode::Unauthenticated));
}

#[test]
fn a_call_goes_as_its_proto_says() {
    let shape = |(_, rpc): (_, &str)| match rpc.contains("returns (stream ") {
        true => Shape::Download,
        false if rpc.contains("(stream ") => Shape::Upload,
        false => Shape::Unary,
    };
    let declared: Vec<Shape> = rpcs().into_iter().map(shape).collect();
    assert_eq!(declared, table::TABLE.iter().map(|(.., shape)| *shape).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_the_table_does_not_name_nobody_may_call() {
    let world = World::new().await;
    for path in ["/", "*", "/likeness.v1.Avatars/Peek", "/likeness.v2.Avatars/GetJob", "/likeness.v1.Avatars/getjob"] {
        assert_eq!(world.calls("embedded", path).await, Err(ErrorCode::Forbidden), "{path}");
    }
}

#[tokio::test]
async fn nobody_enters_without_the_right_token() {
    let world = World::new().await;
    let (_, token) = world.key(Role::Member, None).await;
    let (another, _) = world.key(Role::Member, None).await;
    let (prefix, secret) = token.split_once('.').unwrap();
    let wrong = [
        "",
        "embedde",
        "embedded2",
        prefix,
        secret,
        &format!("{another}.{secret}"),
        &format!("{prefix}.{}", "0".repeat(64)),
    ]
    .map(str::to_owned);
    for token in wrong {
        let answer = world.calls(&token, "/likeness.v1.Avatars/GetJob").await;
        assert_eq!(answer, Err(ErrorCode::Unauthenticated), "{token}");
    }
    let request = Request::builder().uri("/likeness.v1.Avatars/GetJob").body(()).unwrap();
    let refused = world.gate.admit(&Caller::of(&request)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn the_tenant_comes_from_the_credential() {
    let world = World::new().await;
    for role in [Role::Viewer, Role::Member] {
        let (_, token) = world.key(role, None).await;
        let access = world.calls(&token, "/likeness.v1.Avatars/GetJob").await.unwrap();
        assert_eq!(access.tenant, Some("acme".parse().unwrap()));
    }
    let (_, worker) = world.key(Role::Worker, None).await;
    assert_eq!(world.calls(&worker, "/likeness.v1.Workers/Lease").await.unwrap().tenant, None);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_from_then_on() {
    let world = World::new().await;
    let (prefix, token) = world.key(Role::Viewer, None).await;
    world.calls(&token, "/likeness.v1.Avatars/GetJob").await.unwrap();
    world.gate.shared.store.revoke_key(&prefix, &Actor::embedded()).await.unwrap();
    assert_eq!(world.calls(&token, "/likeness.v1.Avatars/GetJob").await, Err(ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn a_key_expires() {
    let world = World::new().await;
    let (_, token) = world.key(Role::Viewer, Some(Duration::from_secs(60))).await;
    world.clock.advance(Duration::from_millis(59_999));
    world.calls(&token, "/likeness.v1.Avatars/GetJob").await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.calls(&token, "/likeness.v1.Avatars/GetJob").await, Err(ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn a_rotated_key_and_its_successor_overlap() {
    let world = World::new().await;
    let (prefix, old) = world.key(Role::Member, None).await;
    let minted = world.gate.pepper.mint();
    let overlap = Duration::from_secs(3600);
    world
        .gate
        .shared
        .store
        .rotate_key(&prefix, &minted.prefix, minted.hash, overlap, &Actor::embedded())
        .await
        .unwrap();
    for token in [&old, &minted.token] {
        let access = world.calls(token, "/likeness.v1.Avatars/SubmitJob").await.unwrap();
        assert_eq!(access.tenant, Some("acme".parse().unwrap()));
    }
    world.clock.advance(overlap);
    assert_eq!(world.calls(&old, "/likeness.v1.Avatars/SubmitJob").await, Err(ErrorCode::Unauthenticated));
    world.calls(&minted.token, "/likeness.v1.Avatars/SubmitJob").await.unwrap();
}

#[tokio::test]
async fn a_token_of_an_identity_provider_opens_a_tenant_that_exists() {
    let mut world = World::new().await;
    let signer = Signer::ed25519();
    let idp = Idp::start(&[("k", &signer)]).await;
    let token = |tenant: &str| {
        let mut claims = idp.claims();
        claims["tenant"] = tenant.into();
        signer.token("k", &claims)
    };
    let path = "/likeness.v1.Avatars/GetJob";
    assert_eq!(
        world.calls(&token("acme"), path).await,
        Err(ErrorCode::Unauthenticated),
        "nobody trusts the provider yet"
    );
    world.gate.people = Some(Oidc::new(idp.options()).unwrap());
    assert_eq!(world.calls(&token("acme"), path).await.unwrap().tenant, Some("acme".parse().unwrap()));
    assert_eq!(world.calls(&token("acme"), "/likeness.v1.Avatars/SubmitJob").await, Err(ErrorCode::Forbidden));
    assert_eq!(world.calls(&token("other"), path).await, Err(ErrorCode::Forbidden));
    world
        .gate
        .shared
        .store
        .create_tenant(&"other".parse().unwrap(), &Terms::default(), &Actor::embedded())
        .await
        .unwrap();
    world.calls(&token("other"), path).await.unwrap();
    world.clock.advance(Duration::from_secs(1030));
    assert_eq!(world.calls(&token("other"), path).await, Err(ErrorCode::Unauthenticated));
}

#[test]
fn tokens_are_never_shown() {
    let tokens = Tokens::embedded("acme".parse().unwrap(), &Secret::new("hunter2").unwrap());
    assert!(!format!("{tokens:?}").contains("hunter2"));
}
