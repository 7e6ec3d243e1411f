#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: every example in the public headers compiles, warning-free, and links against libgranary alone; every function that the
header declares is exported by the shared library under the version GRANARY_0.1, and nothing else is; the library needs
libc and libcrypto only, and no symbol newer than GLIBC_2.34."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SRC = pathlib.Path(os.environ.get("GRANARY_SRC", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("GRANARY_BUILD", SRC / "build" / "dev"))
HEADERS = sorted((SRC / "include" / "granary").glob("*.h"))
WARNINGS = "-Werror -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wcast-qual -Wwrite-strings -Wno-missing-prototypes"
failures = []


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def examples():
    """The text between `@example` and `@end`, without the comment's leading ` *` and tab."""
    found, lines = [], None
    for line in "\n".join(h.read_text() for h in HEADERS).splitlines():
        if line.strip() == "* @example":
            lines = []
        elif line.strip().startswith("* @end") and lines is not None:
            found.append("\n".join(lines) + "\n")
            lines = None
        elif lines is not None:
            lines.append(re.sub(r"^ \*\t?", "", line))
    return found


def check_examples(folder, library):
    texts = examples()
    if len(texts) < 5:
        failures.append(f"only {len(texts)} examples found in the headers")
    for number, text in enumerate(texts, 1):
        source = folder / f"example{number}.c"
        source.write_text(text)
        has_main = re.search(r"\bint main\(", text)
        sanitize = os.environ.get("GRANARY_SANITIZE", "")
        command = ["gcc", "-std=c17", "-D_DEFAULT_SOURCE", *WARNINGS.split(), "-I", str(SRC / "include"), str(source)]
        if not has_main:
            command += ["-c", "-o", str(folder / "example.o")]
        elif sanitize:  # the sanitizers' run-time is clang's: compiling is what can be checked
            command += ["-c", "-o", str(folder / "example.o")]
        else:
            command += ["-o", str(folder / "example"), str(library), f"-Wl,-rpath,{library.parent}"]
        result = run(*command)
        if result.returncode:
            failures.append(f"example {number} does not compile:\n{result.stderr}")
    alone = folder / "alone.c"
    alone.write_text('#include "granary/granary.h"\nint main(void) { return 0; }\n')
    for compiler, language, standard in (("gcc", "c", "c11"), ("gcc", "c", "c17"), ("g++", "c++", "c++11")):
        flags = [w for w in WARNINGS.split() if language == "c" or w not in ("-Wshadow", "-Wno-missing-prototypes")]
        result = run(compiler, "-x", language, f"-std={standard}", *flags, "-I", str(SRC / "include"), "-fsyntax-only",
                     str(alone))
        if result.returncode:
            failures.append(f"the header as {standard}:\n{result.stderr}")


def check_symbols(library):
    text = "\n".join(h.read_text() for h in HEADERS)
    declared = set(re.findall(r"\b(granary_\w+)\(", re.sub(r"/\*.*?\*/", "", text, flags=re.S)))
    inline = set(re.findall(r"static inline (?:struct )?\w+ (granary_\w+)\(", text))
    exported, unversioned = set(), set()
    for line in run("nm", "-D", "--defined-only", "--with-symbol-versions", str(library)).stdout.splitlines():
        name = line.split()[-1]
        if name.startswith("GRANARY_0.1"):
            continue
        (exported if name.endswith("@@GRANARY_0.1") else unversioned).add(name.split("@")[0])
    declared = {name for name in declared - inline if not name.endswith("_fn")}
    if declared - exported:
        failures.append(f"declared but not exported: {sorted(declared - exported)}")
    if exported - declared:
        failures.append(f"exported but not declared: {sorted(exported - declared)}")
    if unversioned:
        failures.append(f"exported without a version: {sorted(unversioned)}")


def check_needs(library):
    if os.environ.get("GRANARY_SANITIZE"):
        return
    needs = set(re.findall(r"NEEDED\s+Shared library: \[([^\]]+)\]", run("readelf", "-d", str(library)).stdout))
    extra = {n for n in needs if not re.match(r"(libc|libcrypto|ld-linux[\w-]*)\.so", n)}
    if extra:
        failures.append(f"the library needs {sorted(extra)}")
    versions = set(re.findall(r"GLIBC_(\d+)\.(\d+)", run("objdump", "-T", str(library)).stdout))
    newer = [v for v in versions if (int(v[0]), int(v[1])) > (2, 34)]
    if newer:
        failures.append(f"symbols newer than GLIBC_2.34: {newer}")


def main():
    library = next(iter(sorted(BUILD.glob("libgranary.so*"), key=lambda p: len(p.name))), None)
    if library is None:
        print(f"no libgranary.so in {BUILD}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        check_examples(pathlib.Path(folder), library)
    check_symbols(library)
    check_needs(library)
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
