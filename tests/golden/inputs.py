"""Inputs that the goldens do not store, because both sides can compute them."""

import numpy as np
import torch


def noise(seed, *shape):
    """Uniform noise of mean 0 and variance 1 in f32: splitmix64 of (seed << 32) + flat index, top 24 bits.

    The Rust side is `golden::noise` in diffusion/src/golden.rs; both give the same bits.
    """
    k = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed << 32)
    z = (k + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy(((2 * unit - 1) * np.sqrt(3.0)).astype(np.float32)).reshape(shape)
