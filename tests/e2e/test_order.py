#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: docs/ORDER.md is enough to recompute an epoch. Method: a second implementation, written from that text alone,
agrees with the library (test_order dump, test_mix dump) over 10^6 positions of every mode, and with the golden values.
`test_order.py golden` and `golden-mix` print tests/golden/order.txt and mix.txt: only for a new version of the token."""
import math
import os
import pathlib
import random
import subprocess
import sys
from fractions import Fraction

SRC = pathlib.Path(os.environ.get("GRANARY_SRC", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", SRC / "build" / "release"))
SEED = int(os.environ.get("GRANARY_TEST_SEED", "1"))
M = (1 << 64) - 1
GOLDEN = 0x9e3779b97f4a7c15
EXACT, BLOCKS, NONE = 1, 2, 3
KEY_EXACT, KEY_ROTATION, KEY_BLOCKS, KEY_WINDOW, KEY_SOURCE = 1, 2, 3, 4, 5
POSITIONS, SPECS, MIXTURES = 900000, 400, 64


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


# ---- 7: mixtures ----

def table(weights):
    """7.4 and 7.5: the sources of the slots, and the phases."""
    g = math.gcd(*weights)
    weights = [w // g for w in weights]
    T, S = sum(weights), len(weights)
    used = [s for s in range(S) if weights[s] > 0]
    c = 2 * len(used) - 2
    x, slots = [0] * S, []
    deviations = [[] for _ in range(S)]
    for k in range(T):
        for s in range(S):
            deviations[s].append(x[s] * T - k * weights[s])
        best = used[0]
        if len(used) > 1:
            best = None
            for s in used:
                d = (k + 1) * weights[s] - x[s] * T
                if d * c >= T:
                    rank = Fraction(T * (c - 1) - d * c, weights[s])
                    if best is None or rank < least:
                        best, least = s, rank
        slots.append(best)
        x[best] += 1
    high, low = [max(d) for d in deviations], [min(d) for d in deviations]
    phases = [k for k in range(T) if all(high[s] - deviations[s][k] < T and deviations[s][k] - low[s] < T
                                         for s in range(S))]
    return slots, phases


class Mix:
    """Walks each lane from its start: slow and simple, the library jumps."""
    def __init__(self, mode, N, n, G, L, seed, epoch, sources, stages):
        self.spec = (mode, N, n, G, L, seed, epoch)
        self.sources, self.L = sources, L if mode == BLOCKS else 1
        self.repeated = any(r for _, _, r in sources)
        self.sum = all(r for _, _, r in sources)
        self.N = sum(m * r for m, _, r in sources) if self.sum else N
        stages = stages or [(0, [w for _, w, _ in sources])]
        self.stages = [] if self.repeated else [(first, *table(weights)) for first, weights in stages]
        self.orders, self.lanes = {}, {}
        self.places = self.all_places() if self.sum else None

    def own_items(self, s, lane):
        N = self.sources[s][0]
        return (lane + 1) * N // self.L - lane * N // self.L

    def all_places(self):
        items = [sum(r * self.own_items(s, lane) for s, (_, _, r) in enumerate(self.sources)) for lane in range(self.L)]
        even = sum(r * (m // self.L) for m, _, r in self.sources)
        places = [(p % self.L, p // self.L) for p in range(even * self.L)]
        return places + [(lane, i) for lane in range(self.L) for i in range(even, items[lane])]

    def counts(self, lane):
        fixed = [r * self.own_items(s, lane) for s, (_, _, r) in enumerate(self.sources)]
        left = 0 if self.sum else len(range(lane, self.N, self.L)) - sum(fixed)
        W, b = sum(w for _, w, _ in self.sources), 0
        for s, (_, w, r) in enumerate(self.sources):
            if r == 0:
                fixed[s] = left * (b + w) // W - left * b // W
                b += w
        return fixed

    def halve(self, counts, lane, i):
        a, b, depth = 0, len(counts), 0
        while b - a > 1:
            middle = a + (b - a) // 2
            C, A = sum(counts[a:b]), sum(counts[a:middle])
            o = ((lane * (H((depth + 1) * GOLDEN & M) | 1) + (1 << 63)) & M) * C >> 64
            left = (A * i + o) // C
            if (A * (i + 1) + o) // C > left:
                b, i = middle, left
            else:
                a, i = middle, i - left
            depth += 1
        return a, i

    def walk(self, lane):
        """(source, how many of it before) of every item of a lane."""
        if self.repeated:
            counts = self.counts(lane)
            return [self.halve(counts, lane, i) for i in range(sum(counts))]
        out, before, stage, j = [], [0] * len(self.sources), -1, 0
        for p in range(lane, self.N, self.L):
            while stage + 1 < len(self.stages) and self.stages[stage + 1][0] <= p:
                stage, j = stage + 1, 0
            _, slots, phases = self.stages[stage]
            f = phases[(lane * GOLDEN & M) * len(phases) >> 64]
            s = slots[(f + j) % len(slots)]
            out.append((s, before[s]))
            before[s] += 1
            j += 1
        return out

    def at(self, p):
        lane, i = self.places[p] if self.places is not None else (p % self.L, p // self.L)
        if lane not in self.lanes:
            self.lanes[lane] = self.walk(lane)
        s, c = self.lanes[lane][i]
        mode, _, n, G, L, seed, epoch = self.spec
        m = self.own_items(s, lane) if mode == BLOCKS else self.sources[s][0]
        k = c // m
        if (s, k) not in self.orders:
            own = add(add(add(add(0, seed), KEY_SOURCE), s), k)
            self.orders[s, k] = Order(mode, self.sources[s][0], n, G, L, own, epoch)
        order = self.orders[s, k]
        return s, k, order.lane_item(lane, c % m) if mode == BLOCKS else order.at(c % m)


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


def mixtures(rng, count):
    for i in range(count):
        L = rng.choice([1, 2, 5, 12, 60])
        mode = (BLOCKS, EXACT, BLOCKS, NONE)[i % 4]
        S = rng.choice([1, 2, 3, 4, 5, 8])
        kind = ("weights", "stages", "repeat", "both")[i // 4 % 4]
        sources, fixed = [], 0
        for s in range(S):
            repeated = kind == "repeat" or kind == "both" and s > 0
            m = rng.randrange(1 if repeated else L, 1500)
            sources.append((m, 0 if repeated or kind == "stages" else rng.choice([1, 2, 3, 7, 100, 997]),
                            rng.choice([1, 1, 2, 3]) if repeated else 0))
            fixed += sources[-1][0] * sources[-1][2]
        N = 0 if kind == "repeat" else fixed + (S * 3 + 1) * L + rng.randrange(1, 3000)
        stages = []
        if kind == "stages":
            for first in [0] + sorted(rng.sample(range(1, N), rng.randrange(4))):
                stages.append((first, [rng.choice([0, 1, 5, 12]) for _ in range(S - 1)] + [rng.randrange(1, 30)]))
        yield (mode, N, rng.choice([1, 4, 16]), rng.choice([1, 3, 100]), L, rng.getrandbits(64), rng.randrange(5),
               sources, stages)


def mixture_line(spec):
    row = [*spec[:7], len(spec[7]), *(v for s in spec[7] for v in s), len(spec[8])]
    return " ".join(map(str, row + [v for first, weights in spec[8] for v in (first, *weights)]))


def mixture_of(row):
    """What mixture_line() made of a spec, and the rest of the row."""
    count = row[7]
    end = 8 + 3 * count
    sources = [tuple(row[i:i + 3]) for i in range(8, end, 3)]
    stages, stages_count = [], row[end]
    for i in range(stages_count):
        at = end + 1 + i * (count + 1)
        stages.append((row[at], row[at + 1:at + 1 + count]))
    return Mix(*row[:7], sources, stages), row[end + 1 + stages_count * (count + 1):]


def compare_mixtures(count):
    rng = random.Random(SEED + 1)
    text, cases = [], []
    for spec in mixtures(rng, count):
        mix = Mix(*spec)
        cases.append((spec, mix))
        text.append(mixture_line(spec) + f" 0 1 {mix.N}\n")
    answers = iter(library("test_mix", "".join(text)))
    compared = 0
    for spec, mix in cases:
        for p in range(mix.N):
            mine, theirs = mix.at(p), tuple(map(int, next(answers).split()))
            if mine != theirs:
                sys.exit(f"mixture {spec} position {p}: the text says {mine}, the library {theirs}")
            compared += 1
    return compared


def golden_lines():
    rng = random.Random(20)
    for spec in specs(rng, 75):
        N = spec[1]
        order = Order(*spec)
        for p in sorted({0, N // 2, N - 1, rng.randrange(N)}):
            yield " ".join(map(str, spec)) + f" {p} {order.at(p)}"


def golden_mix_lines():
    """One position a line: the mixture, the position, then source, pass and id."""
    rng = random.Random(21)
    for spec in mixtures(rng, 32):
        mix = Mix(*spec)
        for p in sorted({0, mix.N - 1, rng.randrange(mix.N), rng.randrange(mix.N)}):
            yield mixture_line(spec) + f" {p} 1 1 " + " ".join(map(str, mix.at(p)))


def check_golden_mix():
    path = SRC / "tests" / "golden" / "mix.txt"
    rows = [list(map(int, line.split())) for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "".join(" ".join(map(str, row[:-3])) + "\n" for row in rows)
    for row, answer in zip(rows, library("test_mix", text), strict=True):
        mix, rest = mixture_of(row)
        if mix.at(rest[0]) != tuple(rest[3:]) or answer != " ".join(map(str, rest[3:])):
            sys.exit(f"golden line '{row}': the text says {mix.at(rest[0])}, the library {answer}")
    return len(rows)


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
    if sys.argv[1:] == ["golden-mix"]:
        print("# mode N n G L seed epoch, sources, each (samples weight repeat), stages, each (from, weights),")
        print("# position 1 1, source pass id; docs/ORDER.md 7. These lines never change; new ones may be added.")
        print("\n".join(golden_mix_lines()))
        return
    print(f"seed={SEED}")
    print(f"{check_golden()} and {check_golden_mix()} golden values agree")
    print(f"{compare_mixtures(MIXTURES)} positions of mixtures agree")
    print(f"{compare_orders(POSITIONS)} positions agree")


if __name__ == "__main__":
    main()
