//! Workers that come over TLS with a certificate and no token.

use likeness_proto::{Bearer, Incarnation, TaskKind, wire_kinds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::*;
use crate::{Limits, Tls, WorkerCertificates};

const WORKER: &str = "spiffe://fleet.example/likeness/worker/node-7";

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec![]).unwrap());
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }

    fn worker(&self, uris: &[&str]) -> Identity {
        self.sign(uris, |_| ())
    }

    /// The list of those that it revoked.
    fn revoked(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// What a coordinator shows, and the certificate that its callers trust for it.
fn shown(authority: &Authority, revoked: Option<&str>) -> (Tls, Certificate) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (authorities, revoked) = (authority.0.pem(), revoked.map(str::as_bytes));
    let workers = WorkerCertificates::new(authorities.as_bytes(), revoked, "fleet.example").unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    (Tls::new(chain.as_bytes(), key.as_bytes(), Some(workers)).unwrap(), Certificate::from_pem(chain))
}

/// A coordinator over TLS that takes certificates of an authority.
struct Desk {
    served: Served,
    authority: Authority,
    trusted: Certificate,
    latest: watch::Sender<Tls>,
}

impl Desk {
    async fn new(limits: Limits) -> Self {
        let authority = Authority::new();
        let (tls, trusted) = shown(&authority, None);
        let (latest, tls) = watch::channel(tls);
        let served = Served::with(|options| Options { tls: Some(tls), limits, ..options }).await;
        Self { served, authority, trusted, latest }
    }

    /// Another certificate of its own, and what it knows of workers by now.
    fn renew(&mut self, revoked: Option<&str>) {
        let (tls, trusted) = shown(&self.authority, revoked);
        (self.trusted, _) = (trusted, self.latest.send_replace(tls));
    }

    fn channel(&self, identity: Option<Identity>) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(self.trusted.clone());
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", self.served.address.port())).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }

    fn fleet(&self, identity: Option<Identity>) -> WorkersClient<Channel> {
        WorkersClient::new(self.channel(identity))
    }

    fn people(&self, identity: Option<Identity>, token: &str) -> AvatarsClient<InterceptedService<Channel, Bearer>> {
        AvatarsClient::with_interceptor(self.channel(identity), Bearer::new(&secret(token)))
    }
}

fn registration(worker: &str, incarnation: Incarnation) -> v1::RegisterRequest {
    let (kinds, previews) = wire_kinds(TaskKind::ALL);
    v1::RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        worker: worker.into(),
        incarnation: incarnation.to_string(),
        kinds,
        previews,
        models: vec![v1::BaseModel { digest: MODEL.into(), name: "tiny".into(), native_size: 64, factor: 8 }],
        software: "test".into(),
    }
}

fn lease(incarnation: Incarnation) -> v1::LeaseRequest {
    let (kinds, previews) = wire_kinds(TaskKind::ALL);
    v1::LeaseRequest { incarnation: incarnation.to_string(), kinds, capacity: 1, wait_ms: 30_000, previews }
}

async fn refused(desk: &Desk, identity: Identity) -> Status {
    desk.fleet(Some(identity))
        .register(registration("node-7", Incarnation::new()))
        .await
        .expect_err("it must be refused")
}

#[tokio::test]
async fn a_certificate_alone_says_that_this_is_a_worker_and_which() {
    let desk = Desk::new(Limits::default()).await;
    let identity = desk.authority.worker(&[WORKER]);
    let (mut fleet, first) = (desk.fleet(Some(identity.clone())), Incarnation::new());
    fleet.register(registration("what it calls itself", first)).await.unwrap();

    let mut people = desk.people(None, "right");
    people.put_subject(futures::stream::iter(parts("ada", &[("a.png", png(64, 48))]))).await.unwrap();
    people.submit_job(request()).await.unwrap();
    assert_eq!(fleet.lease(lease(first)).await.unwrap().into_inner().grants.len(), 1);
    // It is the same worker by its certificate, started again: what the first incarnation held is free at once.
    let (mut again, second) = (desk.fleet(Some(identity)), Incarnation::new());
    again.register(registration("another name", second)).await.unwrap();
    assert_eq!(again.lease(lease(second)).await.unwrap().into_inner().grants.len(), 1);
}

#[tokio::test]
async fn a_certificate_of_a_trade_opens_tasks_of_no_other() {
    let desk = Desk::new(Limits::default()).await;
    let identity = desk.authority.worker(&["spiffe://fleet.example/likeness/sampler/node-8"]);
    let (mut fleet, incarnation) = (desk.fleet(Some(identity)), Incarnation::new());
    let mut registration = registration("node-8", incarnation);
    let status = fleet.register(registration.clone()).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Forbidden);
    assert!(status.message().contains("a sampler, which does no train tasks"), "{status}");

    registration.kinds.retain(|kind| *kind != TaskKind::Train.encode());
    fleet.register(registration).await.unwrap();
    let status = fleet.lease(lease(incarnation)).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_worker_s_certificate_opens_nothing_else() {
    let desk = Desk::new(Limits::default()).await;
    let channel = desk.channel(Some(desk.authority.worker(&[WORKER])));
    let status = AvatarsClient::new(channel).list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Forbidden);
}

#[tokio::test]
async fn certificates_are_optional_and_a_token_counts_before_them() {
    let desk = Desk::new(Limits::default()).await;
    let list = v1::ListJobsRequest::default();
    desk.people(None, "right").list_jobs(list).await.unwrap();
    desk.people(Some(desk.authority.worker(&[WORKER])), "right").list_jobs(list).await.unwrap();
    let status = desk.people(Some(desk.authority.worker(&[WORKER])), "wrong").list_jobs(list).await.unwrap_err();
    assert_eq!(Refusal::read(&status).code, ErrorCode::Unauthenticated);
    let status = desk.fleet(None).register(registration("node-7", Incarnation::new())).await.unwrap_err();
    assert!(status.message().contains("no token") && status.message().contains("certificate"), "{status}");
}

#[tokio::test]
async fn a_certificate_that_names_no_worker_or_several_or_one_elsewhere_is_refused_by_name() {
    let desk = Desk::new(Limits::default()).await;
    let elsewhere = "spiffe://other.example/likeness/worker/node-7";
    let administrator = "spiffe://fleet.example/likeness/admin/root";
    let cases: [&[&str]; 4] = [&[], &[WORKER, elsewhere], &[elsewhere], &[administrator]];
    for uris in cases {
        let status = refused(&desk, desk.authority.worker(uris)).await;
        let refusal = Refusal::try_from(&status).unwrap();
        assert_eq!(refusal.code, ErrorCode::Unauthenticated, "{uris:?}");
        let words =
            uris.iter().copied().chain(["accepted is one URI alone, spiffe://fleet.example/likeness/worker/NAME"]);
        for word in words {
            assert!(refusal.message.contains(word), "{refusal}");
        }
    }
}

#[tokio::test]
async fn certificates_that_are_expired_or_of_another_authority_do_not_even_connect() {
    let desk = Desk::new(Limits::default()).await;
    let expired = desk.authority.sign(&[WORKER], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = desk.authority.sign(&[WORKER], |params| params.not_before = date_time_ymd(4000, 1, 1));
    let foreign = Authority::new().worker(&[WORKER]);
    for (what, identity) in [("expired", expired), ("early", early), ("foreign", foreign)] {
        let status = refused(&desk, identity).await;
        assert!(Refusal::try_from(&status).is_err(), "the {what} one is refused by TLS, before any call: {status}");
    }
    desk.fleet(Some(desk.authority.worker(&[WORKER]))).register(registration("x", Incarnation::new())).await.unwrap();
}

#[tokio::test]
async fn who_never_ends_the_handshake_is_cut_off() {
    let desk = Desk::new(Limits { first_call: Duration::from_secs(1), ..Limits::default() }).await;
    let silent = futures::future::join_all((0..20).map(|_| TcpStream::connect(desk.served.address))).await;
    for connected in silent {
        assert_eq!(connected.unwrap().read(&mut [0; 64]).await.unwrap_or(0), 0);
    }
    desk.people(None, "right").list_jobs(v1::ListJobsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_who_comes_and_cuts_off_nobody() {
    let mut desk = Desk::new(Limits::default()).await;
    let (mut before, list) = (desk.people(None, "right"), v1::ListJobsRequest::default());
    before.list_jobs(list).await.unwrap();
    desk.renew(None);
    before.list_jobs(list).await.unwrap();
    desk.people(None, "right").list_jobs(list).await.unwrap();
    let stale = shown(&desk.authority, None).1;
    desk.trusted = stale;
    desk.people(None, "right").list_jobs(list).await.expect_err("it shows the renewed one alone");
}

#[tokio::test]
async fn a_revoked_worker_is_refused_at_its_next_call_and_cannot_come_back() {
    let mut desk = Desk::new(Limits::default()).await;
    let numbered =
        |serial: u64| desk.authority.sign(&[WORKER], |params| params.serial_number = Some(SerialNumber::from(serial)));
    let (lost, good) = (numbered(7), numbered(8));
    let mut connected = desk.fleet(Some(lost.clone()));
    connected.register(registration("x", Incarnation::new())).await.unwrap();
    desk.renew(Some(&desk.authority.revoked(&[7])));
    let status = connected.register(registration("x", Incarnation::new())).await.unwrap_err();
    let refusal = Refusal::try_from(&status).unwrap();
    assert!(refusal.code == ErrorCode::Unauthenticated && refusal.message.contains("Revoked"), "{refusal}");
    let status = refused(&desk, lost).await;
    assert!(Refusal::try_from(&status).is_err(), "it is refused by TLS, before any call: {status}");
    desk.fleet(Some(good)).register(registration("x", Incarnation::new())).await.unwrap();
}

#[tokio::test]
async fn workers_of_an_authority_that_is_trusted_no_more_are_refused_at_their_next_call() {
    let mut desk = Desk::new(Limits::default()).await;
    let mut connected = desk.fleet(Some(desk.authority.worker(&[WORKER])));
    connected.register(registration("x", Incarnation::new())).await.unwrap();
    desk.authority = Authority::new();
    desk.renew(None);
    let status = connected.register(registration("x", Incarnation::new())).await.unwrap_err();
    assert_eq!(Refusal::try_from(&status).unwrap().code, ErrorCode::Unauthenticated);
    let renewed = desk.authority.worker(&[WORKER]);
    desk.fleet(Some(renewed)).register(registration("x", Incarnation::new())).await.unwrap();
}
