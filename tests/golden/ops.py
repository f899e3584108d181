"""Goldens of the frozen ops: values and gradients with respect to their inputs, by PyTorch's own functions and autograd, f32 on the CPU.

`ops.safetensors` holds for each case NAME `NAME.out`, `NAME.x` (gradient with respect to the first input) and, where there are two,
`NAME.y`. Inputs are noise(1, …) and noise(2, …), weights noise(3, …) / √(terms of a sum), biases noise(4, …); the gradient that
comes in is noise(5, …). All shapes are in `ops.json`; pictures are (b, h, w, c) and tokens (b, n, c), as the ops have them.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from inputs import noise

EPSILON = 1e-5


def weight(outputs, inputs, *kernel):
    terms = inputs * int(torch.tensor(kernel).prod()) if kernel else inputs
    return noise(3, outputs, inputs, *kernel) / terms**0.5


def first(x):
    return x.permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1)


def conv(outputs, stride=1, end=False):
    """3×3; `end`: zeros right and below only."""
    def op(x, *residual):
        x = F.pad(first(x), (0, 1, 0, 1)) if end else first(x)
        y = last(F.conv2d(x, weight(outputs, x.shape[1], 3, 3), noise(4, outputs), stride, 0 if end else 1))
        return y + residual[0] if residual else y
    return op


def linear(outputs, bias=True):
    def op(x, *residual):
        y = F.linear(x, weight(outputs, x.shape[-1]), noise(4, outputs) if bias else None)
        return y + residual[0] if residual else y
    return op


def group_norm(groups, silu):
    def op(x):
        c = x.shape[-1]
        y = F.group_norm(first(x), groups, noise(3, c), noise(4, c), EPSILON)
        return last(F.silu(y) if silu else y)
    return op


def attention(heads, causal=False):
    """x: queries, keys and values side by side; or queries, with keys and values in y."""
    def op(x, *y):
        q, k, v = (x, *y[0].chunk(2, -1)) if y else x.chunk(3, -1)
        split = lambda t: t.unflatten(-1, (heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal).transpose(1, 2).flatten(2)
    return op


def fused(heads):
    """Three projections of one input, then attention."""
    def op(x):
        q, k, v = weight(3 * x.shape[-1], x.shape[-1]).chunk(3)
        return attention(heads, causal=True)(torch.cat([F.linear(x, w) for w in (q, k, v)], -1))
    return op


CASES = {  # name: (op, shapes of its inputs)
    "conv.direct": (conv(7), [(2, 5, 6, 3)]),
    "conv.one_pixel": (conv(2), [(2, 1, 1, 3)]),
    "conv.small": (conv(16), [(2, 5, 7, 16)]),
    "conv.winograd2": (conv(16), [(1, 9, 11, 16)]),
    "conv.winograd4": (conv(16), [(1, 13, 14, 16)]),
    "conv.residual": (conv(16), [(1, 9, 8, 16), (1, 9, 8, 16)]),
    "conv.half": (conv(4, stride=2), [(2, 7, 6, 5)]),
    "conv.half_end": (conv(4, stride=2, end=True), [(2, 7, 6, 5)]),
    "linear.bias": (linear(11), [(2, 7, 13)]),
    "linear.plain": (linear(9, bias=False), [(3, 1, 5)]),
    "linear.residual": (linear(5), [(2, 3, 17), (2, 3, 5)]),
    "linear.fused": (fused(3), [(2, 9, 12)]),
    "group_norm": (group_norm(3, silu=False), [(2, 3, 5, 6)]),
    "group_norm.silu": (group_norm(2, silu=True), [(1, 7, 5, 10)]),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:], noise(3, x.shape[-1]), noise(4, x.shape[-1]), EPSILON), [(2, 3, 19)]),
    "silu": (F.silu, [(3, 7, 5)]),
    "gelu": (F.gelu, [(3, 7, 5)]),
    "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), [(3, 7, 5)]),
    "geglu": (lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]), [(2, 5, 14)]),
    "attention.self": (attention(3), [(2, 11, 36)]),
    "attention.causal": (attention(2, causal=True), [(2, 13, 30)]),
    "attention.cross": (attention(2), [(2, 5, 14), (2, 9, 28)]),
    "attention.one": (attention(1), [(1, 1, 9)]),
    "upsample": (lambda x: last(F.interpolate(first(x), scale_factor=2.0)), [(2, 3, 5, 3)]),
    "upsample.odd": (lambda x: last(F.interpolate(first(x), size=(5, 3))), [(1, 3, 2, 5)]),
}


def main(here):
    golden = {}
    for name, (op, shapes) in CASES.items():
        inputs = [noise(1 + i, *shape).requires_grad_(True) for i, shape in enumerate(shapes)]
        out = op(*inputs)
        golden[f"{name}.out"] = out
        (out * noise(5, *out.shape)).sum().backward()
        for letter, x in zip("xy", inputs):
            golden[f"{name}.{letter}"] = x.grad
    (here / "ops.json").write_text(json.dumps({name: shapes for name, (_, shapes) in CASES.items()}, indent=1) + "\n")
    save_file({k: v.detach().contiguous() for k, v in golden.items()}, here / "ops.safetensors")
