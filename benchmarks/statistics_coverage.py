"""Coverage and false alarms of the statistics, by simulation.

    python benchmarks/statistics_coverage.py [ece] [segments] [monitor] [models]

Writes benchmarks/results/statistics.json, which chapters show. "plain" is the usual
way (percentile bootstrap, no correction, no minimum), "here" is the package's.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from recsys_nb.evaluation import compare_all, correct_holm, evaluate, reliability
from recsys_nb.evaluation.calibration import split_by_mass
from recsys_nb.experiments import analyze, monitor

RESULTS = Path(__file__).parent / "results" / "statistics.json"
TESTS = 200

# how the true probability q follows from the prediction p: seven true ECEs
MISCALIBRATIONS = {
    "none": lambda p: p,
    "all 5% too low": lambda p: np.minimum(p * 1.05, 1),
    "all 20% too low": lambda p: np.minimum(p * 1.2, 1),
    "all 50% too low": lambda p: np.minimum(p * 1.5, 1),
    "a little too sure": lambda p: expit(0.8 * np.log(p / (1 - p)) - 0.3),
    "far too sure": lambda p: expit(0.5 * np.log(p / (1 - p)) - 0.75),
    "one bin off": lambda p: np.where(p > np.quantile(p, 0.9), p - 0.3, p).clip(0),
}


def percentile_interval(y, p, n_boot, seed):
    "The ECE's percentile bootstrap by rows, with the bins held."
    rng, bins = np.random.default_rng(seed), split_by_mass(p, 10)
    draws = []
    for _ in range(n_boot):
        rows = rng.integers(len(y), size=len(y))
        off = np.bincount(bins[rows], (y - p)[rows], bins.max() + 1)
        draws.append(np.abs(off).sum() / len(y))
    return np.quantile(draws, [0.025, 0.975])


def cover_ece(n=1000, n_boot=300):
    "Coverage of 95% intervals of the ECE at seven true values."
    rows = []
    for name, truth in MISCALIBRATIONS.items():
        found = []
        for seed in range(TESTS):
            rng = np.random.default_rng(seed)
            p = expit(rng.normal(-1.5, 1, n))
            q = truth(p)
            y = rng.random(n) < q
            true = np.abs(np.bincount(split_by_mass(p, 10), q - p)).sum() / n
            r = reliability(y, p, n_boot=n_boot, seed=seed)
            low, high = percentile_interval(y, p, n_boot, seed)
            found.append(
                {
                    "true": true,
                    "as it is": r["ece"],
                    "debiased": r["ece_debiased"],
                    "plain coverage": low <= true <= high,
                    "coverage": r["ece_low"] <= true <= r["ece_high"],
                    "plain width": high - low,
                    "width": r["ece_high"] - r["ece_low"],
                }
            )
        mean = pd.DataFrame(found).astype(float).mean().round(4).to_dict()
        rows.append({"miscalibration": name} | mean)
    return rows


def alarm_segments(n=2000, columns=5, levels=4):
    "False alarms of 'the effect differs by a segment' where it differs by none."
    plain, here = 0, 0
    for seed in range(TESTS):
        rng = np.random.default_rng(seed)
        groups = {f"s{c}": rng.integers(levels, size=n) for c in range(columns)}
        frame = pd.DataFrame(
            {
                "user_id": np.arange(n),
                "variant": np.where(np.arange(n) % 2, "treatment", "control"),
                "revenue": rng.exponential(size=n),
                **groups,
            }
        )
        found = analyze(frame, metrics="revenue", segments=list(groups)).segments
        plain += bool((found.p_differs < 0.05).any())
        here += bool((found.p_differs_adjusted < 0.05).any())
    return {"columns": columns, "plain": plain / TESTS, "here": here / TESTS}


def heavy_log(seed, users=4000, days=60):
    "An experiment without effect: one user in twenty buys, for enormous sums at times."
    rng = np.random.default_rng(seed)
    amount = (rng.random(users) < 0.05) * rng.lognormal(3, 1.5, users)
    days = pd.to_timedelta(rng.uniform(0, days, users), "D")
    return pd.DataFrame(
        {
            "user_id": np.arange(users),
            "variant": np.where(np.arange(users) % 2, "treatment", "control"),
            "timestamp": pd.Timestamp("2024-03-01") + days,
            "revenue": amount,
        }
    )


def alarm_monitor():
    "False decisions of monitor under heavy tails, at effect=1."
    rows = []
    for name, options in {"plain": {"min_users": 2}, "here": {}}.items():
        ever, early = 0, 0
        for seed in range(TESTS):
            found = monitor(heavy_log(seed), "revenue", effect=1.0, **options)
            table = found.table
            out = table[(table.low > 0) | (table.high < 0)]
            ever += bool(len(out))
            early += bool(len(out) and out.users.iloc[0] < 1000)
        rows.append(
            {
                "way": name,
                "before 500 users an arm": early / TESTS,
                "within 60 days": ever / TESTS,
            }
        )
    return rows


def hit_reports(rates, seed, users=400):
    "Reports of models that find each user's only item at the given rates."
    rng = np.random.default_rng(seed)
    truth = pd.DataFrame({"user_id": np.arange(users), "item_id": 1})
    reports = {}
    for m, rate in enumerate(rates):
        item = np.where(rng.random(users) < rate, 1, 2)
        lists = pd.DataFrame({"user_id": truth.user_id, "item_id": item, "rank": 1})
        reports[f"model {m}"] = evaluate(
            lists, truth, k=1, metrics="hit_rate", n_boot=1000
        )
    return reports


def share_p(draws):
    "The two-sided p-value that shares of resamples give."
    low, high = (
        (1 + (side).sum()) / (len(draws) + 1) for side in (draws <= 0, draws >= 0)
    )
    return min(1.0, 2 * min(low, high))


def alarm_models(tests=TESTS // 4):
    "Eight models: false alarms where all are alike, alarms where one is better by .3."
    rows = []
    for name, better in (("all alike", 0.0), ("one better by .3", 0.3)):
        plain, here = 0, 0
        for seed in range(tests):
            found = compare_all(
                hit_reports([0.4 + better] + [0.4] * 7, seed), "hit_rate@1"
            )
            p = np.array([share_p(c.draws.iloc[:, 0].to_numpy()) for c in found.pairs])
            plain += bool((correct_holm(p) < 0.05).any())
            here += bool((found.to_frame().p_holm < 0.05).any())
        rows.append(
            {
                "models": name,
                "tests": tests,
                "plain": plain / tests,
                "here": here / tests,
            }
        )
    return rows


PARTS = {
    "ece": cover_ece,
    "segments": alarm_segments,
    "monitor": alarm_monitor,
    "models": alarm_models,
}


def main():
    warnings.simplefilter("ignore")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in sys.argv[1:] or PARTS:
        results[part] = PARTS[part]()
        print(json.dumps(results[part], indent=1))
    RESULTS.write_text(json.dumps({"tests": TESTS} | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
