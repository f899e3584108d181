//! The frozen kernels. A weight is captured by its op instead of being an argument of it, so that the backward pass
//! computes gradients of activations only.
//!
//! Activations are f32 and token-major: `(b, h, w, c)` for pictures, `(b, n, c)` for tokens; so a 1×1 convolution is a
//! linear layer and attention needs no transposes. Work is cut into pieces of a size that does not depend on the number
//! of threads, and every sum over pieces runs in their order: results are the same on any machine with the same kernels.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod composed;
pub(crate) mod conv;
mod fresh;
pub(crate) mod gemm;
pub(crate) mod glue;
pub(crate) mod group_norm;
mod kernel;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod panels;
mod patches;
mod scratch;
pub(crate) mod simd;
pub(crate) mod tape;
pub(crate) mod winograd;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// The values behind a contiguous f32 argument of an op.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("frozen ops read contiguous tensors, not one of layout {layout:?}"),
        _ => bail!("frozen ops read f32"),
    }
}

/// The tensors of an op that was loaded for a place without kernels.
fn placed<T>(tensors: Option<&T>) -> Result<&T> {
    match tensors {
        Some(tensors) => Ok(tensors),
        None => bail!("a frozen op that was loaded for f32 on the CPU was given something else"),
    }
}

/// The values of a contiguous tensor outside the graph, as a vector.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
