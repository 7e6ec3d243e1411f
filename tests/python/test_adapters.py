#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: pandas, pyarrow, Hugging Face datasets, DuckDB, WebDataset, Grain and Ray Data, as they are on PyPI, read granary://
and get the bytes that were put; DALI's external_source takes the callable, in the pipeline's process and in workers."""
import io
import json
import os
import pickle
import tarfile

import venv_lib

WANTED = ["fsspec>=2024.6", "pandas", "pyarrow", "duckdb", "datasets", "webdataset", "grain"] + (
    ["ray[data]", "nvidia-dali-cuda120"] if venv_lib.LONG else [])
venv_lib.enter("adapters", WANTED)

import granary_case  # noqa: E402  pylint: disable=wrong-import-position
from granary_case import Case, content, granary  # noqa: E402  pylint: disable=wrong-import-position
import numpy  # noqa: E402  pylint: disable=wrong-import-position
import pandas  # noqa: E402  pylint: disable=wrong-import-position
import pyarrow  # noqa: E402  pylint: disable=wrong-import-position
import pyarrow.dataset  # noqa: E402  pylint: disable=wrong-import-position
import pyarrow.parquet  # noqa: E402  pylint: disable=wrong-import-position
from granary import fs, integrations  # noqa: E402  pylint: disable=wrong-import-position

ROWS = 1000


def table(part):
    """Rows part * ROWS ... of a table whose columns follow from their number."""
    numbers = list(range(part * ROWS, (part + 1) * ROWS))
    return pandas.DataFrame({"n": numbers, "square": [n * n for n in numbers], "word": [f"w{n % 7}" for n in numbers]})


class Tables(Case):
    """What comes through fsspec."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        fs.register()
        cls.fs = fs.GranaryFileSystem(host=cls.server.url[len("granary://"):], **cls.login)
        cls.whole = pandas.concat([table(i) for i in range(3)], ignore_index=True)
        for i in range(3):
            table(i).to_parquet(f"{cls.url}/tables/part-{i}.parquet", storage_options=cls.login)
        cls.whole.to_csv(f"{cls.url}/all.csv", index=False, storage_options=cls.login)

    def test_pandas(self):
        back = pandas.read_parquet(f"{self.url}/tables/part-1.parquet", storage_options=self.login)
        pandas.testing.assert_frame_equal(back, table(1))
        columns = pandas.read_parquet(f"{self.url}/tables/part-2.parquet", columns=["square"], storage_options=self.login)
        self.assertEqual(columns["square"].tolist(), table(2)["square"].tolist())
        pandas.testing.assert_frame_equal(pandas.read_csv(f"{self.url}/all.csv", storage_options=self.login), self.whole)
        with self.assertRaises(FileNotFoundError):
            pandas.read_csv(f"{self.url}/none.csv", storage_options=self.login)

    def test_pyarrow(self):
        found = pyarrow.dataset.dataset("data/tables", filesystem=self.fs, format="parquet")
        self.assertEqual(len(found.files), 3)
        rows = found.to_table(filter=pyarrow.dataset.field("n") >= 2 * ROWS, columns=["n", "word"])
        self.assertEqual(sorted(rows["n"].to_pylist()), list(range(2 * ROWS, 3 * ROWS)))
        pyarrow.dataset.write_dataset(found.to_table(), "data/out", filesystem=self.fs, format="parquet",
                                      partitioning=["word"], existing_data_behavior="overwrite_or_ignore")
        again = pyarrow.dataset.dataset("data/out", filesystem=self.fs, format="parquet", partitioning=["word"])
        self.assertEqual(again.count_rows(), 3 * ROWS)
        self.assertEqual(sorted(again.to_table(columns=["n"])["n"].to_pylist()), list(range(3 * ROWS)))

    def test_duckdb(self):
        import duckdb
        link = duckdb.connect()
        link.register_filesystem(self.fs)
        host = self.fs.host
        count, total = link.execute(f"select count(*), sum(square) from '{granary_url(host)}/data/tables/*.parquet'").fetchone()
        self.assertEqual((count, total), (3 * ROWS, int(self.whole["square"].sum())))
        words = link.execute(f"select word, count(*) from read_csv('{granary_url(host)}/data/all.csv') group by word "
                             "order by word").fetchall()
        self.assertEqual(words, list(self.whole.groupby("word").size().items()))

    def test_datasets(self):
        import datasets
        cache = str(self.base / "hf")
        loaded = datasets.load_dataset("parquet", data_files=f"{self.url}/tables/*.parquet", storage_options=self.login,
                                       split="train", cache_dir=cache)
        self.assertEqual(sorted(loaded["n"]), list(range(3 * ROWS)))
        streamed = datasets.load_dataset("csv", data_files=f"{self.url}/all.csv", storage_options=self.login, streaming=True,
                                         split="train", cache_dir=cache)
        self.assertEqual([row["square"] for row in streamed.take(50)], [n * n for n in range(50)])
        loaded.save_to_disk(f"{self.url}/saved", storage_options=self.login)
        again = datasets.load_from_disk(f"{self.url}/saved", storage_options=self.login)
        self.assertEqual(again["word"][:9], loaded["word"][:9])


def granary_url(host):
    return f"granary://{host}"


class Samples(Case):
    SAMPLES = 120

    def shard(self, names):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in names:
                for suffix, data in (("bin", self.files[name]), ("json", json.dumps({"key": name}).encode())):
                    info = tarfile.TarInfo(f"{name.rsplit('/', 1)[1].split('.')[0]}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def test_webdataset(self):
        import webdataset
        integrations.register_webdataset(**self.login)
        names = sorted(self.files)
        for i in range(4):
            self.client.put(f"shards/{i:03d}.tar", self.shard(names[i::4]))
        found = webdataset.WebDataset(f"{self.url}/shards/{{000..003}}.tar", shardshuffle=False)
        seen = {}
        for sample in found.decode():
            seen[sample["json"]["key"]] = sample["bin"]
        self.assertEqual(seen, self.files)
        with webdataset.TarWriter(f"{self.url}/written.tar") as out:
            out.write({"__key__": "a", "bin": b"content of a"})
        back = list(webdataset.WebDataset(f"{self.url}/written.tar", shardshuffle=False))
        self.assertEqual([(s["__key__"], s["bin"]) for s in back], [("a", b"content of a")])
        with self.assertRaises(KeyError):
            list(webdataset.WebDataset(f"{self.url}/none.tar", shardshuffle=False))
        for wrong in (f"{self.url}@v1", self.url):
            with self.assertRaisesRegex(ValueError, "no object"):
                webdataset.gopen(wrong)

    def test_reader(self):
        """What shards are read through: pieces, seeking, a replacement in its midst."""
        data = content(5, 9 << 20)
        self.client.put("large", data)
        with self.client.open_read("large") as f:
            self.assertEqual(f.read(10), data[:10])
            f.seek(-7, io.SEEK_END)
            self.assertEqual((f.tell(), f.read()), (len(data) - 7, data[-7:]))
            f.seek(5 << 20)
            self.assertEqual(f.read(4 << 20), data[5 << 20:])
            self.assertEqual(f.read(), b"")
        with self.client.open_read("large") as f:
            f.read(100)
            self.client.put("large", data[::-1])
            with self.assertRaises(granary.Error) as caught:
                f.read()
            self.assertEqual((caught.exception.name, caught.exception.key), ("CHANGED", "large"))
        with self.assertRaises(KeyError):
            self.client.open_read("none")

    def test_grain(self):
        import grain
        source = granary.MapDataset(self.v1, **self.login)
        self.assertIsInstance(source, grain.sources.RandomAccessDataSource)
        expected = [source[i] for i in range(len(source))]
        whole = grain.MapDataset.source(source)
        self.assertEqual([whole[i] for i in range(len(whole))], expected)
        shuffled = list(whole.seed(3).shuffle().map(lambda item: (len(item[0]), item[1])))
        self.assertEqual(sorted(shuffled), sorted((len(d), label) for d, label in expected))
        self.assertNotEqual(shuffled, [(len(d), label) for d, label in expected])
        requests = self.client.info()["requests"]
        self.assertEqual(list(source._getitems([5, 3, 5])), [expected[5], expected[3], expected[5]])
        self.assertEqual(self.client.info()["requests"], requests, "it has a client of its own")
        loader = grain.DataLoader(
            data_source=pickle.loads(pickle.dumps(source)), worker_count=0,
            sampler=grain.samplers.IndexSampler(num_records=len(source), shuffle=True, seed=1, num_epochs=1,
                                                shard_options=grain.sharding.NoSharding()))
        self.assertEqual(sorted(loader), sorted(expected))

    def test_dali_callable(self):
        """What the documentation of DALI's external_source says of a callable."""
        source = integrations.DaliSource(self.stream(shuffle="exact", seed=4, batch_size=16))
        plain = list(self.stream(shuffle="exact", seed=4, batch_size=16))
        batches = list(iter_until_stop(source))
        self.assertEqual(len(batches), len(plain))
        for (arrays, labels), batch in zip(batches, plain):
            self.assertEqual([a.tobytes() for a in arrays], [bytes(b) for b in batch])
            self.assertTrue(all(a.dtype == numpy.uint8 and a.ndim == 1 for a in arrays))
            self.assertEqual((labels.dtype, labels.shape), (numpy.int64, (16, 1)))
            self.assertEqual(labels[:, 0].tolist(), batch.labels.tolist())
        self.assertEqual(source.dataset.epoch, 1)
        following = [a.tobytes() for a in source()[0]]  # the next epoch
        self.assertNotEqual(following, [a.tobytes() for a in batches[0][0]])

        class BatchInfo:
            """As nvidia.dali.types.BatchInfo."""

            def __init__(self, iteration, epoch_idx):
                self.iteration, self.epoch_idx = iteration, epoch_idx
        parallel = integrations.DaliSource(self.stream(shuffle="exact", seed=4, batch_size=16), labels=False)
        workers = [pickle.loads(pickle.dumps(parallel)) for _ in range(3)]
        for epoch in (0, 1):
            for i in range(len(plain)):
                arrays = workers[i % 3](BatchInfo(i, epoch))
                got = [a.tobytes() for a in arrays]
                self.assertEqual(got == [bytes(b) for b in plain[i]], epoch == 0)
            for worker in workers:
                with self.assertRaises(StopIteration):
                    worker(BatchInfo(len(plain), epoch))
        expected = [a.tobytes() for a in workers[1](BatchInfo(2, 1))]
        self.assertEqual([a.tobytes() for a in workers[0](5)], [bytes(b) for b in plain[5]])
        self.assertTrue([a.tobytes() for a in workers[0](2)] == expected, "the following epoch's")

    def test_dali(self):
        """Pipelines on the CPU: two epochs in the process, and batches of worker processes."""
        if not venv_lib.LONG and not os.environ.get("GRANARY_VENV"):
            self.skipTest("DALI is tried with GRANARY_TEST_LONG=1")
        from nvidia.dali import fn, pipeline_def
        plain = [[(bytes(b), label) for b, label in zip(batch, batch.labels.tolist())]
                 for batch in self.stream(shuffle="exact", seed=4, batch_size=16)]

        def run(pipe, batches):
            """A list of (bytes, label) a batch."""
            for _ in range(batches):
                data, labels = pipe.run()
                yield [(data.at(i).tobytes(), int(labels.at(i)[0])) for i in range(len(data))]

        @pipeline_def(batch_size=16, num_threads=1, device_id=None)
        def serial(source):
            return tuple(fn.external_source(source=source, num_outputs=2, batch=True))

        @pipeline_def(batch_size=16, num_threads=1, device_id=None, py_num_workers=2, py_start_method="spawn")
        def parallel(source):
            return tuple(fn.external_source(source=source, num_outputs=2, batch=True, parallel=True, batch_info=True))
        pipe = serial(integrations.DaliSource(self.stream(shuffle="exact", seed=4, batch_size=16)))
        pipe.build()
        self.assertTrue(list(run(pipe, len(plain))) == plain)
        with self.assertRaises(StopIteration):
            pipe.run()
        pipe.reset()
        following = list(run(pipe, len(plain)))
        self.assertTrue(following != plain, "the second epoch has the order of the first")
        self.assertTrue(set(sum(following, [])) == set(sum(plain, [])), "other samples")
        pipe = parallel(integrations.DaliSource(self.stream(shuffle="exact", seed=4, batch_size=16)))
        pipe.build()
        self.assertTrue(list(run(pipe, len(plain))) == plain)

    def test_ray(self):
        if not venv_lib.LONG and not os.environ.get("GRANARY_VENV"):
            self.skipTest("Ray is tried with GRANARY_TEST_LONG=1")
        import ray
        ray.init(num_cpus=2, include_dashboard=False, logging_level="error", _temp_dir="/tmp/granary-ray",
                 object_store_memory=100 << 20)
        try:
            system = fs.GranaryFileSystem(host=self.server.url[len("granary://"):], **self.login)
            found = ray.data.read_binary_files("data/train", filesystem=system, include_paths=True)
            rows = {row["path"].split("data/", 1)[1]: row["bytes"] for row in found.take_all()}
            self.assertEqual(rows, self.files)
        finally:
            ray.shutdown()


def iter_until_stop(source):
    while True:
        try:
            value = source()
        except StopIteration:
            return
        yield value


if __name__ == "__main__":
    granary_case.main()
