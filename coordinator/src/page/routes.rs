//! Where what is, and the handlers: admit, ask the store, write the page.

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use likeness_proto::{ErrorCode, JobId, Refusal, Secret, SubjectName};
use maud::Markup;
use tokio::time::timeout;

use super::desk::{Desk, Visitor, may};
use super::events::{self, Beats};
use super::oops::Oops;
use super::views::{self, Frame, Section};
use super::{assets, guard, picture};
use crate::store::{Store, StoreError};

/// Jobs of the list.
const JOBS: u32 = 50;
/// Subjects of a job that are shown on its own page; of larger ones each has a page.
const INLINE: usize = 3;
/// Bytes of a form.
const FORM: usize = 16 << 10;
/// What somebody sees first, the first of these that they may.
const FIRST: [(&str, &str); 2] = [(may::LIST_JOBS, "/jobs"), (may::FLEET, "/fleet")];

pub(super) fn router<S: Store>(desk: Arc<Desk<S>>) -> Router {
    Router::new()
        .route("/", get(home::<S>))
        .route("/sign-in", get(form).post(sign_in::<S>))
        .route("/sign-out", post(sign_out::<S>))
        .route("/jobs", get(jobs::<S>))
        .route("/jobs/events", get(jobs_events::<S>))
        .route("/jobs/{job}", get(job::<S>))
        .route("/jobs/{job}/events", get(job_events::<S>))
        .route("/jobs/{job}/subjects/{subject}", get(course::<S>))
        .route("/subjects", get(subjects::<S>))
        .route("/subjects/{subject}", get(subject::<S>))
        .route("/fleet", get(fleet::<S>))
        .route("/fleet/events", get(fleet_events::<S>))
        .route("/tenants", get(tenants::<S>))
        .route("/objects/{*key}", get(picture::object::<S>))
        .route("/assets/{version}/{name}", get(assets::file))
        .fallback(async || Oops::NotFound)
        .layer(from_fn_with_state(Arc::clone(&desk), guard::guard::<S>))
        .with_state(desk)
}

type Asked<S> = State<Arc<Desk<S>>>;
type Page = Result<Markup, Oops>;

async fn home<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Result<Redirect, Oops> {
    let mut last = Oops::SignIn;
    for (method, place) in FIRST {
        match desk.visitor(&headers, method).await {
            Ok(_visitor) => return Ok(Redirect::to(place)),
            Err(oops) => last = oops,
        }
    }
    Err(last)
}

async fn form() -> Markup {
    views::sign_in(None)
}

async fn sign_in<S: Store>(State(desk): Asked<S>, request: Request) -> Response {
    match begin(&desk, request).await {
        Ok(response) => response,
        Err(Oops::Refused(refusal)) => {
            let status = match refusal.code {
                ErrorCode::Unauthenticated | ErrorCode::Forbidden => StatusCode::UNAUTHORIZED,
                ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
                _other => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, views::sign_in(Some(&refusal.message))).into_response()
        }
        Err(other) => other.into_response(),
    }
}

async fn begin<S: Store>(desk: &Desk<S>, request: Request) -> Result<Response, Oops> {
    own(request.headers())?;
    let unread = || Oops::Refused(Refusal::invalid("the form came incomplete or is too long; send it again"));
    let body = timeout(desk.shared().limits.first_call, to_bytes(request.into_body(), FORM)).await;
    let body = body.map_err(|_late| unread())?.map_err(|_broken| unread())?;
    let token = form_urlencoded::parse(&body).find(|(name, _)| name == "token").map(|(_, token)| token);
    let token = Secret::new(&token.unwrap_or_default());
    let token = token.map_err(|error| Oops::Refused(Refusal::invalid(error.to_string())))?;
    // A refusal to sign in is told in the form: it is no reason to be sent to it.
    let opened = desk.first(&token, &FIRST.map(|(method, _)| method)).await.map_err(Oops::Refused)?;
    let place = FIRST.iter().find(|(method, _)| *method == opened).map_or("/", |(_, place)| place);
    let cookie = desk.sessions.begin(&token, desk.gate.clock.now()).map_err(Oops::Refused)?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(place)).into_response())
}

async fn sign_out<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Result<Response, Oops> {
    own(&headers)?;
    desk.sign_out(&headers).await?;
    // Pictures that were seen go with the session.
    let forget = (HeaderName::from_static("clear-site-data"), "\"cache\"".parse().expect("it may stand in a header"));
    let ended = [(header::SET_COOKIE, desk.sessions.end()), forget];
    Ok((ended, Redirect::to("/sign-in")).into_response())
}

/// Refuses a form that another site's page sent. Browsers say where it is from; whoever says neither is none.
fn own(headers: &HeaderMap) -> Result<(), Oops> {
    let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_own = match (said("sec-fetch-site"), said("origin"), said("host")) {
        (Some(site), ..) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        (None, ..) => false,
    };
    if is_own { Ok(()) } else { Err(Oops::Foreign) }
}

fn frame<'a>(visitor: &'a Visitor, title: &'a str, section: Section) -> Frame<'a> {
    Frame { title, section, access: Some(&visitor.access), events: None }
}

async fn jobs<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Page {
    let visitor = desk.visitor(&headers, may::LIST_JOBS).await?;
    let jobs = desk.shared().store.jobs(visitor.tenant()?, JOBS).await?;
    let frame = Frame { events: Some("/jobs/events".into()), ..frame(&visitor, "Jobs", Section::Jobs) };
    Ok(views::jobs(frame, &jobs))
}

async fn jobs_events<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Response {
    watched(&desk, &headers, may::LIST_JOBS, async |visitor| {
        Ok(events::of_jobs(desk.shared(), visitor.tenant()?, JOBS))
    })
    .await
}

async fn job<S: Store>(State(desk): Asked<S>, headers: HeaderMap, Path(id): Path<String>) -> Page {
    let visitor = desk.visitor(&headers, may::GET_JOB).await?;
    let job = desk.shared().store.job(visitor.tenant()?, id.parse()?).await?;
    let mut shown = Vec::new();
    if job.subjects.len() <= INLINE {
        for index in 0..job.subjects.len() {
            shown.push(seen(&desk, &visitor, &job, index).await?);
        }
    }
    let frame = Frame { events: views::job_events(&job), ..frame(&visitor, "Job", Section::Jobs) };
    Ok(views::job(frame, &job, &shown))
}

async fn course<S: Store>(State(desk): Asked<S>, headers: HeaderMap, Path((id, name)): Path<(String, String)>) -> Page {
    let visitor = desk.visitor(&headers, may::GET_JOB).await?;
    let job = desk.shared().store.job(visitor.tenant()?, id.parse()?).await?;
    let index = job.subjects.iter().position(|subject| subject.subject == name).ok_or(Oops::NotFound)?;
    let seen = seen(&desk, &visitor, &job, index).await?;
    let frame = Frame { events: views::job_events(&job), ..frame(&visitor, &name, Section::Jobs) };
    Ok(views::course(frame, &job, &seen))
}

/// All that there is to see of a subject of a job. Its photos may be gone.
async fn seen<S: Store>(
    desk: &Desk<S>,
    visitor: &Visitor,
    job: &likeness_proto::v1::Job,
    index: usize,
) -> Result<views::Seen, Oops> {
    let (store, tenant) = (&desk.shared().store, visitor.tenant()?);
    let progress = job.subjects[index].clone();
    let (id, name): (JobId, SubjectName) = (job.id.parse()?, progress.subject.parse()?);
    let photos = match store.subject(tenant, &name).await {
        Ok(subject) => subject.photos,
        Err(StoreError::Refused(refusal)) if refusal.code == ErrorCode::UnknownSubject => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let losses = store.losses(tenant, id, &name).await?;
    Ok(views::Seen { progress, photos, losses })
}

async fn job_events<S: Store>(
    State(desk): Asked<S>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let since = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "since");
    let since = since.and_then(|(_, revision)| revision.parse().ok()).unwrap_or(0);
    watched(&desk, &headers, may::WATCH_JOB, async |visitor| {
        Ok(events::of_job(desk.shared(), visitor.tenant()?, id.parse()?, since).await?)
    })
    .await
}

/// A stream of events, which ends when the visitor may see them no longer.
async fn watched<S: Store>(
    desk: &Desk<S>,
    headers: &HeaderMap,
    method: &'static str,
    beats: impl AsyncFnOnce(&Visitor) -> Result<Beats, Oops>,
) -> Response {
    let visitor = match desk.visitor(headers, method).await {
        Ok(visitor) => visitor,
        Err(oops) => return oops.bare(),
    };
    match beats(&visitor).await {
        Ok(beats) => events::stream(beats, desk.end(&visitor, method, None), desk.shared().shutdown.clone()),
        Err(oops) => oops.bare(),
    }
}

async fn subjects<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Page {
    let visitor = desk.visitor(&headers, may::LIST_SUBJECTS).await?;
    let subjects = desk.shared().store.subjects(visitor.tenant()?).await?;
    Ok(views::subjects(frame(&visitor, "Subjects", Section::Subjects), &subjects))
}

async fn subject<S: Store>(State(desk): Asked<S>, headers: HeaderMap, Path(name): Path<String>) -> Page {
    let visitor = desk.visitor(&headers, may::GET_SUBJECT).await?;
    let subject = desk.shared().store.subject(visitor.tenant()?, &name.parse()?).await?;
    Ok(views::subject(frame(&visitor, &name, Section::Subjects), &subject))
}

/// The whole fleet to administrators; to others, what it does of their own.
async fn onlooker<S: Store>(desk: &Desk<S>, headers: &HeaderMap) -> Result<(Visitor, &'static str), Oops> {
    match desk.visitor(headers, may::FLEET).await {
        Ok(visitor) => Ok((visitor, may::FLEET)),
        Err(Oops::Refused(refusal)) if refusal.code == ErrorCode::Forbidden => {
            Ok((desk.visitor(headers, may::WORK).await?, may::WORK))
        }
        Err(oops) => Err(oops),
    }
}

async fn fleet<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Page {
    let (visitor, method) = onlooker(&desk, &headers).await?;
    let of = if method == may::FLEET { None } else { Some(visitor.tenant()?) };
    let roster = desk.shared().store.roster(of).await?;
    let frame = Frame { events: Some("/fleet/events".into()), ..frame(&visitor, "Fleet", Section::Fleet) };
    Ok(match of {
        None => views::fleet(frame, &roster),
        Some(_) => views::work(frame, &roster.held),
    })
}

async fn fleet_events<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Response {
    match onlooker(&desk, &headers).await {
        Ok((_, method)) => watched(&desk, &headers, method, async |_| Ok(events::of_fleet())).await,
        Err(oops) => oops.bare(),
    }
}

async fn tenants<S: Store>(State(desk): Asked<S>, headers: HeaderMap) -> Page {
    let visitor = desk.visitor(&headers, may::LIST_TENANTS).await?;
    let tenants = desk.shared().store.tenants().await?;
    Ok(views::tenants(frame(&visitor, "Tenants", Section::Tenants), &tenants))
}
