"""Whether the model of a run may replace the one that answers: status 0, or 1 and a
sentence on each reason against it.

    python deploy/gate.py --run runs/2024-05-02 --before runs/2024-05-01
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def read_numbers(
    run: Path,  # the --out of `recsys-nb run`
) -> dict:  # of metrics.json
    "What a run has measured."
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def find_drift(
    numbers: dict,  # of a run
) -> list[str]:  # reasons against the model
    "Columns that have moved far from the training part to the test part."
    columns = numbers.get("drift", {}).get("columns", [])
    moved = [row["column"] for row in columns if row["change"] == "large"]
    return [f"the log has drifted: {', '.join(moved)}"] if moved else []


def find_loss(
    numbers: dict,  # of a run
) -> list[str]:  # reasons against the model
    "Whether the model is worse than what is popular."
    worse = [
        f"{row['metric']} is below that of popularity: {row['difference']:+.4f}"
        for row in numbers["popularity"]
        if row["metric"].startswith("ndcg") and row["high"] < 0
    ]
    return worse[:1]


def find_fall(
    numbers: dict,  # of a run
    before: dict,  # of the run of the model that answers now
    most: float,  # share of NDCG that may be lost
) -> list[str]:  # reasons against the model
    "Whether the model is much worse than the one before was in its own night."
    own, old = [n["metrics"]["Recommender"]["metrics"] for n in (numbers, before)]
    name = next(metric for metric in own if metric.startswith("ndcg"))
    now, then = own[name]["value"], old[name]["value"]
    if now >= (1 - most) * then:
        return []
    return [f"{name} fell from {then:.4f} to {now:.4f}, by more than {most:.0%}"]


def main() -> int:  # 0: it may
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the new run")
    parser.add_argument("--before", type=Path, help="the run that answers now")
    parser.add_argument("--fall", type=float, default=0.2, help="of NDCG (default: .2)")
    parser.add_argument("--allow-drift", action="store_true", help="after a look at it")
    options = parser.parse_args()
    numbers = read_numbers(options.run)
    reasons = find_loss(numbers)
    if not options.allow_drift:
        reasons += find_drift(numbers)
    if options.before is not None:
        reasons += find_fall(numbers, read_numbers(options.before), options.fall)
    for reason in reasons:
        print(f"{options.run} is not taken: {reason}", file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
