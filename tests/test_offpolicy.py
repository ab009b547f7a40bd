"""Team-draft interleaving against a plain loop, off-policy estimators against their
formulas and exact expectations, and what bad data gets."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

matplotlib.use("Agg")
from recsys_nb.experiments import (
    ExperimentError,  # noqa: E402
    interleaving_test,
    off_policy,
    team_draft,
)
from recsys_nb.experiments import draft_items as _draft  # noqa: E402


class Coin:
    "Gives the same number for every user in each round."

    def __init__(self, flips):
        self.flips = iter(flips)

    def random(self, n):
        return np.full(n, next(self.flips))


def by_loop(a, b, k, flips):
    """Team draft for one user, as in the paper; a wish that both have at the start of a
    round is both's."""
    out, size, flips = [], [0, 0], iter(flips)
    while len(out) < k:
        shown = {i for i, _ in out}
        left = [[i for i in x if i not in shown] for x in (a, b)]
        coin = next(flips)
        turn = int(coin < 0.5) if size[0] == size[1] else int(size[1] < size[0])
        if not left[0] and not left[1]:
            break
        if left[0] and left[1] and left[0][0] == left[1][0] and size[0] == size[1]:
            out.append((left[0][0], 2))
            continue
        if not left[turn]:
            turn = 1 - turn
        out.append((left[turn][0], turn))
        size[turn] += 1
    return out


def test_draft_against_a_loop():
    g = np.random.default_rng(0)
    for _ in range(300):
        a, b = (g.permutation(8)[: g.integers(1, 7)] for _ in range(2))
        k, flips = int(g.integers(1, 10)), g.random(12)
        A, B = (np.r_[x, [-1] * (7 - len(x))][None, :] for x in (a, b))
        items, team = _draft(A, B, k, Coin(flips))
        assert [
            (i, t)
            for i, t in zip(items[0].tolist(), team[0].tolist(), strict=False)
            if i >= 0
        ] == [(int(i), t) for i, t in by_loop(a.tolist(), b.tolist(), k, flips)]


def test_team_draft_keeps_ids_and_order_of_ranks():
    a = pd.DataFrame(
        {"user_id": [1, 1, 2], "item_id": ["x", "y", "z"], "rank": [2, 1, 1]}
    )
    b = pd.DataFrame({"user_id": [2, 1], "item_id": ["z", "q"], "rank": [1, 1]})
    t = team_draft(a, b)
    assert set(t.item_id[t.user_id == 1]) == {"x", "y", "q"} and t.team[
        t.user_id == 2
    ].tolist() == ["both"]
    mine = t[(t.user_id == 1) & (t.team == "a")]
    assert mine.item_id.tolist() == ["y", "x"]  # a's own order


@pytest.mark.parametrize(
    "broken,message",
    [
        (lambda a: a.assign(item_id=None), "item_id is null in 3 rows"),
        (lambda a: a.assign(item_id="x"), "lists item 'x' twice for user 1"),
        (lambda a: a.drop(columns="user_id"), "no column 'user_id'"),
        (lambda a: a.drop(columns="item_id"), "no column 'item_id'"),
        (lambda a: a[a.user_id == 1], "user 2 has a list in only one"),
    ],
)
def test_bad_lists(broken, message):
    a = pd.DataFrame(
        {"user_id": [1, 1, 2], "item_id": ["x", "y", "z"], "rank": [2, 1, 1]}
    )
    for pair in [(broken(a), a), (a, broken(a))]:
        with pytest.raises(ExperimentError) as e:
            team_draft(*pair)
        assert message in str(e.value)


def test_interleaving_is_a_t_test_over_users():
    g = np.random.default_rng(1)
    d = pd.DataFrame(
        {
            "user_id": g.integers(0, 300, 4_000),
            "team": g.choice(["a", "b", "both"], 4_000),
            "clicked": g.random(4_000) < 0.2,
        }
    )
    by = d.pivot_table(
        index="user_id", columns="team", values="clicked", aggfunc="sum", fill_value=0
    )
    r = interleaving_test(d)
    np.testing.assert_allclose(r.p_value, stats.ttest_1samp(by.b - by.a, 0).pvalue)
    assert (
        r.clicks == (by.a.sum(), by.b.sum())
        and r.wins == ((by.a > by.b).sum(), (by.b > by.a).sum(), (by.a == by.b).sum())
        and r.users == len(by)
    )
    assert (
        r.ci[0] < r.share < r.ci[1]
        and "users" in repr(r)
        and r.plot().get_xlabel()
        and len(r.to_frame()) == 1
    )
    matplotlib.pyplot.close("all")


@pytest.mark.filterwarnings("ignore:the weights' mean")
def test_estimators_by_their_formulas():
    g = np.random.default_rng(2)
    n = 500
    r, p0, pi, q, v, user = (
        g.random(n),
        g.uniform(0.1, 0.9, n),
        g.uniform(0, 0.9, n),
        g.random(n),
        g.random(n),
        g.integers(0, 90, n),
    )
    w = np.minimum(pi / p0, 2)
    o = off_policy(r, pi, p0, q=q, value=v, user=user, clip=2)
    np.testing.assert_allclose(
        [o["logged"], o["IPS"], o["SNIPS"], o["DR"]],
        [r.mean(), (w * r).mean(), (w * r).sum() / w.sum(), (v + w * (r - q)).mean()],
    )
    np.testing.assert_allclose(
        [o.ess, o.clipped, o.max_weight],
        [w.sum() ** 2 / (w**2).sum(), (pi / p0 > 2).mean(), (pi / p0).max()],
    )
    import statsmodels.api as sm

    ids = pd.factorize(user)[0]
    se = (
        sm.OLS(w * r, np.ones(n))
        .fit(cov_type="cluster", cov_kwds={"groups": ids, "use_correction": False})
        .bse[0]
    )
    k = ids.max() + 1
    np.testing.assert_allclose(
        o.table.set_index("method").se["IPS"], se * np.sqrt(k / (k - 1)), rtol=1e-9
    )
    assert o.plot().get_xlabel().startswith("reward") and "worth" in repr(o)
    matplotlib.pyplot.close("all")


def test_ips_and_dr_are_unbiased_exactly():
    """Over all possible logs of two choices the weighted mean of the estimates is the
    policy's value."""
    p0, pi, reward, q = (
        np.array([0.5, 0.3, 0.2]),
        np.array([0.1, 0.2, 0.7]),
        np.array([1.0, 4.0, 2.0]),
        np.array([3.0, 0.0, 1.0]),
    )
    total = {"IPS": 0.0, "DR": 0.0}
    for log in itertools.product(range(3), repeat=2):
        a = np.array(log)
        o = off_policy(reward[a], pi[a], p0[a], q=q[a], value=np.full(2, pi @ q))
        for m in total:
            total[m] += p0[a].prod() * o[m]
    np.testing.assert_allclose(list(total.values()), pi @ reward)


def test_support_is_checked_by_user_and_not_when_fine():
    import warnings

    g = np.random.default_rng(3)
    p0, pi = np.array([0.6, 0.4]), np.array([0.2, 0.8])
    a = g.choice(2, 2_000, p=p0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off_policy(g.random(2_000), pi[a], p0[a])
    with pytest.warns(UserWarning, match="weights' mean"):
        off_policy(g.random(2_000), pi[a], np.full(2_000, 0.9))
