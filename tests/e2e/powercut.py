# SPDX-License-Identifier: Apache-2.0
"""powercut -- the record of tests/shim/powercut.c, and directories as a power cut could have left them.

  python3 tests/e2e/powercut.py RECORD_DIR          what the record holds
  python3 tests/e2e/powercut.py RECORD_DIR N OUT SEED   the directory of a cut after record N, into OUT

What a power cut may leave, and does here at random: of each file, what its last fsync or fdatasync covered, and any
prefix of the later writes in their order, the last of them torn at any byte; of the directory, what its last fsync
covered and any prefix of the later creations, renames and removals. sync_file_range and close promise nothing.
"""
import os
import random
import struct
import sys

RECORD = struct.Struct("<QIIQQQQ")
OPEN, WRITE, TRUNCATE, SYNC, DIR_SYNC, RENAME, UNLINK, EXTEND, PACK_NEW, PACK_GONE = range(1, 11)
KINDS = ["", "open", "write", "truncate", "sync", "dirsync", "rename", "unlink", "extend", "pack-new", "pack-gone"]


class File:
    """An inode: what is synced, and what was done to it since."""

    def __init__(self):
        self.synced = bytearray()
        self.later = []  # ("write", offset, bytes) | ("truncate", length) | ("extend", length)

    @staticmethod
    def apply(image, op, cut=None):
        if op[0] == "write":
            data = op[2] if cut is None else op[2][:cut]
            if len(image) < op[1]:
                image.extend(bytes(op[1] - len(image)))
            image[op[1]:op[1] + len(data)] = data
        elif op[0] == "truncate":
            del image[op[1]:]
            image.extend(bytes(op[1] - len(image)))
        elif len(image) < op[1]:
            image.extend(bytes(op[1] - len(image)))

    def sync(self):
        for op in self.later:
            self.apply(self.synced, op)
        self.later = []

    def image(self, rng):
        """(bytes, was something dropped, was a write torn)"""
        if not self.later:
            return self.synced, False, False
        dice = rng.random()
        count = 0 if dice < 0.25 else len(self.later) if dice < 0.5 else rng.randint(0, len(self.later))
        image = bytearray(self.synced)
        for op in self.later[:count]:
            self.apply(image, op)
        torn = False
        if count < len(self.later) and self.later[count][0] == "write" and rng.random() < 0.6:
            length = len(self.later[count][2])
            self.apply(image, self.later[count], rng.choice([rng.randint(0, length), min(length, rng.randint(1, 64)),
                                                             length // 512 * 512]))
            torn = True
        return image, count < len(self.later), torn


class Disk:
    """One directory, played record by record."""

    def __init__(self):
        self.now = {}      # name -> File, as processes see it
        self.synced = {}   # as of the last directory sync
        self.later = []    # what happened to names since
        self.handles = {}
        self.packs = set()
        self.gone = set()  # packs whose removal was seen
        self.counts = dict.fromkeys(KINDS[1:], 0)

    def name_op(self, names, op):
        if op[0] == "new":
            names[op[1]] = op[2]
        elif op[0] == "rename":
            if op[1] in names:
                names[op[2]] = names.pop(op[1])
        else:
            names.pop(op[1], None)

    def change(self, op):
        self.name_op(self.now, op)
        self.later.append(op)

    def play(self, r):
        _, kind, handle, offset, length, name, data = r
        self.counts[KINDS[kind]] += 1
        if kind == OPEN:
            name = name.decode()
            if offset == 1 or name not in self.now:
                self.change(("new", name, File()))
            self.handles[handle] = self.now[name]
            if length == 1:
                self.now[name].later.append(("truncate", 0))
        elif kind == WRITE:
            self.handles[handle].later.append(("write", offset, data))
        elif kind == TRUNCATE:
            self.handles[handle].later.append(("truncate", length))
        elif kind == EXTEND:
            self.handles[handle].later.append(("extend", length))
        elif kind == SYNC:
            self.handles[handle].sync()
        elif kind == DIR_SYNC:
            for op in self.later:
                self.name_op(self.synced, op)
            self.later = []
        elif kind == RENAME:
            old, new = name.decode().split("\0")
            if old in self.now:  # RocksDB's own text log is not recorded
                self.change(("rename", old, new))
        elif kind == UNLINK:
            if name.decode() in self.now:
                self.change(("unlink", name.decode()))
        elif kind == PACK_NEW:
            self.packs.add(name.decode())
        elif kind == PACK_GONE:
            self.packs.discard(name.decode())
            self.gone.add(name.decode())

    def cut(self, rng, out):
        """Writes the directory of a power cut right now; returns what was lost in it."""
        names = dict(self.synced)
        dice = rng.random()
        count = 0 if dice < 0.3 else len(self.later) if dice < 0.6 else rng.randint(0, len(self.later))
        for op in self.later[:count]:
            self.name_op(names, op)
        dropped = torn = 0
        os.makedirs(out, exist_ok=True)
        for name, file in sorted(names.items()):
            image, is_short, is_torn = file.image(rng)
            dropped += is_short
            torn += is_torn
            with open(os.path.join(out, name), "wb") as f:
                f.write(image)
        return {"files": len(names), "names_dropped": len(self.later) - count, "short": dropped, "torn": torn}


def read_records(path):
    """Yields (ns, kind, handle, offset, length, name, data); a record cut short by a kill ends it."""
    with open(path, "rb") as f:
        while True:
            head = f.read(RECORD.size)
            if len(head) < RECORD.size:
                return
            ns, kind, name_len, handle, offset, length, data_len = RECORD.unpack(head)
            rest = f.read(name_len + data_len)
            if len(rest) < name_len + data_len:
                return
            yield ns, kind, handle, offset, length, rest[:name_len], rest[name_len:]


def main():
    record = os.path.join(sys.argv[1], "ops.bin")
    disk = Disk()
    stop = int(sys.argv[2]) if len(sys.argv) > 2 else None
    for i, r in enumerate(read_records(record)):
        if stop is None and r[1] in (OPEN, RENAME, UNLINK, PACK_NEW, PACK_GONE):
            print(i, KINDS[r[1]], r[5].replace(b"\0", b" -> ").decode())
        if i == stop:
            break
        disk.play(r)
    if stop is not None:
        print(disk.cut(random.Random(int(sys.argv[4])), sys.argv[3]))
    print(disk.counts)


if __name__ == "__main__":
    main()
