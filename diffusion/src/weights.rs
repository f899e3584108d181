//! Reads a component's weights from its safetensors file, by the names that the checkpoint gives them.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::cache::{ModelCache, Shelf};
use crate::error::LoadError;
use crate::model::Computing;
use crate::ops::composed::Place;
use crate::ops::conv::{Arithmetic, Conv3x3, Stride};
use crate::ops::group_norm::{GroupNorm, Then};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::stored::{Float, Joined, Source, Stored, Values};

/// Values of a small network's weights at most: 32 MiB.
pub(crate) const SMALL: usize = 8 << 20;

/// An open safetensors file that remembers which of its tensors were taken.
pub(crate) struct WeightFile<'a> {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
    arithmetic: Arithmetic,
    place: Place,
    taken: Mutex<BTreeSet<String>>,
    cache: Option<&'a ModelCache>,
    shelf: Shelf,
}

/// The name of a component's weight file in `folder`: `stem.safetensors`, else `stem.fp16.safetensors`.
///
/// # Errors
/// [`LoadError::NoFile`] names both.
pub(crate) fn weight_file(folder: &Path, stem: &str) -> Result<String, LoadError> {
    let names = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")];
    let wanted = names.join(" or ");
    let found = names.into_iter().find(|name| folder.join(name).is_file());
    found.ok_or_else(|| LoadError::NoFile { folder: folder.to_owned(), wanted })
}

impl<'a> WeightFile<'a> {
    /// Opens `path` and checks its header against its length. Its layers will compute at `place`, its convolutions as `computing` says.
    /// What is made of it for kernels is looked for and kept in the cache, if there is one.
    pub(crate) fn open(
        path: PathBuf,
        computing: Computing,
        place: &Place,
        cache: Option<&'a ModelCache>,
    ) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        match header(&file, len).map_err(io)? {
            Ok((metadata, data_start)) => {
                let cache = cache.filter(|_| place.has_kernels());
                let tensors = metadata.tensors().len();
                let shelf = cache.map(|cache| cache.shelf(&path, &file, tensors)).unwrap_or_default();
                let arithmetic = computing.arithmetic;
                let (place, taken) = (place.clone(), Mutex::default());
                Ok(Self { path, file, metadata, data_start, arithmetic, place, taken, cache, shelf })
            }
            Err(reason) => Err(LoadError::Corrupt { path, reason }),
        }
    }

    /// The whole file as the outermost scope.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { file: self, prefix: String::new() }
    }

    /// Values of all its tensors.
    pub(crate) fn values(&self) -> usize {
        self.metadata.tensors().values().map(|info| info.shape.iter().product::<usize>()).sum()
    }

    /// True if its weights stay in the cache between two samples, or nearly: then memory is not short, and what there is to do for each
    /// weight counts.
    fn is_small(&self) -> bool {
        self.values() <= SMALL
    }

    /// Checks that every tensor was taken, but for `harmless` ones that old exporters leave behind.
    pub(crate) fn finish(self, harmless: &[&str]) -> Result<(), LoadError> {
        let taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut names: Vec<(String, &TensorInfo)> = self.metadata.tensors().into_iter().collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        match names.into_iter().find(|(name, _)| !taken.contains(name) && !harmless.contains(&name.as_str())) {
            Some((tensor, info)) => {
                Err(LoadError::SurplusTensor { path: self.path.clone(), tensor, found: info.shape.clone() })
            }
            None => {
                if let Some(cache) = self.cache {
                    cache.take_back(self.shelf);
                }
                Ok(())
            }
        }
    }

    /// How a tensor is stored, and where. From now on it is taken.
    fn place(&self, tensor: String, expected: &[usize]) -> Result<(Float, Range<u64>), LoadError> {
        let path = || self.path.clone();
        let Some(info) = self.metadata.info(&tensor) else {
            return Err(LoadError::MissingTensor { path: path(), tensor, expected: expected.to_vec() });
        };
        if info.shape != expected {
            let (expected, found) = (expected.to_vec(), info.shape.clone());
            return Err(LoadError::TensorShape { path: path(), tensor, expected, found });
        }
        let float = match info.dtype {
            Dtype::F32 => Float::F32,
            Dtype::F16 => Float::F16,
            Dtype::BF16 => Float::Bf16,
            other => return Err(LoadError::TensorType { path: path(), tensor, found: format!("{other:?}") }),
        };
        let (start, end) = info.data_offsets;
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(tensor);
        Ok((float, self.data_start + start as u64..self.data_start + end as u64))
    }
}

/// The largest header that is believed.
const MAX_HEADER: u64 = 100 << 20;

/// The header, and where the data begins; or what is wrong. The file is: length of the header in 8 bytes, header, data.
pub(crate) fn header(file: &File, len: u64) -> io::Result<Result<(Metadata, u64), String>> {
    let mut head = [0; 8];
    if len < 8 {
        return Ok(Err(format!("it has {len} bytes, fewer than the length of its header")));
    }
    file.read_exact_at(&mut head, 0)?;
    let size = u64::from_le_bytes(head);
    if size > MAX_HEADER.min(len - 8) {
        return Ok(Err(format!("its header of {size} bytes is larger than the file of {len}")));
    }
    let mut text = vec![0; size as usize];
    file.read_exact_at(&mut text, 8)?;
    let metadata: Metadata = match serde_json::from_slice(&text) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(Err(format!("its header cannot be read: {error}"))),
    };
    let wanted = 8 + size + metadata.data_len() as u64;
    Ok(if wanted == len {
        Ok((metadata, 8 + size))
    } else {
        Err(format!("it has {len} bytes, its header says {wanted}"))
    })
}

/// A place in the tree of names: `pp` goes down, as in the checkpoint.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    file: &'a WeightFile<'a>,
    prefix: String,
}

impl Scope<'_> {
    /// The scope `part` below this one.
    pub(crate) fn pp(&self, part: impl Display) -> Self {
        Self { file: self.file, prefix: format!("{}{part}.", self.prefix) }
    }

    /// True if tensor `name` exists here.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.metadata.info(&format!("{}{name}", self.prefix)).is_some()
    }

    /// A tensor that is left in the file for now.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, LoadError> {
        let (float, bytes) = self.file.place(format!("{}{name}", self.prefix), shape)?;
        let WeightFile { file, shelf, .. } = self.file;
        Ok(Stored { file, bytes, float, widened: self.file.is_small(), shelf })
    }

    fn unread(&self) -> impl Fn(io::Error) -> LoadError {
        let path = self.file.path.clone();
        move |source| LoadError::Io { path: path.clone(), source }
    }

    /// Takes a tensor in the precision of the file.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
        Values::read(&self.stored(name, shape)?).map_err(self.unread())
    }

    /// Takes a small tensor as f32.
    pub(crate) fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let mut values = vec![0.0; shape.iter().product()];
        self.stored(name, shape)?.read(0, &mut values).map_err(self.unread())?;
        Ok(values)
    }

    /// A linear layer with a bias.
    pub(crate) fn linear(&self, inputs: usize, outputs: usize) -> Result<Linear, LoadError> {
        let bias = self.take("bias", &[outputs])?;
        self.layer(&self.stored("weight", &[outputs, inputs])?, Some(bias), inputs, outputs)
    }

    /// A 1×1 convolution with a bias, which is a linear layer over channels.
    pub(crate) fn pointwise(&self, inputs: usize, outputs: usize) -> Result<Linear, LoadError> {
        let bias = self.take("bias", &[outputs])?;
        self.layer(&self.stored("weight", &[outputs, inputs, 1, 1])?, Some(bias), inputs, outputs)
    }

    /// The linear layers `names` of one input as a single layer, their outputs of `each` channels side by side.
    pub(crate) fn fused(&self, names: &[&str], inputs: usize, each: usize, bias: bool) -> Result<Linear, LoadError> {
        let parts: Vec<_> = names.iter().map(|name| self.pp(name)).collect();
        let weights: Result<Vec<_>, _> = parts.iter().map(|part| part.stored("weight", &[each, inputs])).collect();
        let biases: Result<Vec<_>, _> = parts.iter().filter(|_| bias).map(|part| part.take("bias", &[each])).collect();
        let bias = bias.then_some(biases?.concat());
        self.layer(&Joined(weights?), bias, inputs, names.len() * each)
    }

    fn layer(
        &self,
        weight: &impl Source,
        bias: Option<Vec<f32>>,
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, LoadError> {
        match self.elsewhere() {
            None => Linear::new(weight, bias, inputs, outputs).map_err(self.unread()),
            Some(place) => Linear::at(place, self.whole(weight)?, bias, inputs).map_err(self.unplaced()),
        }
    }

    /// The place of the weights if it has no kernels.
    fn elsewhere(&self) -> Option<&Place> {
        Some(&self.file.place).filter(|place| !place.has_kernels())
    }

    fn whole(&self, weight: &impl Source) -> Result<Vec<f32>, LoadError> {
        let mut values = vec![0.0; weight.len()];
        weight.read(0, &mut values).map_err(self.unread())?;
        Ok(values)
    }

    fn unplaced(&self) -> impl Fn(candle_core::Error) -> LoadError {
        let path = self.file.path.clone();
        move |source| LoadError::Device { path: path.clone(), source }
    }

    /// A 3×3 convolution with a bias.
    pub(crate) fn conv(&self, inputs: usize, outputs: usize, stride: Stride) -> Result<Conv3x3, LoadError> {
        let (weight, bias) = (self.stored("weight", &[outputs, inputs, 3, 3])?, self.take("bias", &[outputs])?);
        let channels = (inputs, outputs);
        match self.elsewhere() {
            None => Conv3x3::new(&weight, bias, channels, stride, self.file.arithmetic).map_err(self.unread()),
            Some(place) => Conv3x3::at(place, self.whole(&weight)?, bias, channels, stride).map_err(self.unplaced()),
        }
    }

    /// A layer norm.
    pub(crate) fn layer_norm(&self, width: usize, epsilon: f64) -> Result<LayerNorm, LoadError> {
        let norm = LayerNorm::new(self.take("weight", &[width])?, self.take("bias", &[width])?, epsilon);
        self.elsewhere().map_or(Ok(norm.clone()), |place| norm.at(place)).map_err(self.unplaced())
    }

    /// A group norm; the configuration has been checked, so that `groups` divides `width`.
    pub(crate) fn group_norm(&self, width: usize, groups: Groups, then: Then) -> Result<GroupNorm, LoadError> {
        let (weight, bias) = (self.take("weight", &[width])?, self.take("bias", &[width])?);
        let norm = GroupNorm::new(weight, bias, groups.count, groups.epsilon, then);
        self.elsewhere().map_or(Ok(norm.clone()), |place| norm.at(place)).map_err(self.unplaced())
    }
}

/// What all group norms of a component share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// Groups of channels.
    pub(crate) count: usize,
    /// Added to the variance.
    pub(crate) epsilon: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use safetensors::tensor::TensorView;

    fn written(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let views: Vec<_> =
            tensors.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.clone(), b).unwrap())).collect();
        safetensors::serialize_to_file(views, None, &path).unwrap();
        (dir, path)
    }

    fn example() -> (tempfile::TempDir, PathBuf) {
        let f32s = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s = [f16::from_f32(0.25)].iter().flat_map(|x| x.to_le_bytes()).collect();
        let bf16s = [bf16::from_f32(-8.0)].iter().flat_map(|x| x.to_le_bytes()).collect();
        written(&[
            ("a.b.weight", Dtype::F32, vec![1, 2], f32s),
            ("a.b.bias", Dtype::F16, vec![1], f16s),
            ("c", Dtype::BF16, vec![1], bf16s),
            ("ids", Dtype::I64, vec![1], vec![0; 8]),
        ])
    }

    #[test]
    fn all_three_float_types_are_read_by_their_full_names() {
        let (_dir, path) = example();
        let file = WeightFile::open(path, Computing::default(), &Place::default(), None).unwrap();
        let scope = file.root().pp("a").pp("b");
        assert!(scope.has("weight") && !scope.has("c"));
        assert_eq!(scope.take("weight", &[1, 2]).unwrap(), [1.5, -2.0]);
        assert_eq!(scope.take("bias", &[1]).unwrap(), [0.25]);
        assert_eq!(file.root().take("c", &[1]).unwrap(), [-8.0]);
        file.finish(&["ids"]).unwrap();
    }

    #[test]
    fn missing_surplus_misshapen_and_mistyped_tensors_are_named() {
        let (_dir, path) = example();
        let file = WeightFile::open(path, Computing::default(), &Place::default(), None).unwrap();
        let root = file.root();
        let text = |e: LoadError| e.to_string();
        assert!(text(root.take("a.b.gain", &[3]).unwrap_err()).contains("lacks tensor a.b.gain of shape [3]"));
        let shape = text(root.take("a.b.weight", &[2, 1]).unwrap_err());
        assert!(shape.contains("a.b.weight of shape [1, 2]") && shape.contains("asks for [2, 1]"), "{shape}");
        assert!(text(root.take("ids", &[1]).unwrap_err()).contains("of type I64; accepted: F32, F16, BF16"));
        let surplus = text(file.finish(&["ids"]).unwrap_err());
        assert!(surplus.contains("model.safetensors") && surplus.contains("a.b.bias of shape [1]"), "{surplus}");
    }

    #[test]
    fn truncated_and_garbled_files_are_corrupt() {
        let (_dir, path) = example();
        let bytes = std::fs::read(&path).unwrap();
        for broken in [&bytes[..bytes.len() - 1], &bytes[..20], &[], b"not a safetensors file at all"] {
            std::fs::write(&path, broken).unwrap();
            let error = WeightFile::open(path.clone(), Computing::default(), &Place::default(), None)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains("is corrupt or truncated"), "{error}");
        }
    }

    #[test]
    fn the_half_size_file_stands_in_for_a_missing_plain_one() {
        let dir = tempfile::tempdir().unwrap();
        let missing = weight_file(dir.path(), "model").unwrap_err().to_string();
        assert!(missing.contains("model.safetensors or model.fp16.safetensors"), "{missing}");
        std::fs::write(dir.path().join("model.fp16.safetensors"), "").unwrap();
        assert_eq!(weight_file(dir.path(), "model").unwrap(), "model.fp16.safetensors");
        std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
        assert_eq!(weight_file(dir.path(), "model").unwrap(), "model.safetensors");
    }
}
