#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""junit.py RESULT.xml STAGE FAILURES SKIPS -- prints "passed failed skipped" of one ctest run and appends a line for
each failed and each skipped test, a skip with the last line the test printed: its reason."""
import pathlib
import re
import sys
import xml.etree.ElementTree as ET


def last_line(case):
    """What a program that exits 77 says last; cmocka's own lines say nothing about the reason."""
    text = (case.findtext("system-out") or "").strip()
    rows = [r.strip() for r in text.splitlines() if r.strip() and not r.startswith("[")]
    return rows[-1][:160] if rows else "no reason given"


def main():
    result, stage, failures, skips = sys.argv[1:5]
    if not pathlib.Path(result).is_file():
        print("0 0 0")
        return
    passed = failed = skipped = 0
    with open(failures, "a", encoding="utf-8") as bad, open(skips, "a", encoding="utf-8") as left_out:
        for case in ET.parse(result).getroot().iter("testcase"):
            status, name = case.get("status"), case.get("name")
            if status == "run":
                passed += 1
                for inner in re.findall(r"^\[  SKIPPED \] (?!\d+ test)(.+)$", case.findtext("system-out") or "", re.M):
                    skipped += 1
                    left_out.write(f"{name}: {inner} ({stage}): {last_line(case)}\n")
            elif status in ("notrun", "disabled") and case.find("skipped") is not None \
                    and "SKIP_RETURN_CODE" in (case.find("skipped").get("message") or ""):
                skipped += 1
                left_out.write(f"{name} ({stage}): {last_line(case)}\n")
            else:
                failed += 1
                bad.write(f"{name} ({stage})\n")
    print(passed, failed, skipped)


if __name__ == "__main__":
    main()
