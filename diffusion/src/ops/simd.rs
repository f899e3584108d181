//! Element-wise arithmetic that the compiler vectorises, and the dispatch that lets it use the processor's widest registers.

/// Defines functions whose bodies are compiled once for each kind of vectors and run with the widest of this processor.
///
/// What a body calls has to be inlined into it, or it is compiled for the vectors that every processor has: so the functions
/// below are all `inline(always)`. A closure cannot be told so, and is left out of line as soon as it is long; a body of its own
/// is why this is no function that takes one.
macro_rules! vectorised {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block)+) => {$(
        $(#[$meta])*
        fn $name($($arg: $type),*) $(-> $output)? {
            #[allow(non_camel_case_types)]
            struct Work<$($arg),*>($($arg),*);

            impl pulp::WithSimd for Work<$($type),*> {
                #[allow(unused_parens)]
                type Output = ($($output)?);

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
                    let Self($($arg),*) = self;
                    $body
                }
            }

            pulp::Arch::new().dispatch(Work($($arg),*))
        }
    )+};
}
pub(crate) use vectorised;

const LANES: usize = 16;

/// The sum of all lanes, pair by pair: as a chain it takes longer than what it ends.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[width + i];
        }
    }
    lanes[0]
}

/// `Σ f(a, b)` over two slices of one length, in 16 interleaved partial sums.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    total(lanes) + tail
}

/// `Σ f(x)` over a slice, in 16 interleaved partial sums.
#[inline(always)]
pub(crate) fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(xs, xs, |x, _| f(x))
}

/// eˣ within 2 ulp for x in [-87, 88], saturating beyond; NaN stays NaN. Cephes' polynomial after reduction by ln 2.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5e-1);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p.mul_add(r * r, r) + 1.0) * power
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, within 4 ulp: Eigen's rational approximation on [-4, 4].
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_3e-10f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_4e-5);
    let p = p.mul_add(s, -7.349_906e-4);
    let p = p.mul_add(s, -2.954_6e-3);
    let p = p.mul_add(s, -1.609_603_3e-2);
    let q = -1.456_607_2e-5f32;
    let q = q.mul_add(s, -2.133_740_6e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329e-3);
    let q = q.mul_add(s, -1.426_473_9e-2);
    x * p / q
}

/// Standard normal distribution function.
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Standard normal density.
#[inline(always)]
pub(crate) fn normal_pdf(x: f32) -> f32 {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    INV_SQRT_TAU * exp(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_f64() {
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - want) / want).abs() < 2.4e-7, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e9) < 1e-37);
    }

    #[test]
    fn erf_matches_candle() {
        let xs: Vec<f32> = (-5000..5000).map(|i| i as f32 * 1e-3).collect();
        let want = candle_core::Tensor::new(xs.as_slice(), &candle_core::Device::Cpu).unwrap().erf().unwrap();
        for (x, want) in xs.iter().zip(want.to_vec1::<f32>().unwrap()) {
            assert!((erf(*x) - want).abs() < 5e-7, "erf({x}) = {}, want {want}", erf(*x));
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_reach_the_tail() {
        let xs: Vec<f32> = (1..=37).map(|i| i as f32).collect();
        assert_eq!(sum(&xs, |x| x), 703.0);
        assert_eq!(sum2(&xs, &xs, |a, b| a * b), 17575.0);
    }
}
