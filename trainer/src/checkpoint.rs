//! A run's whole state as one safetensors file. There is no generator state in it: what chance decides is a function of
//! the step.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use likeness_proto::Evaluation;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{CheckpointError, optimizer::OptimizerState};

const FORMAT: &str = "likeness-checkpoint-1";

/// Where a run stands: enough to go on to the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u32,
    /// Digest of the base model.
    pub base_model: String,
    /// Digest of what is learned: spec, photos, initial phrase.
    pub run: String,
    /// The optimiser's numbers.
    pub optimizer: OptimizerState,
    /// The best rows so far, row-major `(vectors, width)`.
    pub best: Vec<f32>,
    /// Evaluation loss of the best rows; infinite before the first evaluation.
    pub best_loss: f32,
    /// The step the best rows are of.
    pub best_step: u32,
    /// Every evaluation so far.
    pub evaluations: Vec<Evaluation>,
    /// The training loss of every step.
    pub losses: Vec<f32>,
    /// Seconds of work so far, all attempts.
    pub seconds: f64,
}

impl Checkpoint {
    /// The file's bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when the numbers do not make a file; cannot happen with those of a run.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let losses: Vec<f32> = self.evaluations.iter().map(|e| e.loss).collect();
        let steps: Vec<u8> = self.evaluations.iter().flat_map(|e| e.step.to_le_bytes()).collect();
        let mut floats = vec![
            ("values", &self.optimizer.values),
            ("best", &self.best),
            ("losses", &self.losses),
            ("evaluation_losses", &losses),
        ];
        if let Some((first, second)) = &self.optimizer.moments {
            floats.extend([("first_moment", first), ("second_moment", second)]);
        }
        let mut parts: Vec<_> = floats.into_iter().map(|(name, x)| (name, Dtype::F32, le_bytes(x))).collect();
        parts.push(("evaluation_steps", Dtype::U32, steps));
        let mut views = Vec::new();
        for (name, dtype, bytes) in &parts {
            views.push((*name, TensorView::new(*dtype, vec![bytes.len() / 4], bytes).map_err(damaged)?));
        }
        safetensors::serialize(views, Some(self.header())).map_err(damaged)
    }

    fn header(&self) -> HashMap<String, String> {
        [
            ("format", FORMAT.to_owned()),
            ("step", self.step.to_string()),
            ("base_model", self.base_model.clone()),
            ("run", self.run.clone()),
            ("best_loss", self.best_loss.to_string()),
            ("best_step", self.best_step.to_string()),
            ("seconds", self.seconds.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] says what is missing or wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let header = metadata.metadata().clone().unwrap_or_default();
        let format: String = field(&header, "format")?;
        if format != FORMAT {
            return Err(damaged(format!("format {format:?}, expected {FORMAT:?}")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let floats = |name: &str| column(&file, name, Dtype::F32, f32::from_le_bytes);
        let (steps, losses) =
            (column(&file, "evaluation_steps", Dtype::U32, u32::from_le_bytes)?, floats("evaluation_losses")?);
        let checkpoint = Self {
            step: field(&header, "step")?,
            base_model: field(&header, "base_model")?,
            run: field(&header, "run")?,
            optimizer: OptimizerState {
                values: floats("values")?,
                moments: match file.names().contains(&"first_moment") {
                    true => Some((floats("first_moment")?, floats("second_moment")?)),
                    false => None,
                },
            },
            best: floats("best")?,
            best_loss: field(&header, "best_loss")?,
            best_step: field(&header, "best_step")?,
            evaluations: steps.into_iter().zip(losses).map(|(step, loss)| Evaluation { step, loss }).collect(),
            losses: floats("losses")?,
            seconds: field(&header, "seconds")?,
        };
        match checkpoint.losses.len() == checkpoint.step as usize
            && checkpoint.best.len() == checkpoint.optimizer.values.len()
        {
            true => Ok(checkpoint),
            false => Err(damaged("its parts are of different lengths")),
        }
    }

    /// Refuses a checkpoint of another model or another run.
    ///
    /// # Errors
    /// Names both digests.
    pub fn check(&self, base_model: &str, run: &str) -> Result<(), CheckpointError> {
        if self.base_model != base_model {
            let (checkpoint, loaded) = (self.base_model.clone(), base_model.to_owned());
            return Err(CheckpointError::OtherModel { checkpoint, loaded });
        }
        if self.run != run {
            return Err(CheckpointError::OtherRun { checkpoint: self.run.clone(), run: run.to_owned() });
        }
        Ok(())
    }
}

fn damaged(reason: impl Display) -> CheckpointError {
    CheckpointError::Damaged(reason.to_string())
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn field<T: FromStr>(header: &HashMap<String, String>, key: &str) -> Result<T, CheckpointError> {
    let text = header.get(key).ok_or_else(|| damaged(format!("its header lacks {key}")))?;
    text.parse().map_err(|_| damaged(format!("{key} is {text:?}")))
}

fn column<T>(
    file: &SafeTensors<'_>,
    name: &str,
    dtype: Dtype,
    read: fn([u8; 4]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    let tensor = file.tensor(name).map_err(damaged)?;
    if tensor.dtype() != dtype {
        return Err(damaged(format!("{name} is of type {:?}, expected {dtype:?}", tensor.dtype())));
    }
    let (words, _) = tensor.data().as_chunks::<4>();
    Ok(words.iter().map(|word| read(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            step: 2,
            base_model: "sha256:aa".to_owned(),
            run: "bb".to_owned(),
            optimizer: OptimizerState { values: vec![0.1, -0.2], moments: Some((vec![1e-30, 2.0], vec![3.0, 4.0])) },
            best: vec![0.3, 0.4],
            best_loss: f32::INFINITY,
            best_step: 0,
            evaluations: vec![Evaluation { step: 0, loss: 0.123_456_79 }],
            losses: vec![0.2, 0.1],
            seconds: 1.5,
        }
    }

    #[test]
    fn bytes_round_trip_exactly() {
        let with_moments = checkpoint();
        let mut without = checkpoint();
        without.optimizer.moments = None;
        for it in [with_moments, without] {
            assert_eq!(Checkpoint::from_bytes(&it.to_bytes().unwrap()).unwrap(), it);
        }
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused() {
        let bytes = checkpoint().to_bytes().unwrap();
        for cut in [0, 7, 40, bytes.len() - 1] {
            assert!(matches!(Checkpoint::from_bytes(&bytes[..cut]), Err(CheckpointError::Damaged(_))), "cut to {cut}");
        }
        let foreign = safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), None).unwrap();
        assert!(Checkpoint::from_bytes(&foreign).unwrap_err().to_string().contains("lacks format"));
        let short = Checkpoint { losses: vec![0.2], ..checkpoint() };
        assert!(Checkpoint::from_bytes(&short.to_bytes().unwrap()).unwrap_err().to_string().contains("lengths"));
    }

    #[test]
    fn another_model_or_run_is_refused_with_both_digests() {
        let it = checkpoint();
        it.check("sha256:aa", "bb").unwrap();
        let model = it.check("sha256:cc", "bb").unwrap_err().to_string();
        assert!(model.contains("sha256:aa") && model.contains("sha256:cc"), "{model}");
        let run = it.check("sha256:aa", "dd").unwrap_err().to_string();
        assert!(run.contains("(bb)") && run.contains("(dd)"), "{run}");
    }
}
