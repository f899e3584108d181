//! `demo`: `up` with one bundled subject, from its photos to its avatars, in a state folder that is gone afterwards.

mod loss_plot;
mod output;
mod report;
mod similarity;

pub use loss_plot::plot;
pub use report::Report;
pub use similarity::{Similarity, similarity};

use crate::args::DemoArgs;
use crate::bucket::Address;
use crate::bundle::Bundle;
use crate::client::{Client, Target, Upload, verdict, watch};
use crate::commands::{Context, Fetched, fetch_subject};
use crate::exit::{Exit, Failure};
use crate::packing::{self, Measuring, Ready};
use crate::progress::JobProgress;
use crate::state_dir::StateDir;
use crate::up::{self, Tuning, Up};
use crate::{photos, prompts_file, roles, signals};
use likeness_coordinator::StoreAddress;
use likeness_diffusion::BaseModel;
use likeness_proto::{Capacity, ErrorCode, v1};
use likeness_telemetry::span;
use output::Output;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

const INIT: &str = "person";
/// The bundled pictures show nobody: they were drawn.
const STATEMENT: &str = "The pictures are drawn, of nobody who exists, and licensed CC BY 4.0.";

/// What is shown and what is drawn.
struct Plan {
    subject: String,
    photos: PathBuf,
    others: Vec<PathBuf>,
    train: v1::TrainSpec,
    render: v1::RenderSpec,
}

/// What came of the job.
struct Made {
    job: v1::Job,
    fetched: Fetched,
    curve: v1::LossCurve,
}

/// Runs the demo and prints where its results are.
pub(crate) async fn command(context: &Context, args: &DemoArgs) -> Result<(), Failure> {
    let bundle = Bundle::find()?;
    let plan = plan(&bundle, args)?;
    let output = Output::claim(&args.out)?;
    let shutdown = signals::shutdown()?;
    let ready = packing::load(&context.settings, None, Measuring::Never).await?;
    let report = make(context, &plan, &ready, &output, &shutdown).await?;
    context.format.print(&report, |report| report.page(&args.out))
}

fn plan(bundle: &Bundle, args: &DemoArgs) -> Result<Plan, Failure> {
    let subjects = photos::subjects_in(&bundle.subjects())?;
    let (own, others): (Vec<_>, Vec<_>) = subjects.into_iter().partition(|(name, _)| *name == args.subject);
    let Some((subject, photos)) = own.into_iter().next() else {
        let known: Vec<_> = others.into_iter().map(|(name, _)| name).collect();
        let message = format!("there is no bundled subject {}; there are {}", args.subject, known.join(", "));
        return Err(Failure::refused(ErrorCode::UnknownSubject, message));
    };
    Ok(Plan {
        subject,
        photos,
        others: others.into_iter().map(|(_, folder)| folder).collect(),
        train: args.train.spec(),
        render: prompts_file::read(&args.prompts.clone().unwrap_or_else(|| bundle.prompts()))?,
    })
}

/// Serves, submits, waits, fetches, measures.
async fn make(
    context: &Context,
    plan: &Plan,
    ready: &Ready,
    output: &Output,
    shutdown: &CancellationToken,
) -> Result<Report, Failure> {
    let home = tempfile::Builder::new().prefix("likeness-demo-").tempdir().map_err(Failure::unexpected)?;
    let state = StateDir::at(home.path()).lock()?;
    let token = state.token()?;
    let listener = roles::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr().map_err(Failure::unexpected)?;
    let bucket = Address::Folder(state.dir().bucket());
    let store = StoreAddress::Sqlite(state.dir().store());
    let up = Up { state, store, bucket, ready: ready.clone(), tuning: Tuning::from(&context.settings), page: None };
    let stop = CancellationToken::new();
    let (announce, served) = oneshot::channel();
    let opened = || announce.send(()).map_err(|()| Failure::unexpected("nobody waits for the service"));
    let mut service = pin!(up::serve(up, listener, stop.clone(), opened));

    let client = Client::new(Target::at(address, token)?, context.settings.retry(), context.console.clone());
    let job = async {
        served.await.map_err(Failure::unexpected)?;
        run_job(context, &client, plan, output).instrument(span!("errand", otel.name = "demo")).await
    };
    let made = tokio::select! {
        made = job => made,
        ended = &mut service => return Err(ended.err().unwrap_or_else(|| Failure::unexpected("the service ended early"))),
        () = shutdown.cancelled() => Err(Failure::new(Exit::Interrupted, "the demo was stopped before its end")),
    };
    stop.cancel();
    service.await?;
    finish(plan, &ready.model, output, made?).await
}

/// From the photos to the files.
async fn run_job(context: &Context, client: &Client, plan: &Plan, output: &Output) -> Result<Made, Failure> {
    let consent = v1::Consent {
        attested_by: "likeness demo".to_owned(),
        capacity: Capacity::Licensee.encode(),
        statement: STATEMENT.to_owned(),
    };
    client.put_subject(&Upload::new(&plan.subject, consent, photos::in_folder(&plan.photos)?)?).await?;
    let job = client.submit(&request(plan)).await?;
    let mut progress = JobProgress::new(&context.console);
    let job = watch(client, &job.id, |job| {
        progress.show(job);
        Ok(())
    })
    .await?;
    drop(progress);
    verdict(&job)?;
    let subject = job.subjects.first().ok_or_else(|| Failure::unexpected("the job has no subjects"))?;
    let fetched = fetch_subject(client, subject, output.dir()).await?;
    let curve = client.losses(&job.id, &plan.subject).await?;
    Ok(Made { job, fetched, curve })
}

fn request(plan: &Plan) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        idempotency_key: Uuid::now_v7().to_string(),
        subjects: vec![v1::JobSubject { name: plan.subject.clone(), init: INIT.to_owned() }],
        train: Some(plan.train),
        render: Some(plan.render.clone()),
        ..Default::default()
    }
}

/// Draws the loss curve, measures, and writes the report.
async fn finish(plan: &Plan, model: &Arc<BaseModel>, output: &Output, made: Made) -> Result<Report, Failure> {
    output.write_plot(&made.curve)?;
    let (model, own, others) = (model.clone(), plan.photos.clone(), plan.others.clone());
    let measured = spawn_blocking(move || similarity(&model, &made.fetched.avatars, &own, &others));
    let measured = measured.await.map_err(Failure::unexpected)??;
    let report = Report::of(&made.job, &measured)?;
    output.write_report(&report)?;
    Ok(report)
}
