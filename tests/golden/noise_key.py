"""The noise of diffusion/src/noise.rs from its definition, in plain Python: prints the values pinned in its tests."""

import math
import struct

import numpy as np


def chacha8(key, blocks):
    """The ChaCha keystream with 8 rounds, 64-bit block counter from 0 and nonce 0, as little-endian bytes."""
    rotate = lambda v, n: (v << n | v >> 32 - n) & 0xFFFFFFFF
    stream = b""
    for block in range(blocks):
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), block, 0, 0, 0]
        s = list(start)
        for half in range(8):
            for i in range(4):
                a, b, c, d = [4 * row + (i + (row * (half % 2))) % 4 for row in range(4)]
                s[a] = s[a] + s[b] & 0xFFFFFFFF; s[d] = rotate(s[d] ^ s[a], 16)
                s[c] = s[c] + s[d] & 0xFFFFFFFF; s[b] = rotate(s[b] ^ s[c], 12)
                s[a] = s[a] + s[b] & 0xFFFFFFFF; s[d] = rotate(s[d] ^ s[a], 8)
                s[c] = s[c] + s[d] & 0xFFFFFFFF; s[b] = rotate(s[b] ^ s[c], 7)
        stream += struct.pack("<16I", *[x + y & 0xFFFFFFFF for x, y in zip(s, start)])
    return stream


def words(seed, purpose, step, sample, count):
    return struct.unpack(f"<{count}Q", chacha8(struct.pack("<4Q", seed, purpose, step, sample), count // 8 + 1)[: 8 * count])


def normal(pair):
    a, b = [((word >> 11) + 1) / 2**53 for word in pair]
    radius = math.sqrt(-2 * math.log(a))
    return [np.float32(radius * math.cos(math.tau * b)), np.float32(radius * math.sin(math.tau * b))]


if __name__ == "__main__":
    drawn = words(seed=7, purpose=1, step=3, sample=1, count=4)
    print("normal", *(normal(drawn[:2]) + normal(drawn[2:]))[:3])
    print("below 1,000,000,007:", drawn[0] % 1_000_000_007)
