//! Softmax attention of one head, block by block (Dao et al. 2022, arXiv 2205.14135): the scores of a few queries and keys exist at
//! a time, within the cache.
//!
//! Scores lie transposed, a row for each key: so a register holds those of sixteen queries, softmax goes down the rows without a sum
//! across lanes, and a block is a panel of the next product as it lies. Lanes beyond the last query hold scores of zeros, which
//! nobody reads.

use std::ops::Range;

use super::super::gemm::{Matrix, Write, product};
use super::super::kernel::{LANES, Strip};
use super::super::panels::{Panels, pack, transposed};
use super::super::scratch::Scratch;
use super::super::simd::{exp, sum2, vectorised};

/// Queries of a block. An odd number of panels, so that the rows of a panel do not meet in a few sets of the first cache.
pub(super) const QUERIES: usize = 5 * LANES;
/// Queries that are taken at a time at most.
pub(super) const MOST: usize = 4 * QUERIES;
/// Keys of a block: its scores, and those of its gradient, fit into the second cache beside what they are made of.
const KEYS: usize = 120;

/// Keys and values of a head, and what is done with them.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// `(keys, dim)`.
    pub(super) k: Matrix<'a>,
    /// `(keys, dim)`.
    pub(super) v: Matrix<'a>,
    /// What [`turn`] makes of the values for [`Self::attend`], of the keys for [`Self::back`].
    pub(super) turned: &'a [f32],
    /// Factor of the scores.
    pub(super) scale: f32,
    /// True if a query sees no later key.
    pub(super) causal: bool,
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Buffers {
    q: Scratch,
    g: Scratch,
    scores: Scratch,
    slopes: Scratch,
    sums: Scratch,
    /// Queries and their gradients, of each block.
    q_panels: [Panels; MOST / QUERIES],
    g_panels: [Panels; MOST / QUERIES],
}

/// What is kept of each query, a lane for each.
type Lanes = [f32; MOST];

impl Head<'_> {
    /// Writes what queries `q` `(at most MOST, dim)`, the first of which is number `first`, see. The logarithms of the sums of e^score
    /// go to `levels`.
    pub(super) fn attend(
        &self,
        buffers: &mut Buffers,
        (q, first): (Matrix<'_>, usize),
        out: &mut [f32],
        levels: &mut [f32],
    ) {
        let (count, dim) = q.sizes();
        let q = columns(&mut buffers.q, q);
        let sums = buffers.sums.values(q.len());
        let (mut largest, mut totals, mut factors): (Lanes, Lanes, Lanes) =
            ([f32::NEG_INFINITY; MOST], [0.0; MOST], [0.0; MOST]);
        for (keys, queries) in self.blocks(first, count) {
            let lanes = lanes(&queries);
            let wide = lanes.len();
            let own = lanes.start * dim..lanes.end * dim;
            let scores = self.scores(&mut buffers.scores, self.k, self.scale, &q[own.clone()], &keys);
            self.hide(scores, wide, first + queries.start, &keys, f32::NEG_INFINITY);
            soften(scores, &mut largest[lanes.clone()], &mut totals[lanes.clone()], &mut factors[lanes.clone()]);
            self.hide(scores, wide, first + queries.start, &keys, 0.0);
            let (begun, seen) = (keys.start > 0, self.turned(&keys));
            let factors = factors[lanes].chunks_exact(LANES);
            for (panel, (sums, factors)) in sums[own].chunks_exact_mut(dim * LANES).zip(factors).enumerate() {
                if begun {
                    scale_rows(sums, factors);
                }
                strip(sums, LANES, begun, 1.0, seen, (&scores[panel * LANES..], wide));
            }
        }
        for query in 0..count {
            put(&mut out[query * dim..][..dim], sums, query, 1.0 / totals[query]);
            levels[query] = largest[query] + totals[query].ln();
        }
    }

    /// Gradients of queries `q`, as [`Self::attend`] had them, to `dq` `(count, dim)`; of keys and values, added to `dk` and `dv`
    /// `(keys, dim)`. `g` is the gradient of what the queries saw, `saw`.
    ///
    /// With P the attention weights and dP = g · vᵀ: dS = P ∘ (dP - rowsum(g ∘ saw)); dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·g.
    pub(super) fn back(
        &self,
        buffers: &mut Buffers,
        (q, first): (Matrix<'_>, usize),
        (g, saw): (Matrix<'_>, Matrix<'_>),
        levels: &[f32],
        (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let (count, dim) = q.sizes();
        let (mut level, mut share): (Lanes, Lanes) = ([0.0; MOST], [0.0; MOST]);
        level[..count].copy_from_slice(&levels[..count]);
        for (query, share) in share[..count].iter_mut().enumerate() {
            *share = sum2(g.row(query), saw.row(query), |g, saw| g * saw);
        }
        for (block, first) in (0..count).step_by(QUERIES).enumerate() {
            buffers.q_panels[block].fill(q.lines(first, QUERIES.min(count - first)));
            buffers.g_panels[block].fill(g.lines(first, QUERIES.min(count - first)));
        }
        let (q_turned, g_turned) = (columns(&mut buffers.q, q), columns(&mut buffers.g, g));
        let sums = buffers.sums.values(q_turned.len());
        for (keys, queries) in self.blocks(first, count) {
            let lanes = lanes(&queries);
            let wide = lanes.len();
            let own = lanes.start * dim..lanes.end * dim;
            let scores = self.scores(&mut buffers.scores, self.k, self.scale, &q_turned[own.clone()], &keys);
            let slopes = self.scores(&mut buffers.slopes, self.v, 1.0, &g_turned[own.clone()], &keys);
            slope(scores, slopes, &level[lanes.clone()], &share[lanes]);
            self.hide(scores, wide, first + queries.start, &keys, 0.0);
            self.hide(slopes, wide, first + queries.start, &keys, 0.0);
            let (of, block) = (keys.start * dim..keys.end * dim, queries.start / QUERIES);
            let rows = |values| Matrix::strided(values, keys.len(), queries.len(), wide);
            product(&mut dv[of.clone()], dim, Write::Add, 1.0, rows(scores), &buffers.g_panels[block]);
            product(&mut dk[of], dim, Write::Add, self.scale, rows(slopes), &buffers.q_panels[block]);
            let (begun, seen) = (keys.start > 0, self.turned(&keys));
            for (panel, sums) in sums[own].chunks_exact_mut(dim * LANES).enumerate() {
                strip(sums, LANES, begun, self.scale, seen, (&slopes[panel * LANES..], wide));
            }
        }
        for (query, row) in dq.chunks_exact_mut(dim).enumerate() {
            put(row, sums, query, 1.0);
        }
    }

    /// Blocks of keys, each with all blocks of `count` queries from number `first` on that see any of them: so keys are read once for
    /// many queries.
    fn blocks(&self, first: usize, count: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let ((keys, _), causal) = (self.k.sizes(), self.causal);
        let cut = |all: usize, by: usize| (0..all).step_by(by).map(move |start| start..all.min(start + by));
        let pairs =
            cut(keys, KEYS).flat_map(move |keys| cut(count, QUERIES).map(move |queries| (keys.clone(), queries)));
        pairs.filter(move |(keys, queries)| !causal || keys.start < first + queries.end)
    }

    /// The transpose of a block, `(dim, keys)`.
    fn turned(&self, keys: &Range<usize>) -> Matrix<'_> {
        let (all, dim) = self.k.sizes();
        let pitch = KEYS.min(all - keys.start);
        Matrix::strided(&self.turned[keys.start * dim..], dim, keys.len(), pitch)
    }

    /// `scale · of · panels` for the rows `keys` of `of`: a row for each key.
    fn scores<'b>(
        &self,
        room: &'b mut Scratch,
        of: Matrix<'_>,
        scale: f32,
        panels: &[f32],
        keys: &Range<usize>,
    ) -> &'b mut [f32] {
        let (_, dim) = of.sizes();
        let wide = panels.len() / dim;
        let (scores, rows) = (room.values(keys.len() * wide), of.lines(keys.start, keys.len()));
        for (panel, values) in panels.chunks_exact(dim * LANES).enumerate() {
            strip(&mut scores[panel * LANES..], wide, false, scale, rows, (values, LANES));
        }
        scores
    }

    /// Replaces what stands for keys that a query does not see.
    fn hide(&self, scores: &mut [f32], wide: usize, first: usize, keys: &Range<usize>, by: f32) {
        if self.causal {
            for (key, row) in keys.clone().zip(scores.chunks_exact_mut(wide)) {
                row[..key.saturating_sub(first).min(wide)].fill(by);
            }
        }
    }
}

/// Writes keys or values `(keys, dim)` transposed, block by block: the products of a block read it along its rows, since two sides
/// that are both read across theirs were seen to take a third longer.
pub(super) fn turn(out: &mut [f32], rows: Matrix<'_>) {
    let (_, dim) = rows.sizes();
    for (block, out) in out.chunks_mut(KEYS * dim).enumerate() {
        transposed(out, rows.lines(block * KEYS, out.len() / dim));
    }
}

/// Lanes of a block of queries: whole panels.
fn lanes(queries: &Range<usize>) -> Range<usize> {
    queries.start..queries.end.next_multiple_of(LANES)
}

/// The transpose of rows as panels, `(panels, dim, LANES)`.
fn columns<'a>(room: &'a mut Scratch, rows: Matrix<'_>) -> &'a [f32] {
    let (count, dim) = rows.sizes();
    let values = room.values(count.next_multiple_of(LANES) * dim);
    for (panel, values) in values.chunks_exact_mut(dim * LANES).enumerate() {
        pack(values, rows.transposed(), panel, 0..dim);
    }
    values
}

/// `out (+)= scale · lhs · panel`, with [`LANES`] columns, added to what has `begun`; the panel has a row every so many values.
fn strip(out: &mut [f32], stride: usize, begun: bool, scale: f32, lhs: Matrix<'_>, (panel, pitch): (&[f32], usize)) {
    let into = if begun { Write::Add } else { Write::Replace };
    Strip { out, stride, width: LANES, into, scale, lhs, panel, pitch, next: &[] }.run();
}

/// Writes column `query` of `panels` `(panels, dim, LANES)`, times `factor`.
fn put(row: &mut [f32], panels: &[f32], query: usize, factor: f32) {
    let panel = &panels[query / LANES * row.len() * LANES..];
    for (out, values) in row.iter_mut().zip(panel.chunks_exact(LANES)) {
        *out = values[query % LANES] * factor;
    }
}

vectorised! {
    /// Replaces scores, a row for each key, by e^(score - largest), with the largest of each column so far. To `totals` of columns
    /// before, and whatever else was summed of them, belong `factors` from now on.
    fn soften(scores: &mut [f32], largest: &mut [f32], totals: &mut [f32], factors: &mut [f32]) {
        let wide = largest.len();
        let (totals, factors) = (totals.as_chunks_mut::<LANES>().0, factors.as_chunks_mut::<LANES>().0);
        let columns = largest.as_chunks_mut::<LANES>().0.iter_mut().zip(totals).zip(factors);
        for (panel, ((largest, totals), factors)) in columns.enumerate() {
            // In registers, all the way down.
            let (mut most, mut total): ([f32; LANES], [f32; LANES]) = (*largest, *totals);
            for row in scores.chunks_exact(wide) {
                let row = &row[panel * LANES..][..LANES];
                for i in 0..LANES {
                    most[i] = if row[i] > most[i] { row[i] } else { most[i] };
                }
            }
            for i in 0..LANES {
                factors[i] = exp(largest[i] - most[i]);
                total[i] *= factors[i];
            }
            for row in scores.chunks_exact_mut(wide) {
                let row = &mut row[panel * LANES..][..LANES];
                for i in 0..LANES {
                    row[i] = exp(row[i] - most[i]);
                    total[i] += row[i];
                }
            }
            (*largest, *totals) = (most, total);
        }
    }

    /// Turns scores into attention weights, and the gradients of those into the gradients of scores.
    fn slope(scores: &mut [f32], slopes: &mut [f32], levels: &[f32], shares: &[f32]) {
        let wide = levels.len();
        let columns = levels.as_chunks::<LANES>().0.iter().zip(shares.as_chunks::<LANES>().0);
        for (panel, (levels, shares)) in columns.enumerate() {
            for (scores, slopes) in scores.chunks_exact_mut(wide).zip(slopes.chunks_exact_mut(wide)) {
                let (scores, slopes) = (&mut scores[panel * LANES..][..LANES], &mut slopes[panel * LANES..][..LANES]);
                for i in 0..LANES {
                    scores[i] = exp(scores[i] - levels[i]);
                    slopes[i] = scores[i] * (slopes[i] - shares[i]);
                }
            }
        }
    }

    fn scale_rows(rows: &mut [f32], factors: &[f32]) {
        for row in rows.as_chunks_mut::<LANES>().0 {
            for i in 0..LANES {
                row[i] *= factors[i];
            }
        }
    }
}
