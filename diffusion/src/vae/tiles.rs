//! A large picture from small ones that overlap.

use candle_core::{Result, Tensor, bail};

/// Overlapping squares of latents.
pub(super) struct Tiles {
    /// Latents along a side.
    side: usize,
    /// Latents from one to the next: the overlap is a quarter.
    stride: usize,
    /// Pixels per latent along a side.
    factor: usize,
}

impl Tiles {
    pub(super) fn new(side: usize, factor: usize) -> Result<Self> {
        match side > 0 && side.is_multiple_of(4) {
            true => Ok(Self { side, stride: side / 4 * 3, factor }),
            false => bail!("tiles of {side} latents cannot overlap by a quarter: a multiple of 4 is wanted"),
        }
    }

    /// Pixels `(1, 3, h·factor, w·factor)` of latents `(1, c, h, w)`, each tile of which is decoded by itself. Where two
    /// overlap, the picture passes from one to the other. Holds two rows of tiles at a time.
    pub(super) fn join(&self, latents: &Tensor, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (_, _, h, w) = latents.dims4()?;
        let (mut rows, mut above): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new());
        for y in (0..h).step_by(self.stride) {
            let strip = latents.narrow(2, y, self.side.min(h - y))?;
            let mut row: Vec<Tensor> = Vec::new();
            for (column, x) in (0..w).step_by(self.stride).enumerate() {
                let mut tile = decode(&strip.narrow(3, x, self.side.min(w - x))?)?;
                if let Some(above) = above.get(column) {
                    tile = self.blend(above, &tile, 2)?;
                }
                if let Some(left) = row.last() {
                    tile = self.blend(left, &tile, 3)?;
                }
                row.push(tile);
            }
            let shown: Result<Vec<Tensor>> = row.iter().map(|tile| self.shown(tile)).collect();
            rows.push(Tensor::cat(&shown?, 3)?);
            above = row;
        }
        Tensor::cat(&rows, 2)?.contiguous()
    }

    /// `tile`, whose beginning along `dim` passes linearly from the end of `before` to its own.
    fn blend(&self, before: &Tensor, tile: &Tensor, dim: usize) -> Result<Tensor> {
        let (ends, length) = (before.dim(dim)?, tile.dim(dim)?);
        let extent = ((self.side - self.stride) * self.factor).min(ends).min(length);
        let weight = |pixel: usize| pixel as f64 / extent as f64;
        let ramp = |weights: Vec<f32>| {
            let shape: [usize; 4] = std::array::from_fn(|axis| if axis == dim { extent } else { 1 });
            Tensor::from_vec(weights, &shape, tile.device())
        };
        let falling = ramp((0..extent).map(|pixel| (1.0 - weight(pixel)) as f32).collect())?;
        let rising = ramp((0..extent).map(|pixel| weight(pixel) as f32).collect())?;
        let end = before.narrow(dim, ends - extent, extent)?.broadcast_mul(&falling)?;
        let seam = (end + tile.narrow(dim, 0, extent)?.broadcast_mul(&rising)?)?;
        match length - extent {
            0 => Ok(seam),
            rest => Tensor::cat(&[seam, tile.narrow(dim, extent, rest)?], dim),
        }
    }

    /// What of a tile stands in the picture: all before the next one begins.
    fn shown(&self, tile: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = tile.dims4()?;
        let limit = self.stride * self.factor;
        tile.narrow(2, 0, limit.min(h))?.narrow(3, 0, limit.min(w))
    }
}
