"""Are lists worth more when a ranker knows clicks, carts and purchases apart?

    python benchmarks/actions.py [--data simulated retailrocket] [--seeds 1 2 3]
        [--out results/actions.json]

Simulated: a click is worth 1 and a purchase its price. Lists of ten out of the same
candidates are worth what the simulator's truth expects of them, position by position.
Five orders compete: by one head's probability of a click; by that times a share of
purchases and the price; by a network of its own for each action; by one network with a
head for each; and by the truth. RetailRocket has no truth to pay lists by: there, and
on fresh exposures of the simulator, the heads are compared with networks of their own
by log loss, AUC and calibration. There nobody in the examples is without a past,
unless some newcomers are held out: both ways are measured. Seeds draw shops, or the
newcomers and the users that training leaves out.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _common import keep
from real_logs import read_events
from scipy.special import expit

from recsys_nb.data import World, count_actions, position_effect, split_by_time
from recsys_nb.evaluation import ranker_metrics, reliability
from recsys_nb.recommenders import EASE, ItemKNN, Popularity
from recsys_nb.recommenders.actions import ActionRanker, show_first
from recsys_nb.recommenders.candidates import gather_candidates
from recsys_nb.recommenders.evidence import ItemEvidence
from recsys_nb.recommenders.gate import Holdout
from recsys_nb.recommenders.pairs import with_tables
from recsys_nb.recommenders.ranker import DLRMRanker
from recsys_nb.recommenders.ranker_choice import resample_mean
from recsys_nb.recommenders.trial import (
    Trial,
    collect_examples,
    describe_exposures,
    fit_sources,
    print_nothing,
    refit,
    split_learners,
)

torch.set_num_threads(1)
FUNNEL = {
    "simulated": ("click", "add_cart", "purchase"),
    "retailrocket": ("cart", "buy"),
}
K = 10  # items of a list


@dataclass
class Rivals:
    "Networks that learnt from the same examples."

    several: ActionRanker  # a head for each action
    single: list[DLRMRanker]  # a network for each action

    def columns(self, pairs, context):  # probabilities (n, A) of both
        "What both say of each action."
        found = {"several heads": expit(self.several.run_network(*pairs, context))}
        alone = [one.run_network(*pairs, context) for one in self.single]
        return found | {"a network each": expit(np.column_stack(alone))}


def teach(trial, log, seed, names):
    "Fit all networks to one set of examples."
    examples = collect_examples(trial, trial.learners, names)
    print(examples, flush=True)
    evidence = ItemEvidence.of(log)
    several = ActionRanker(actions=trial.actions, seed=seed)
    several.learn(examples, trial.held.head).evidence_ = evidence
    single = []
    for step in range(len(trial.actions)):
        label = (examples.steps > step).astype(np.float32)
        ranker = DLRMRanker(seed=seed, calibration="platt")
        ranker.learn(replace(examples, label=label), trial.held.head)
        ranker.evidence_ = evidence
        single.append(ranker)
    return Rivals(several, single)


def make_trial(log, sources, actions, seed, newcomers=True):
    "The sources fitted to a head of the log, and to all of it."
    held = Holdout.of(log, seed=seed, newcomers=newcomers)
    probes, _ = fit_sources(sources, held.head.positives(), print_nothing)
    trial = Trial(held, probes, split_learners(held.users(seed)), 100, actions)
    whole = {n: refit(probes[n], s, log.positives()) for n, s in sources.items()}
    return trial, whole


def value_lists(world, log, whole, rivals):
    "What the ten best candidates of each user are worth by each order."
    first = next(iter(whole.values()))
    rows = np.flatnonzero(np.diff(first.histories_.offsets) > 0)
    past = first.histories_.take(rows)
    found = gather_candidates(whole, past, 100)
    pairs = past, found.owner, found.items, found.scores, found.ranks
    usual = rivals.several.features_.usual
    said = rivals.columns(pairs, show_first(usual, len(found)))
    user = pd.Index(world.users.user_id).get_indexer(first.user_ids_[rows])
    item = pd.Index(world.items.item_id).get_indexer(first.item_ids_)
    price = world.items.price.to_numpy()[item]
    kinds = log.interactions.event_type.value_counts()
    rate = kinds["purchase"] / kinds["click"]
    prices, click = price[found.items], said["a network each"][:, 0]
    truth = world.shop.click_model.chances
    chances = truth(user[found.owner], item[found.items], np.ones(len(found)))
    orders = {
        "clicks": click,
        "clicks x mean rate x price": click * (1 + rate * prices),
        "truth": worth_of(chances.cumprod(0).T, prices),
    }
    orders |= {name: worth_of(columns, prices) for name, columns in said.items()}
    worth = {}
    for name, scores in orders.items():
        items, _ = found.best(scores, K)
        shape = items.shape
        codes = items.clip(min=0)
        position = np.tile(np.arange(1, shape[1] + 1), len(items))
        seen = truth(
            np.repeat(user, shape[1]), item[codes.ravel()], position_effect(position)
        )
        values = worth_of(seen.cumprod(0).T, price[codes.ravel()])
        worth[name] = np.where(items >= 0, values.reshape(shape), 0).sum(1)
    return worth


def worth_of(chances, prices):
    "A click is worth 1, a purchase its price."
    return chances[:, 0] + chances[:, -1] * prices


def judge_heads(trial_log, whole, rivals, actions, test, about):
    "Log loss, AUC and calibration of each action on exposures that came later."
    steps = count_actions(test, actions)
    shown = test.labelled().assign(steps=steps)
    known = shown.user_id.isin(trial_log.user_ids) & shown.item_id.isin(
        trial_log.item_ids
    )
    shown = shown[known].sort_values("user_id", kind="stable")
    users = pd.Index(shown.user_id.unique())
    view = Trial(
        Holdout(trial_log, test, shown, shown, "time"), whole, [], 100, actions
    )
    found, steps, context = describe_exposures(view, users, tuple(whole), shown)
    pairs = (
        view.histories(users),
        found.owner,
        found.items,
        found.scores,
        found.ranks.astype(np.float32),
    )
    for name, value in rivals.several.features_.usual.items():
        context.loc[context[name] == 0, name] = value
    strangers = np.diff(pairs[0].offsets)[found.owner] == 0  # no past
    rows = []
    for name, columns in rivals.columns(pairs, context).items():
        for step, action in enumerate(actions):
            label = (steps > step).astype(int)
            p = columns[:, step].astype(float)
            quality = ranker_metrics(label, p, found.owner, n_boot=0)
            error = reliability(label, p, found.owner, n_boot=0)
            rows.append(
                about
                | {"model": name, "action": action, "exposures": len(label)}
                | {"taken": int(label.sum()), "predicted": p.mean()}
                | {"log_loss": quality["log_loss"], "auc": quality["auc"]}
                | {"ece": error["ece"], "ece_by_chance": error["ece_by_chance"]}
                | describe_strangers(strangers, label, p)
            )
    rows += compare_losses(rivals, pairs, context, steps, found.owner, actions, about)
    return rows


def describe_strangers(strangers, label, p):
    "What is said of exposures of users without a past, and what happened."
    if not strangers.any():
        return {}
    return {
        "strangers": float(strangers.mean()),
        "strangers_predicted": float(p[strangers].mean()),
        "strangers_observed": float(label[strangers].mean()),
    }


def compare_losses(rivals, pairs, context, steps, owner, actions, about):
    "The difference of log losses, several heads less a network each, over users."
    columns = rivals.columns(pairs, context)
    rows = []
    for step, action in enumerate(actions):
        label = steps > step
        losses = {}
        for name, p in columns.items():
            right = np.where(label, p[:, step], 1 - p[:, step]).astype(float)
            losses[name] = -np.log(right.clip(1e-7))
        gap = losses["several heads"] - losses["a network each"]
        per_user = np.bincount(owner, gap) / np.bincount(owner).clip(1)
        low, high = resample_mean(per_user[np.bincount(owner) > 0], seed=0)
        found = {"difference": per_user.mean(), "low": low, "high": high}
        rows.append(about | {"model": "difference", "action": action} | found)
    return rows


def run_simulated(seed):
    "A shop: values of lists, and the heads on fresh exposures."
    world = World(2_500, 600, seed=seed)
    log = world.sample(300_000)
    sources = {"EASE": EASE(), "Popularity": Popularity()}
    actions = FUNNEL["simulated"]
    trial, whole = make_trial(log, sources, actions, seed)
    rivals = teach(trial, log, seed, tuple(sources))
    about = {"data": "simulated", "seed": seed}
    worth = value_lists(world, log, whole, rivals)
    rows = [
        about | {"model": f"list: {name}", "action": "value", "worth": value.mean()}
        for name, value in worth.items()
    ]
    best = worth["several heads"]
    for name in worth:
        low, high = resample_mean(best - worth[name], seed)
        found = {"difference": (best - worth[name]).mean(), "low": low, "high": high}
        rows.append(about | {"model": f"less {name}", "action": "value"} | found)
    fresh = world.sample(30_000, seed=1000 + seed)
    return rows + judge_heads(log, whole, rivals, actions, fresh, about)


def run_retailrocket(seed, newcomers=True):
    "Views of RetailRocket that led to carts and purchases."
    log = read_events("retailrocket/events.csv", "retailrocket", ("cart", "buy"))
    train, test = split_by_time(with_tables(log), 0.2)
    sources = {"ItemKNN": ItemKNN(), "Popularity": Popularity()}
    actions = FUNNEL["retailrocket"]
    trial, whole = make_trial(train, sources, actions, seed, newcomers)
    rivals = teach(trial, train, seed, tuple(sources))
    name = "retailrocket" if newcomers else WITHOUT
    about = {"data": name, "seed": seed}
    return judge_heads(train, whole, rivals, actions, test, about)


WITHOUT = "retailrocket without newcomers"  # as examples
RUNS = {
    "simulated": run_simulated,
    "retailrocket": run_retailrocket,
    WITHOUT: partial(run_retailrocket, newcomers=False),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, help="keep the rows in this JSON file")
    options = parser.parse_args()
    for data in options.data:
        for seed in options.seeds:
            rows = RUNS[data](seed)
            print(pd.DataFrame(rows).round(4).to_string(), flush=True)
            keep(options.out, rows, ("data", "seed"))


if __name__ == "__main__":
    main()
