"""Examples that each property of the tests is tried with, and whether it holds.

    python benchmarks/properties.py [--profile tests|nightly] [FILE[::TEST] ...]

Without files, all tests that use Hypothesis. Writes benchmarks/results/properties.json,
one row per property; the rows of what was not run stay.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "properties.json"
PROPERTY = re.compile(r"^(tests/\w+\.py::\S.*):$")
COUNTS = re.compile(r"(\d+) passing, (\d+) failing, and (\d+) invalid test cases")
STOPPED = re.compile(r"- Stopped because (.+)")


def find_files() -> list[str]:
    "The tests that use Hypothesis."
    files = sorted((ROOT / "tests").glob("test_*.py"))
    found = [f for f in files if "from hypothesis" in f.read_text(encoding="utf-8")]
    return [str(file.relative_to(ROOT)) for file in found]


def run_target(
    target: str,  # a test file or FILE::TEST, relative to the root of the repository
    profile: str,  # of Hypothesis: "tests" or "nightly"
) -> str:  # what pytest printed
    "Run the properties of a file, or one of them."
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "hypothesis", "--hypothesis-show-statistics", target]
    environment = os.environ | {"HYPOTHESIS_PROFILE": profile}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # 1: tests failed, which is a result
        raise SystemExit(f"{target} could not be run:\n{done.stdout}{done.stderr}")
    return done.stdout


def read_statistics(
    text: str,  # what pytest printed
) -> list[dict]:  # one row per property, with the sums of its phases
    "The examples of each property, from the statistics of Hypothesis."
    rows = []
    counts = dict.fromkeys(("passing", "failing", "invalid"), 0)
    for line in text.splitlines():
        if match := PROPERTY.match(line):
            rows.append({"property": match[1], **counts, "stopped": None})
        elif match := COUNTS.search(line):
            for name, number in zip(counts, match.groups(), strict=True):
                rows[-1][name] += int(number)
        elif match := STOPPED.search(line):
            rows[-1]["stopped"] = match[1]
    return rows


def write_rows(
    rows: list[dict],  # of the properties that were run
    target: str,  # what was run: FILE or FILE::TEST
    profile: str,  # under which they were run
) -> None:
    "Put rows into the results in place of all older ones of the target."
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    older = re.compile(re.escape(target) + r"(::|\[|$)")
    kept = [row for row in old if not older.match(row["property"])]
    new = [{**row, "profile": profile, "holds": not row["failing"]} for row in rows]
    ordered = sorted(kept + new, key=lambda row: row["property"])
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="FILE[::TEST]")
    parser.add_argument("--profile", default="nightly", choices=["tests", "nightly"])
    arguments = parser.parse_args()
    for target in arguments.targets or find_files():
        printed = run_target(target, arguments.profile)
        rows = read_statistics(printed)
        write_rows(rows, target, arguments.profile)
        for row in rows:
            print(f"{row['passing']:5} {row['failing']:3}  {row['property']}")
        if any(row["failing"] for row in rows):
            print(printed)


if __name__ == "__main__":
    main()
