"""Delete a user from the folders of a shop: the reported events and the lists. Models
know the user until the next one is trained on the log without the user; the script
names those that do, and ends with status 1 as long as there are any.

    python deploy/forget.py --user 17 --events events --lists lists --models models
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def drop_rows(
    path: Path,  # of a Parquet file with user_id
    user: str,  # the id as text
) -> int:  # rows that are gone
    "Write a file without a user; it is whole at every moment."
    table = pq.read_table(path)
    ids = pc.cast(table["user_id"], pa.string())
    kept = table.filter(pc.not_equal(ids, user))
    n_gone = table.num_rows - kept.num_rows
    if n_gone:
        beside = path.with_name(f".{path.name}.new")
        pq.write_table(kept.replace_schema_metadata(table.schema.metadata), beside)
        beside.replace(path)
    return n_gone


def find_in_journals(
    events: Path,  # the folder of reported events
    user: str,  # the id as text
) -> list[Path]:
    "Journals that a running service still writes and that name a user."
    found = []
    for path in sorted((events / ".journal").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        if any(str(row["user_id"]) == user for row in rows):
            found.append(path)
    return found


def find_in_models(
    models: Path,  # the folder of exported versions
    user: str,  # the id as text
) -> list[Path]:
    "Exported models that know a user."
    found = []
    for path in sorted(models.glob("*/users.json")):
        ids = json.loads(path.read_text(encoding="utf-8"))
        if user in map(str, ids) and not path.parent.is_symlink():
            found.append(path.parent)
    return found


def main() -> int:  # 0: nothing is left
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--user", required=True, help="the id")
    for name in ("events", "lists", "models"):
        parser.add_argument(f"--{name}", type=Path, default=Path(name))
    options = parser.parse_args()
    n_gone = 0
    for folder in (options.events, options.lists):
        for path in sorted(folder.rglob("*.parquet")):
            n_gone += drop_rows(path, options.user)
    print(f"{n_gone:,} rows of events and lists are gone")
    journals = find_in_journals(options.events, options.user)
    models = find_in_models(options.models, options.user)
    for path in journals:
        print(f"still in {path}: again once its hour is over", file=sys.stderr)
    for path in models:
        print(f"still in {path}: train and export without the user", file=sys.stderr)
    return 1 if journals or models else 0


if __name__ == "__main__":
    sys.exit(main())
