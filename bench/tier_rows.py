# SPDX-License-Identifier: Apache-2.0
"""Rows of hot and cold: moving to a cold directory and reading out of it. The limits are the hot store and the zstd program,
in the same run. Samples that compress are 4 KiB of JSON; those that do not are bench_client's own."""
import datetime
import hashlib
import hmac
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
import s3_lib  # noqa: E402

WORDS = ["image", "label", "caption", "cat", "dog", "bird", "the", "quick", "brown", "fox", "jumps", "over", "lazy", "street",
         "night", "person", "holding", "umbrella", "rain", "blue"]


def json_sample(rng, i):
    """Just under 4 KiB, as annotations of one image are."""
    boxes = [{"label": rng.choice(WORDS), "box": [round(rng.random() * 640, 1) for _ in range(4)],
              "score": round(rng.random(), 4)} for _ in range(28)]
    text = json.dumps({"id": i, "width": 640, "height": 480, "objects": boxes,
                       "caption": " ".join(rng.choice(WORDS) for _ in range(130))})
    return text[:4096].ljust(4096)


def png_sample(rng, side=128):
    """A picture of smooth areas with some noise, as photographs are to a compressor: it does not shrink again."""
    rows = bytearray()
    for y in range(side):
        rows.append(0)
        noise = rng.randbytes(3 * side)
        rows += bytes((x + y + (noise[x] & 15)) & 255 for x in range(3 * side))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows), 6)) + chunk(b"IEND", b"")


def wav_sample(rng, count=16000):
    """A second of speech-like sound, 16 bits: few of the 16 are used."""
    level, values = 0, []
    for _ in range(count):
        level = int(level * 0.9) + rng.randrange(-300, 301)
        values.append(level)
    data = struct.pack(f"<{count}h", *values)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + \
        struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", len(data)) + data


def presigned(port, path):
    """A URL that curl gets without signing."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    query = "&".join(f"{k}={urllib.parse.quote(v, safe='-_.~')}" for k, v in [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", f"{s3_lib.ACCESS}/{scope}"), ("X-Amz-Date", now),
        ("X-Amz-Expires", "86400"), ("X-Amz-SignedHeaders", "host")])
    canonical = f"GET\n{path}\n{query}\nhost:127.0.0.1:{port}\n\nhost\nUNSIGNED-PAYLOAD"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + s3_lib.SECRET.encode()
    for part in (now[:8], "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return f"http://127.0.0.1:{port}{path}?{query}&X-Amz-Signature={signature}"


class Tier:
    def __init__(self, run, sh, build, bucket):
        self.run, self.sh, self.build, self.bucket = run, sh, build, bucket
        self.count = 12000 if run.o.quick else 60000
        self.data = os.path.join(run.o.dir, "tier")
        self.cold = os.path.join(run.o.dir, "tier-cold")

    def server(self, **kw):
        self.run.stop_servers()
        os.makedirs(self.cold, exist_ok=True)
        kw.setdefault("stores", f"\n  archive:\n    type: directory\n    path: {self.cold}")
        kw.setdefault("cache_size", "16MiB")
        return self.run.server("tier", data="tier", **kw)

    def fresh(self):
        self.run.stop_servers()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.cold, ignore_errors=True)
        return self.server()

    def task(self, s, *args):
        """Seconds of the move itself, as the server counts them, bytes of packs and bytes stored."""
        start = time.monotonic()
        out = json.loads(s.granary("tier", *args, "--json").strip().splitlines()[-1])
        return time.monotonic() - start, out

    def json_tree(self):
        tree = os.path.join(self.run.o.dir, f"json-{self.count}")
        if not os.path.exists(tree):
            rng = random.Random(4)
            os.makedirs(tree + ".part")
            for i in range(self.count):
                with open(os.path.join(tree + ".part", f"{i:07d}.json"), "w", encoding="ascii") as f:
                    f.write(json_sample(rng, i))
            os.rename(tree + ".part", tree)
        return tree

    def demote(self):
        """The corpus, sealed; CPU of the mover's process against zstd -3 of the same bytes on one core, both by wall time. Also
        how small it became against tar | zstd -3."""
        tree, _, total, _ = self.run.corpus()
        tar = os.path.join(self.run.o.dir, "corpus.tar")
        if not os.path.exists(tar):
            self.sh("tar", "cf", tar, "-C", os.path.dirname(tree), os.path.basename(tree))

        def ours():
            s = self.fresh()
            s.granary("import", tree, f"{s.url}/{self.bucket}/corpus", "--quiet")
            seconds, out = self.task(s, "push", f"{s.url}/{self.bucket}/corpus", "--to", "archive", "--level", "3")
            return out["bytes"] / seconds / 1e6, total / out["stored"]

        def zstd():
            start = time.monotonic()
            self.sh("bash", "-c", f"zstd -3 -q -c --single-thread {tar} > {tar}.zst")
            seconds = time.monotonic() - start
            return os.path.getsize(tar) / seconds / 1e6, os.path.getsize(tar) / os.path.getsize(tar + ".zst")

        mine, machine = self.run.interleave(ours, zstd)
        self.run.row("demote", [m[0] for m in mine], [m[0] for m in machine], "MB/s")
        self.run.row("zratio", [m[1] for m in mine], [m[1] for m in machine], "to 1")

    def move_rows(self):
        """Metadata rows written to demote a million samples, those of the task included, over packs."""
        s = self.fresh()
        self.run.have(s, "rows", 1000000, 1024 if self.run.o.quick else 4096)
        self.run.stop_servers()
        s = self.server()

        def written():
            status = s.status()
            return sum(status[k] for k in ("kv_puts", "kv_deletes"))

        before, seen = written(), None
        while before != seen:  # seals, and packs that were never written to: no part of it
            time.sleep(15)
            before, seen = written(), before
        _, out = self.task(s, "push", f"{s.url}/{self.bucket}/rows", "--to", "archive", "--level", "1")
        self.run.row("move-rows", [written() - before], [out["packs"]], "rows")

    def hot_and_cold(self, prefix, tree, measure):
        """measure(s) of the same data, hot and cold, in turns."""
        s = self.fresh()
        url = f"{s.url}/{self.bucket}/{prefix}"
        if tree:
            s.granary("import", tree, url, "--quiet")
        else:
            self.run.have(s, prefix, self.run.big // 4, 114688)
        snapshot = self.run.snapshot(s, prefix)

        def hot():
            s = self.server()
            self.task(s, "pull", f"{s.url}/{self.bucket}/{prefix}")
            s = self.server()
            return measure(s, snapshot, prefix)

        def cold():
            s = self.server()
            self.task(s, "push", f"{s.url}/{self.bucket}/{prefix}", "--to", "archive")
            s = self.server()
            return measure(s, snapshot, prefix)

        return self.run.interleave(cold, hot)

    def reads(self):
        """Random reads of 4 KiB in batches of 64, one consumer, nothing cached."""
        def measure(s, _, prefix):
            out = s.granary("bench", "read", f"{s.url}/{self.bucket}/{prefix}", "--batch", "64", "--shuffle", "7", "--json")
            return json.loads(out.strip().splitlines()[-1])["samples_per_s"]

        cold, hot = self.hot_and_cold("json", self.json_tree(), measure)
        self.run.row("cold-read-4k", cold, hot, "samples/s")

    def zstd_rate(self, samples):
        """Samples a second that zstd -d makes of the cold copies, a program a core."""
        files = [os.path.join(d, f) for d, _, names in os.walk(self.cold) for f in names if f.endswith(".cold")]
        fsck = os.path.join(os.path.dirname(self.build), "..", "tools", "granary-fsck")
        seconds = 0.0
        for path in files:
            with open(path, "rb") as f:
                if f.read(4) != (0x184D2A50).to_bytes(4, "little"):
                    continue
            self.sh("python3", fsck, "cold", path, "--headers", "--dict", path + ".dict")
            with_dict = ["-D", path + ".dict"] if os.path.getsize(path + ".dict") else []
            start = time.monotonic()
            subprocess.run(["zstd", "-d", "-q", "-c", *with_dict, path], stdout=subprocess.DEVNULL, check=True)
            seconds += time.monotonic() - start
            os.unlink(path + ".dict")
        return samples / seconds * (os.cpu_count() or 1) if seconds else float("inf")

    def epochs(self, size):
        tree = self.json_tree() if size == 4096 else None
        prefix, batch = ("json", 256) if size == 4096 else ("s112k", 64)

        def measure(s, snapshot, _):
            return s.client("stream", snapshot, "blocks", batch, 1, self.run.seconds + 1)["per_s"]

        cold, hot = self.hot_and_cold(prefix, tree, measure)
        s = self.server()
        self.task(s, "push", f"{s.url}/{self.bucket}/{prefix}", "--to", "archive")
        limit = self.zstd_rate(self.count if tree else self.run.big // 4)
        limits = [min(h, limit) for h in hot]
        self.run.row(f"epoch-cold-dir-{'4k' if tree else '112k'}", cold, limits, "samples/s")

    def mixed(self):
        """Four of five directories are cold, one is hot, and flash has room for what the announced epoch brings up, whatever
        else lies on this disk; against all hot."""
        flash = os.path.join(self.run.o.dir, "tier-flash")
        self.run.stop_servers()
        for path in (self.data, self.cold, flash):
            shutil.rmtree(path, ignore_errors=True)
        os.makedirs(flash)
        hot = f"\n  - path: {flash}\n    size: 16GiB"
        s = self.server(hot=hot)
        tree = self.json_tree()
        names = sorted(os.listdir(tree))
        for part in range(5):
            folder = os.path.join(self.run.o.dir, "part", str(part))
            os.makedirs(folder)
            for name in names[part::5]:
                os.link(os.path.join(tree, name), os.path.join(folder, name))
            s.granary("dataset", "create", f"{s.url}/{self.bucket}/mix/{part}", check=False)
            s.granary("import", folder, f"{s.url}/{self.bucket}/mix/{part}", "--quiet")
        shutil.rmtree(os.path.join(self.run.o.dir, "part"))
        snapshot = self.run.snapshot(s, "mix")

        def epoch(cold):
            s = self.server(hot=hot)
            for part in range(1, 5):
                order = ["push", f"{s.url}/{self.bucket}/mix/{part}", "--to", "archive"] if cold else \
                    ["pull", f"{s.url}/{self.bucket}/mix/{part}"]
                self.task(s, *order)
            s = self.server(hot=hot)
            return s.client("stream", snapshot, "blocks", 256, 1, self.run.seconds + 1)["per_s"]

        mine, machine = self.run.interleave(lambda: epoch(True), lambda: epoch(False))
        self.run.row("epoch-mixed", mine, machine, "samples/s")
        self.run.stop_servers()
        shutil.rmtree(flash)

    def move_p99(self):
        """p99 of batches of 64 out of the cache while packs move at full rate, over p99 alone. Of a thousand batches an epoch;
        the median epoch of 32."""
        self.run.stop_servers()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.cold, ignore_errors=True)
        s = self.server(cache_size="512MiB")
        s.granary("import", self.json_tree(), f"{s.url}/{self.bucket}/json", "--quiet")
        self.run.have(s, "s4k", 65536, 4096)

        def p99():
            out = s.granary("bench", "read", f"{s.url}/{self.bucket}/s4k", "--batch", "64", "--epochs", "32", "--json")
            return statistics.median(json.loads(line)["p99_ms"] for line in out.splitlines() if "p99_ms" in line)

        def alone():
            self.task(s, "pull", f"{s.url}/{self.bucket}/json", "--drop")
            return p99()

        def moving():
            stop = threading.Event()

            def move():
                while not stop.is_set():
                    self.task(s, "push", f"{s.url}/{self.bucket}/json", "--to", "archive")
                    self.task(s, "pull", f"{s.url}/{self.bucket}/json", "--drop")

            mover = threading.Thread(target=move)
            mover.start()
            try:
                return p99()
            finally:
                stop.set()
                mover.join()

        p99()
        mine, machine = self.run.interleave(moving, alone)
        self.run.row("move-p99", mine, machine, "ms", lower=True)

    def s3(self):
        """Streams of 112 KiB samples out of a real S3 service, against curl: ranges of 8 MiB, eight at once. The snapshot is
        made of what is cold, and flash has no room for it: all of each epoch comes out of the service."""
        missing = s3_lib.Service.missing()
        if missing:
            print(f"# epoch-cold-s3: skipped, not installed: {' '.join(missing)}", file=sys.stderr)
            return
        service = s3_lib.Service(self.run.o.dir)
        shutil.rmtree(service.dir, ignore_errors=True)
        service.start()
        try:
            self.s3_against(service)
        finally:
            self.run.stop_servers()
            service.stop()

    def s3_against(self, service):
        size, piece, count = 64 << 20, 8 << 20, self.run.big // 4
        service.request("PUT", "/archive")
        service.request("PUT", "/archive/limit", body=os.urandom(size))
        url = presigned(service.port, "/archive/limit")
        keys = os.path.join(self.run.o.dir, "s3.keys")
        with open(keys, "w", encoding="ascii") as f:
            f.write(f"[default]\naws_access_key_id = {s3_lib.ACCESS}\naws_secret_access_key = {s3_lib.SECRET}\n")
        os.chmod(keys, 0o600)
        self.run.stop_servers()
        flash = os.path.join(self.run.o.dir, "tier-flash")
        for path in (self.data, flash):
            shutil.rmtree(path, ignore_errors=True)
        os.makedirs(flash)
        stores = (f"\n  archive:\n    type: s3\n    endpoint: http://127.0.0.1:{service.port}\n    bucket: archive\n"
                  f"    prefix: granary\n    credentials: {keys}")

        def server(size):
            return self.server(stores=stores, hot=f"\n  - path: {flash}\n    size: {size}")

        s = server("1TiB")
        self.run.have(s, "s112k", count, 114688)
        self.task(s, "push", f"{s.url}/{self.bucket}/s112k", "--to", "archive")
        snapshot = self.run.snapshot(s, "s112k")

        def curl():
            start = time.monotonic()
            rounds = 3
            ranges = [f"{at}-{at + piece - 1}" for at in range(0, size, piece)] * rounds
            for first in range(0, len(ranges), 8):
                running = [subprocess.Popen(["curl", "-s", "-f", "-o", "/dev/null", "-r", r, url])
                           for r in ranges[first:first + 8]]
                assert all(p.wait() == 0 for p in running)
            return size * rounds / (time.monotonic() - start) / 114688

        def ours():
            s = server("64MiB")
            return s.client("stream", snapshot, "blocks", 64, 1, self.run.seconds + 1)["per_s"]

        mine, machine = self.run.interleave(ours, curl)
        self.run.row("epoch-cold-s3", mine, machine, "samples/s")

    def mixed_tree(self):
        """Text, PNG and audio, a third of the bytes each: 245 MB, of which a fifth is as much as the smallest flash takes."""
        count = 60000
        tree = os.path.join(self.run.o.dir, f"mixed-{count}")
        if os.path.exists(tree):
            return tree
        rng, third = random.Random(5), count * 4096 // 3
        os.makedirs(tree + ".part")
        for kind, make in (("json", lambda i: json_sample(rng, i).encode()), ("png", lambda i: png_sample(rng)),
                           ("wav", lambda i: wav_sample(rng))):
            size, i = 0, 0
            while size < third:
                data = make(i)
                with open(os.path.join(tree + ".part", f"{i:06d}.{kind}"), "wb") as f:
                    f.write(data)
                size, i = size + len(data), i + 1
        os.rename(tree + ".part", tree)
        return tree

    def mixed_ratio(self):
        """epoch-mixed of this run: bills count only where it is 0.8 or more."""
        if not any(r["id"] == "epoch-mixed" for r in self.run.rows):
            self.mixed()
        return next(r["ratio"] for r in self.run.rows if r["id"] == "epoch-mixed")

    def bill(self):
        """A month of flash for all of it, over a month with a fifth of the packs on flash: what lies on flash and in the store
        by the server's own bill, and the requests and bytes of four epochs, counted while one is streamed. Flash has
        no room for more than that fifth, so the epoch reads the rest where it lies. Of the cold store a GB-month costs 0.02,
        1,000 requests 0.0004, a GB of egress 0.001; flash 2, 4 and 8 times as much a GB."""
        if self.mixed_ratio() < 0.8:
            raise RuntimeError(f"not counted: epoch-mixed of this run is {self.mixed_ratio():.2f}, below 0.8")
        self.run.stop_servers()
        flash = os.path.join(self.run.o.dir, "tier-flash")
        for path in (self.data, self.cold, flash):
            shutil.rmtree(path, ignore_errors=True)
        os.makedirs(flash)
        stores = (f"\n  archive:\n    type: directory\n    path: {self.cold}\n    price_gb_month: 0.02\n"
                  "    price_1000_requests: 0.0004\n    price_gb_egress: 0.001")

        def server(size="1TiB", **kw):
            return self.server(stores=stores, hot=f"\n  - path: {flash}\n    size: {size}", **kw)

        s, tree = server(), self.mixed_tree()
        names = sorted(os.listdir(tree))
        random.Random(6).shuffle(names)
        for part in range(5):
            folder = os.path.join(self.run.o.dir, "part", str(part))
            os.makedirs(folder)
            for name in names[part::5]:
                os.link(os.path.join(tree, name), os.path.join(folder, name))
            s.granary("dataset", "create", f"{s.url}/{self.bucket}/mix/{part}", check=False)
            s.granary("import", folder, f"{s.url}/{self.bucket}/mix/{part}", "--quiet")
        shutil.rmtree(os.path.join(self.run.o.dir, "part"))
        snapshot = self.run.snapshot(s, "mix")
        for part in range(1, 5):
            self.task(s, "push", f"{s.url}/{self.bucket}/mix/{part}", "--to", "archive", "--level", "3")
        server()  # a start removes what was let go
        self.run.stop_servers()
        taken = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(os.path.join(flash, "packs")) for f in files)
        full = max(64 << 20, taken * 5 // 4)  # packs come up until flash is filled to four fifths
        s = server(full)
        before = s.status()
        s.client("stream", snapshot, "blocks", 64, 1, 0)
        after = s.status()
        gets, got = (after[f"store_archive_{k}"] - before[f"store_archive_{k}"] for k in ("gets", "get_bytes"))
        if gets == 0:
            raise RuntimeError("the epoch read nothing of the cold store")
        reads = 4 * (gets / 1000 * 0.0004 + got / 1e9 * 0.001)
        print(f"# bill: an epoch is {gets} requests and {got / 1e6:.0f} MB", file=sys.stderr)
        for times in (2, 4, 8):
            s = server(full, hot_price=f"{0.02 * times:.2f}")
            bill = json.loads(s.granary("tier", "cost", "--json"))
            month = bill["now"]["flash"] + bill["now"]["cold"] + reads
            self.run.row(f"bill-{times}", [month], [bill["all_hot"]["flash"]], "a month", lower=True)
        self.run.stop_servers()
        shutil.rmtree(flash)
