"""Adds up the results in a folder: unit.xml (ctest) and integration.xml (pytest), and failed steps (--failed NAME).

A cmocka program counts with each of its tests; one that crashed before it could say which test failed counts as
one more failure. The last line is "N passed, N failed"; the exit status is 0 if something passed and nothing failed.
"""
import argparse
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

_CASE = re.compile(r"^\[\s+(OK|FAILED)\s+\] ([A-Za-z0-9_]+)\s*$", re.M)


def ctest(path):
    passed, failed = 0, []
    for case in ET.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        output = case.findtext("system-out") or ""
        outcomes = {}
        for outcome, test in _CASE.findall(output):
            outcomes[test] = "FAILED" if outcomes.get(test) == "FAILED" else outcome
        bad = [test for test, outcome in outcomes.items() if outcome == "FAILED"]
        passed += len(outcomes) - len(bad)
        failed += [f"{name}: {test}" for test in bad]
        if case.get("status") == "run":
            if not outcomes:
                passed += 1
        elif not bad:
            failed.append(f"{name} ({case.get('status')})")
    return passed, failed


def pytest(path):
    passed, failed, skipped = 0, [], 0
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            if name not in failed:
                failed.append(name)
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--failed", action="append", default=[])
    arguments = parser.parse_args()
    passed, skipped, failed = 0, 0, list(arguments.failed)
    for name, read in (("unit.xml", ctest), ("integration.xml", pytest)):
        path = arguments.results / name
        if not path.exists():
            if not failed:
                failed.append(f"{name} was not written")
            continue
        try:
            more_passed, more_failed, *more_skipped = read(path)
        except ET.ParseError as e:
            failed.append(f"{name}: {e}")
            continue
        print(f"{name[:-4]}: {more_passed} passed, {len(more_failed)} failed"
              + (f", {more_skipped[0]} skipped" if more_skipped and more_skipped[0] else ""))
        passed += more_passed
        failed += more_failed
        skipped += sum(more_skipped)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
