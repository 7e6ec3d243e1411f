#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: docs/ORDER.md is enough to recompute an epoch. Method: a second implementation, written from that text alone,
agrees with the library (test_order dump, test_mix dump) over 10^6 positions of every mode, and with the golden values.
`test_order.py golden` prints tests/golden/order.txt anew: only for a new version of the token."""
import os
import pathlib
import random
import subprocess
import sys

SRC = pathlib.Path(os.environ.get("GRANARY_SRC", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", SRC / "build" / "release"))
SEED = int(os.environ.get("GRANARY_TEST_SEED", "1"))
M = (1 << 64) - 1
GOLDEN = 0x9e3779b97f4a7c15
EXACT, BLOCKS, NONE = 1, 2, 3
KEY_EXACT, KEY_ROTATION, KEY_BLOCKS, KEY_WINDOW, KEY_SOURCE = 1, 2, 3, 4, 5
POSITIONS, SPECS = 1000000, 400


# ---- 2: keys and permutations ----

def H(x):
    x ^= x >> 30
    x = x * 0xbf58476d1ce4e5b9 & M
    x ^= x >> 27
    x = x * 0x94d049bb133111eb & M
    return x ^ (x >> 31)


def add(key, value):
    return H(key ^ H((value + GOLDEN) & M))


def key(seed, epoch, purpose):
    return add(add(add(0, seed), epoch), purpose)


def P(k, n, x):
    a = ((n - 1).bit_length() + 1) // 2
    A, B = 1 << a, ((n - 1) >> a) + 1
    keys = [(k + i * GOLDEN) & M for i in range(6)]
    while True:
        low, high = x % A, x // A
        for i in (0, 2, 4):
            z = (keys[i] + high) * 0xbf58476d1ce4e5b9 & M
            low = (low + (((z ^ (z >> 32)) * 0x94d049bb133111eb & M) * A >> 64)) % A
            z = (keys[i + 1] + low) * 0xbf58476d1ce4e5b9 & M
            high = (high + (((z ^ (z >> 32)) * 0x94d049bb133111eb & M) * B >> 64)) % B
        x = high * A + low
        if x < n:
            return x


# ---- 3: position to dense id ----

class Order:
    def __init__(self, mode, N, n, G, L, seed, epoch):
        self.mode, self.N, self.n, self.G, self.L = mode, N, n, G, L
        self.exact = key(seed, epoch, KEY_EXACT)
        self.blocks = key(seed, epoch, KEY_BLOCKS)
        self.window = key(seed, epoch, KEY_WINDOW)
        self.rotation = key(seed, epoch, KEY_ROTATION) * N >> 64

    def at(self, p):
        if self.mode == NONE:
            return p
        if self.mode == EXACT:
            return P(self.exact, self.N, p)
        i, lane = divmod(p, self.L)
        if i == self.N // self.L:
            e = self.N % self.L
            lane = ((lane + 1) * self.L + e - 1) // e - 1
        return self.lane_item(lane, i)

    def lane_items(self, lane):
        return (lane + 1) * self.N // self.L - lane * self.N // self.L

    def lane_item(self, lane, i):
        N, n, G = self.N, self.n, self.G
        s, e = lane * N // self.L, (lane + 1) * N // self.L
        q = s + i
        w = (q // n - s // n) // G
        s0 = s - s % n
        first, end = max(s, s0 + w * n * G), min(e, s0 + (w + 1) * n * G)
        q = first + P(add(self.window, (lane << 48) + w), end - first, q - first)
        b = q // n
        if b < N // n:
            b = P(self.blocks, N // n, b)
        return (b * n + q % n + self.rotation) % N


# ---- comparing ----

AWKWARD = [1, 2, 3, 5, 16, 17, 63, 64, 65, 255, 257, 1000, 4095, 4097, 10007, 65535, 65537, 1000003, 1281167, 10000019,
           (1 << 32) - 1, (1 << 32) + 1, (1 << 40) + 12345, (1 << 48) - 1, 1 << 48]


def specs(rng, count):
    for i in range(count):
        N = AWKWARD[i % len(AWKWARD)] if i % 3 else rng.randrange(1, 1 << rng.randrange(1, 49))
        mode = (BLOCKS, EXACT, BLOCKS, NONE, BLOCKS)[i % 5]
        L = rng.choice([1, 2, 3, 4, 7, 12, 24, 60, 240, 3840, 32768])
        yield (mode, N, 1 << rng.choice([0, 1, 3, 6, 11, 20, 32]), rng.choice([1, 2, 3, 16, 273, 1 << 28]), L,
               rng.getrandbits(64), rng.choice([0, 1, 2, rng.getrandbits(64)]))


def library(program, text):
    run = subprocess.run([str(BUILD / "tests" / program), "dump"], input=text, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{program} dump: exit {run.returncode}: {run.stderr.strip()}")
    return run.stdout.split("\n")[:-1]


def compare_orders(positions):
    rng = random.Random(SEED)
    lines, cases, total = [], [], 0
    for spec in specs(rng, 10 * SPECS):
        if total >= positions:
            break
        N = spec[1]
        count = min(positions // SPECS, N)
        total += count
        step = rng.choice([1, 1, max(1, N // count)])
        first = rng.randrange(0, N - (count - 1) * step)
        if rng.randrange(3) == 0:
            first = N - 1 - (count - 1) * step  # up to the last position, the last round included
        cases.append((spec, range(first, first + count * step, step)))
        lines.append(" ".join(map(str, spec)) + f" {first} {step} {count}\n")
    answers = iter(library("test_order", "".join(lines)))
    compared = 0
    for spec, where in cases:
        order = Order(*spec)
        for p in where:
            mine, theirs = order.at(p), int(next(answers))
            if mine != theirs:
                sys.exit(f"spec {spec} position {p}: the text says {mine}, the library {theirs}")
            compared += 1
    return compared


def golden_lines():
    rng = random.Random(20)
    for spec in specs(rng, 75):
        N = spec[1]
        order = Order(*spec)
        for p in sorted({0, N // 2, N - 1, rng.randrange(N)}):
            yield " ".join(map(str, spec)) + f" {p} {order.at(p)}"


def check_golden():
    path = SRC / "tests" / "golden" / "order.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        *spec, p, dense = map(int, line.split())
        if Order(*spec).at(p) != dense:
            sys.exit(f"golden line '{line}': the text says {Order(*spec).at(p)}")
    return len(lines)


def main():
    if sys.argv[1:] == ["golden"]:
        print("# mode N n G L seed epoch position id, docs/ORDER.md. These lines never change; new ones may be added.")
        print("\n".join(golden_lines()))
        return
    print(f"seed={SEED}")
    print(f"{check_golden()} golden values agree")
    print(f"{compare_orders(POSITIONS)} positions agree")


if __name__ == "__main__":
    main()
