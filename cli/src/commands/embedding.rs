//! `embedding`: export a subject's newest one, and say what a file holds.

use super::Context;
use crate::client::download;
use crate::exit::{Exit, Failure};
use crate::view::EmbeddingView;
use likeness_diffusion::{Device, Embedding};
use likeness_proto::ErrorCode;
use serde::Serialize;
use std::path::Path;

/// What an embedding file holds. The facts are those of its header; a file of another program has none.
#[derive(Debug, Serialize)]
struct InspectedView {
    token: String,
    vectors: usize,
    width: usize,
    /// L2 norms of the vectors.
    norms: Vec<f32>,
    facts: Option<FactsView>,
}

#[derive(Debug, Serialize)]
struct FactsView {
    base_model: String,
    base_model_name: String,
    steps: u64,
    loss: f32,
    seed: u64,
    init: String,
    version: String,
}

pub(super) async fn export(context: &Context, subject: &str, out: &Path) -> Result<(), Failure> {
    let client = context.client()?;
    let embedding = client.subject(subject).await?.embedding;
    let (embedding, object) =
        embedding.and_then(|found| found.object.clone().map(|object| (found, object))).ok_or_else(|| {
            let message = format!("subject {subject} has no finished embedding; submit its photos first");
            Failure::refused(ErrorCode::NoEmbedding, message)
        })?;
    download(&client, &object, out).await?;
    context.format.print(&EmbeddingView::from(&embedding), |_| out.display().to_string())
}

pub(super) fn inspect(context: &Context, file: &Path) -> Result<(), Failure> {
    let view = look_into(&read(file)?).map_err(|error| unreadable(file, &error))?;
    context.format.print(&view, page)
}

/// Reads an embedding file.
pub(super) fn read(file: &Path) -> Result<Embedding, Failure> {
    let bytes = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
    Embedding::from_bytes(&bytes, &Device::Cpu).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Embedding, format!("cannot read the embedding {}: {error}", file.display()))
}

fn look_into(embedding: &Embedding) -> Result<InspectedView, candle_core::Error> {
    let (vectors, width) = embedding.rows.dims2()?;
    let facts = embedding.facts.as_ref().map(|facts| FactsView {
        base_model: facts.base_model.to_string(),
        base_model_name: facts.base_model_name.clone(),
        steps: facts.steps,
        loss: facts.loss,
        seed: facts.seed,
        init: facts.init.clone(),
        version: facts.version.clone(),
    });
    let norms = embedding.rows.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
    Ok(InspectedView { token: embedding.token.clone(), vectors, width, norms, facts })
}

fn page(view: &InspectedView) -> String {
    let norms: Vec<_> = view.norms.iter().map(|norm| format!("{norm:.4}")).collect();
    let mut lines = vec![
        format!("token       {}", view.token),
        format!("vectors     {} of width {}", view.vectors, view.width),
        format!("norms       {}", norms.join(", ")),
    ];
    match &view.facts {
        Some(facts) => lines.extend([
            format!("base model  {} ({})", facts.base_model, facts.base_model_name),
            format!("init        {}", facts.init),
            format!("steps       {}", facts.steps),
            format!("loss        {:.4}", facts.loss),
            format!("seed        {}", facts.seed),
            format!("version     {}", facts.version),
        ]),
        None => lines.push("the file does not say which base model it belongs to".to_owned()),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use likeness_diffusion::Tensor;

    #[test]
    fn a_file_tells_its_token_vectors_and_norms() {
        let rows = Tensor::new(&[[3f32, 4.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let view = look_into(&Embedding { token: "<ada>".to_owned(), rows, facts: None }).unwrap();
        assert_eq!((view.vectors, view.width, view.norms.as_slice()), (2, 2, [5.0, 1.0].as_slice()));
        assert!(page(&view).contains("does not say which base model"));
    }

    #[test]
    fn what_is_no_embedding_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not safetensors").unwrap();
        let failure = read(file.path()).unwrap_err();
        assert!(failure.exit == Exit::Embedding && failure.message.contains("cannot read the embedding"), "{failure}");
    }
}
