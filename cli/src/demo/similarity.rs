//! How alike avatars and photos are, in the base model's own latents.

use crate::exit::{Exit, Failure};
use crate::photos;
use likeness_diffusion::{BaseModel, Device};
use likeness_trainer::{Latents, Photo};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Mean cosines of VAE latents over all pairs of an avatar and a photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// With the subject's own photos.
    pub own: f64,
    /// With the other subjects' photos.
    pub others: f64,
}

/// Compares avatars with the photos in the subject's folder and in the others'. Blocks.
///
/// # Errors
/// [`Exit::Photos`] for a picture that cannot be read.
pub fn similarity(
    model: &BaseModel,
    avatars: &[PathBuf],
    own: &Path,
    others: &[PathBuf],
) -> Result<Similarity, Failure> {
    let drawn = latents(model, avatars)?;
    let mut strangers = Vec::new();
    for folder in others {
        strangers.extend(latents(model, &paths(folder)?)?);
    }
    Ok(Similarity { own: mean_cosine(&drawn, &latents(model, &paths(own)?)?), others: mean_cosine(&drawn, &strangers) })
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    Ok(photos::in_folder(folder)?.into_iter().map(|photo| photo.path).collect())
}

/// Each picture's latents, flattened; read and cut as photos are for learning.
fn latents(model: &BaseModel, pictures: &[PathBuf]) -> Result<Vec<Vec<f32>>, Failure> {
    let photos: Vec<_> = pictures.iter().map(|path| read(path, model.native_size())).collect::<Result<_, _>>()?;
    let latents = Latents::encode(model, &photos, false, &Device::Cpu).map_err(Failure::unexpected)?;
    latents.upright.flatten_from(1).and_then(|rows| rows.to_vec2()).map_err(Failure::unexpected)
}

fn read(path: &Path, side: usize) -> Result<Photo, Failure> {
    let refuse = |error: &dyn Display| {
        Failure::new(Exit::Photos, format!("cannot read the picture {}: {error}", path.display()))
    };
    let bytes = std::fs::read(path).map_err(|error| refuse(&error))?;
    Photo::decode(&path.to_string_lossy(), &bytes, None, side).map_err(|error| refuse(&error))
}

/// Mean over all pairs; 0 without pairs.
fn mean_cosine(left: &[Vec<f32>], right: &[Vec<f32>]) -> f64 {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| cosine(a, b)));
    let (sum, count) = pairs.fold((0.0, 0), |(sum, count), cosine| (sum + cosine, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_is_of_directions() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[0.0, 3.0])).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[-2.0, 0.0]) + 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }

    #[test]
    fn the_mean_is_over_all_pairs() {
        let left = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let right = [vec![1.0, 0.0], vec![-1.0, 0.0], vec![0.0, 1.0]];
        assert!((mean_cosine(&left, &right) - (1.0 - 1.0 + 1.0) / 6.0).abs() < 1e-12);
        assert_eq!(mean_cosine(&left, &[]), 0.0);
    }
}
