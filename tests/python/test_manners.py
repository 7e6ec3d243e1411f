#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: Ctrl-C ends whatever waits; 8 spawned workers stream past a /dev/shm of 64 MiB; a client is good on both sides of a
fork; what fails names key, endpoint and what helps, in the main process and in workers."""
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import granary_case
from granary_case import Case, content, granary, ids_of

WAITS = {
    "get": "client.get('train/ankle/00000.bin', timeout=600)",
    "many": "client.get_many(['train/ankle/00000.bin'] * 9, timeout=600)",
    "put": "client.put('x', b'1', timeout=600)",
    "stat": "client.stat('train/ankle/00000.bin')",
    "snapshot": "client.snapshot('v1')",
    "read": "snapshot.read(5, timeout=600)",
    "stream": "[b for b in ds]",
    "loader": "[b for b in granary.DataLoader(ds)]",
    "len": "len(ds)",
}
PROGRAM = """
import sys, time, granary
client = granary.connect({url!r}, credentials={credentials!r}, timeout=600)
snapshot = client.snapshot("v1")
ds = granary.IterableDataset({url!r} + "@v1", batch_size=4, stall_timeout=600, timeout=600, credentials={credentials!r})
print("ready", flush=True)
sys.stdin.readline()
print("begins", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
SMALL_SHM = """
import os, sys
import torch
import granary
if __name__ == "__main__":
    room = os.statvfs("/dev/shm")
    assert room.f_blocks * room.f_frsize <= 64 << 20, "/dev/shm is small"
    ds = granary.IterableDataset(sys.argv[1], credentials=sys.argv[2], batch_size=8, shuffle="exact", seed=1)
    ids, size, keep = [], 0, []
    for batch in granary.DataLoader(ds, num_workers=8, prefetch_factor=4, multiprocessing_context="spawn"):
        ids += [i for i, v in zip(batch.ids, batch.valid) if v]
        size += batch.nbytes
        keep.append(batch)
    assert sorted(ids) == list(range(len(ids))), "each once"
    print(len(ids), size, sum(len(b.data) for b in keep))
"""


class Manners(Case):
    SAMPLES = 200

    def stopped(self):
        tasks = pathlib.Path(f"/proc/{self.server.process.pid}/task").glob("*/stat")
        return all(stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T" for stat in tasks)

    def test_interrupted(self):
        """The server stands all the while: nothing but Ctrl-C can have ended the call."""
        for name, call in WAITS.items():
            process = granary_case.crash_lib.spawn(
                [sys.executable, "-c", PROGRAM.format(url=self.url, call=call, **self.login)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "GRANARY_QUIET": "1"})
            self.assertEqual(process.stdout.readline(), "ready\n", name)
            self.server.process.send_signal(signal.SIGSTOP)
            try:
                while not self.stopped():
                    time.sleep(0.001)
                process.stdin.write("\n")
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), "begins\n", name)
                time.sleep(0.3)  # for the call to be under way; earlier is fine as well
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.stdout.readline(), "interrupted\n", name)
                print(f"{name}: interrupted after {time.monotonic() - began:.3f} s (0.2 on a quiet machine)", file=sys.stderr)
            finally:
                self.server.process.send_signal(signal.SIGCONT)
                process.communicate(timeout=240)

    def test_small_shared_memory(self):
        try:
            import torch  # noqa: F401  pylint: disable=unused-import
        except ImportError:
            self.skipTest("torch is not installed: tools/deps --torch")
        if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("needs root and namespaces, for a /dev/shm of its own")
        files = {f"large/{i:03d}": content(i, 1 << 20) for i in range(120)}
        self.client.put_many(files)
        self.client.snapshot("large", create=True, prefix="large/").close()
        program = self.base / "small_shm.py"
        program.write_text(SMALL_SHM, encoding="ascii")
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh", sys.executable,
             str(program), f"{self.url}@large", self.login["credentials"]], capture_output=True, text=True, timeout=400,
            env={**os.environ, "GRANARY_QUIET": "1", "OMP_NUM_THREADS": "1"}, check=False)
        self.assertEqual((done.returncode, done.stdout.strip()), (0, f"120 {120 << 20} {120 << 20}"), done.stderr[-3000:])

    def test_fork(self):
        """Both sides go on, with the client, a snapshot and a stream that were open."""
        client = granary.connect(self.url, **self.login)
        snapshot, stream = client.snapshot("v1"), iter(self.stream(shuffle="exact", seed=3))
        first = next(stream)
        key, data = next(iter(self.files.items()))
        self.assertEqual(client.get(key), data)
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = client.get(key) == data and bytes(first[0]) == self.files[first.keys()[0]]
                good = good and snapshot.keys([0]) == self.client.snapshot("v1").keys([0])
                good = good and sorted(i for b in ids_of(self.stream(shuffle="exact")) for i in b) == list(range(self.SAMPLES))
            finally:
                os._exit(0 if good else 1)
        _, status = os.waitpid(child, 0)
        self.assertEqual(status, 0)
        self.assertEqual(client.get(key), data)
        self.assertEqual(ids_of([first]) + ids_of(stream), ids_of(self.stream(shuffle="exact", seed=3)))

    def test_errors_say_where(self):
        """Key, endpoint, request and hint, also behind pickle."""
        snapshot, requests = self.client.snapshot("v1"), []
        cases = [(lambda: self.client.get("none"), KeyError, "none"), (lambda: self.client.stat("none"), KeyError, "none"),
                 (lambda: self.client.delete("none"), KeyError, "none"),
                 (lambda: self.client.put("train/ankle/00000.bin", b"", if_absent=True), FileExistsError,
                  "train/ankle/00000.bin"),
                 (lambda: self.client.snapshot("none"), KeyError, "none"), (lambda: snapshot.find("no name"), KeyError, "no name"),
                 (lambda: self.client.remove_snapshot("none"), KeyError, "none")]
        for call, kind, key in cases:
            with self.assertRaises(kind) as caught:
                call()
            for error in (caught.exception, pickle.loads(pickle.dumps(caught.exception))):
                self.assertIsInstance(error, granary.Error)
                self.assertIn(key, str(error))
                self.assertIn("data", error.endpoint)
                if key != "no name":  # names of a snapshot are looked up here: nothing is asked
                    self.assertRegex(error.request_id, r"^[0-9a-f]+-[0-9a-f]+$")
                self.assertTrue(error.hint, error)
            requests.append(caught.exception.request_id)
            self.client.get("train/ankle/00000.bin")  # what comes after it does not change it
            self.assertEqual(caught.exception.request_id, requests[-1])
        self.assertEqual(len(set(requests)), len(cases), "each names its own")
        with self.assertRaises(granary.Error) as caught:
            list(granary.IterableDataset(f"{self.url}@none", **self.login))
        self.assertRegex(caught.exception.request_id, r"^[0-9a-f]+-[0-9a-f]+$")
        with self.assertRaises(PermissionError) as caught:
            granary.connect(self.url, access_key="NOSUCHKEY", secret="0" * 64).get("x")
        self.assertTrue(caught.exception.hint)
        self.assertIn("data", caught.exception.endpoint)


if __name__ == "__main__":
    granary_case.main()
