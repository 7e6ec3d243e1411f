#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a server that is killed and comes back costs no sample and gives none twice; one that stays away is one clear error;
a flipped bit is never handed out: it raises, or another sample takes its place."""
import os
import socket
import threading
import time
import urllib.parse

import granary_case
from granary_case import Case, content, granary, ids_of


class Line:
    """A way to a server that can be cut: what goes over it ends, and nobody gets through until it is mended."""

    def __init__(self, server, path):
        self.server, self.path, self.cut, self.pairs = str(server.socket), str(path), False, []
        self.url = "granary://" + urllib.parse.quote(self.path, safe="")
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(self.path)
        self.door.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near = self.door.accept()[0]
            if self.cut:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.server)
            self.pairs.append((near, far))
            for of, to in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(of, to), daemon=True).start()

    def carry(self, of, to):
        try:
            while data := of.recv(1 << 16):
                to.sendall(data)
        except OSError:
            pass
        for end in (of, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def away(self, seconds):
        self.cut = True
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        time.sleep(seconds)
        self.cut = False


class Ranks(Case):
    SAMPLES = 400

    def test_away_on_one_of_4_ranks(self):
        """Ranks in step, as a collective keeps them; one cannot reach the server for a while. The others wait with it, each
        sample comes once, all have as many batches. 1 s; 60 and 400 s too with tools/test --long."""
        long = os.environ.get("GRANARY_TEST_LONG", "0") == "1"
        for number, seconds in enumerate((1, 60, 400) if long else (1,)):
            line = Line(self.server, self.base / f"line{number}")
            step, seen, failed = threading.Barrier(4), [], []

            def rank(r, line=line, seconds=seconds, step=step, seen=seen, failed=failed):
                url = f"{line.url}/data@v1" if r == 2 else self.v1
                ds = granary.IterableDataset(url, batch_size=4, shuffle="exact", seed=8, dp_rank=r, dp_size=4, read_ahead=1,
                                             stall_timeout=seconds + 200, **self.login)
                try:
                    for k, batch in enumerate(ds):
                        seen.append((k, r, [i for i, v in zip(batch.ids, batch.valid) if v]))
                        if r == 2 and k == 5:
                            threading.Thread(target=line.away, args=(seconds,), daemon=True).start()
                        step.wait(seconds + 300)
                except Exception as e:  # pylint: disable=broad-except
                    failed.append((r, e))
                    step.abort()
            ranks = [threading.Thread(target=rank, args=(r,)) for r in range(4)]
            for r in ranks:
                r.start()
            for r in ranks:
                r.join()
            self.assertEqual(failed, [])
            self.assertEqual(sorted(i for _, _, ids in seen for i in ids), list(range(self.SAMPLES)))
            self.assertEqual([sum(r == own for _, own, _ in seen) for r in range(4)], [25] * 4)
            self.assertGreater(len(line.pairs), 1)


class Killed(Case):
    SAMPLES = 400

    def test_killed_and_restarted(self):
        for shuffle in ("blocks", "exact"):
            whole = ids_of(self.stream(shuffle=shuffle, seed=8, batch_size=4))
            got = []
            for number, batch in enumerate(self.stream(shuffle=shuffle, seed=8, batch_size=4, read_ahead=2)):
                got += ids_of([batch])
                for i, key in enumerate(batch.keys()):
                    self.assertEqual(bytes(batch[i]), self.files[key])
                if number in (3, 40):
                    self.server.kill()
                    self.server.start()
            self.assertEqual(got, whole)

    def test_away_for_good(self):
        """The deadline ends it, on this rank, with what to do; the state is still good when the server is back."""
        whole = ids_of(self.stream(shuffle="exact", seed=8, batch_size=4))
        loader = granary.DataLoader(self.stream(shuffle="exact", seed=8, batch_size=4, read_ahead=2, stall_timeout=2))
        got = []
        with self.assertRaises((TimeoutError, ConnectionError)) as caught:
            for batch in loader:
                got += ids_of([batch])
                if len(got) == 5:
                    self.server.kill()
        self.assertIsInstance(caught.exception, granary.Error)
        self.assertIn("data@v1", str(caught.exception))
        self.server.start()
        loader.load_state_dict(loader.state_dict())
        self.assertEqual(got + ids_of(loader), whole)

    def test_away_for_a_while(self):
        """Calls wait for it within their timeout."""
        self.server.kill()
        back = threading.Timer(1.5, self.server.start)
        back.start()
        self.assertEqual(self.client.get("train/ankle/00000.bin", timeout=60), content(0))
        back.join()
        self.server.kill()
        began = time.monotonic()
        with self.assertRaises((ConnectionError, TimeoutError)):
            self.client.get("train/ankle/00000.bin", timeout=0.5)
        self.assertGreaterEqual(time.monotonic() - began, 0.4)
        self.server.start()

    def test_snapshot_forced_away(self):
        self.client.snapshot("gone", create=True, prefix="train/").close()
        stream = iter(granary.IterableDataset(f"{self.url}@gone", batch_size=1, read_ahead=1, shuffle="exact", **self.login))
        next(stream)
        self.client.remove_snapshot("gone", force=True)
        with self.assertRaises((KeyError, granary.Error)):
            for _ in stream:
                pass


class Damaged(Case):
    SAMPLES = 120
    SETTINGS = {"cache-size": "16MiB"}

    def setUp(self):
        """One byte of one sample is another one on disk, in every copy; the server does not have it in RAM."""
        if hasattr(self, "key"):
            return
        type(self).key = "train/boot/00051.bin"
        data = self.files[self.key]
        self.server.stop()
        hits = 0
        for pack in self.server.packs():
            blob = bytearray(pack.read_bytes())
            at = blob.find(data)
            while at >= 0:
                blob[at + len(data) // 2] ^= 1
                hits += 1
                at = blob.find(data, at + 1)
            pack.write_bytes(blob)
        self.assertGreater(hits, 0)
        self.server.start()

    def test_raise(self):
        for shuffle in ("none", "blocks"):
            with self.assertRaises(OSError) as caught:
                for batch in self.stream(shuffle=shuffle):
                    for i, key in enumerate(batch.keys()):
                        self.assertEqual(bytes(batch[i]), self.files[key])
            self.assertIsInstance(caught.exception, granary.errors.CorruptError)
            self.assertIn(self.key, str(caught.exception))
            self.assertIn("on_error='skip'", caught.exception.hint)

    def test_skip(self):
        runs = []
        for _ in range(2):
            rows = []
            for batch in self.stream(shuffle="exact", seed=3, on_error="skip"):
                for i, key in enumerate(batch.keys()):
                    self.assertEqual(bytes(batch[i]), self.files[key])
                    rows.append((batch.ids[i], batch.flags[i]))
            runs.append(rows)
        self.assertEqual(runs[0], runs[1])
        self.assertEqual(len(runs[0]), 128)
        self.assertEqual([f for _, f in runs[0] if f & granary.SKIPPED], [granary.SKIPPED])
        bad = self.client.snapshot("v1").find(self.key)[0]
        self.assertNotIn(bad, [i for i, _ in runs[0]])

    def test_read(self):
        snapshot = self.client.snapshot("v1")
        bad = snapshot.find(self.key)[0]
        with self.assertRaises(granary.errors.CorruptError) as caught:
            snapshot.read_many([bad, 0])
        self.assertIn(self.key, str(caught.exception))
        self.assertEqual(snapshot.read(bad - 1), self.files[snapshot.keys([bad - 1])[0]])
        with self.assertRaises(granary.errors.CorruptError) as caught:
            self.client.get(self.key)
        self.assertEqual(caught.exception.key, self.key)


if __name__ == "__main__":
    granary_case.main()
