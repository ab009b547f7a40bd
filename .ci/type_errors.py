"""Types as an editor sees them (pyright, basic): none is wrong in a script that uses
the package, and in the package itself there are no more errors than before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "tests/typed_script.py"
ALLOWED = 40  # errors in the package, 31 with the pinned packages: lower it with them


def find_checker() -> str:
    "The program: the one of this environment, or what TYPE_CHECKER names."
    beside = Path(sys.executable).parent / "basedpyright"
    return os.environ.get("TYPE_CHECKER", str(beside))


def find_errors() -> list[tuple[str, int, str]]:
    "File, line and message of each error."
    run = [find_checker(), "--outputjson", "--project", str(ROOT)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        sys.exit(f"types: {run[0]} failed: {done.stderr or done.stdout}")
    return [
        (
            str(Path(row["file"]).relative_to(ROOT)),
            row["range"]["start"]["line"] + 1,
            row["message"].splitlines()[0],
        )
        for row in found
        if row["severity"] == "error"
    ]


def main() -> None:
    errors = find_errors()
    if "--all" in sys.argv:
        for file, line, message in errors:
            print(f"{file}:{line}: {message}")
    of_users = [error for error in errors if error[0] == SCRIPT]
    own = [error for error in errors if error[0] != SCRIPT]
    for file, line, message in of_users:
        print(f"types: {file}:{line}: {message}", file=sys.stderr)
    if len(own) > ALLOWED:
        most = Counter(file for file, _, _ in own).most_common(10)
        listed = ", ".join(f"{file} {count}" for file, count in most)
        print(
            f"types: {len(own)} errors in the package, {ALLOWED} were known. List them "
            f"with `python .ci/type_errors.py --all`; most are in {listed}",
            file=sys.stderr,
        )
    if of_users or len(own) > ALLOWED:
        sys.exit(1)
    print(
        f"types: none wrong in {SCRIPT}; {len(own)} in the package (at most {ALLOWED})"
    )


if __name__ == "__main__":
    main()
