"""Numbers that make no sense end in a sentence that names the argument.

Every public function, method and dataclass with one of these parameters is called with
each wrong value; what else it needs is a dummy, so the check comes first.
"""

import inspect
import re
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recsys_nb as rn
from recsys_nb import evaluation, experiments, recommenders, serving, training
from recsys_nb.data import (
    DataError,
    Dataset,
    NullIdError,
    check_levels,
    check_seed,
    check_whole_numbers,
    simulate,
)
from recsys_nb.experiments import analyze, duration, monitor, off_policy, power
from recsys_nb.recommenders import Popularity

NO_NUMBER = ["10", None, True, [3], np.True_]
LEVELS = [0, 1, 5, 95, -0.05, float("nan"), float("inf"), *NO_NUMBER]
WRONG = {
    "k": [0, -1, 2.5, 2.0, *NO_NUMBER[:3]],
    "seed": [-1, 1.5, 2**32, *NO_NUMBER],
    "n_boot": [-1, 2.5, *NO_NUMBER],
    "n_bins": [0, -1, 2.5, *NO_NUMBER],
    "draws": [0, 2.5, *NO_NUMBER],
    "trials": [0, 2.5, *NO_NUMBER],
    "alpha": LEVELS,
    "level": LEVELS,
}
COUNTS = WRONG["k"]
SHARES = [0, -0.1, 1.5, float("nan"), *NO_NUMBER]
OWN = {
    "train_criteo": {
        **dict.fromkeys("min_count dim hidden epochs batch_size".split(), COUNTS),
        "buffer_rows": COUNTS,
        "buckets": [value for value in COUNTS if value is not None],
        "negatives": SHARES,
        "lr": [0, -1, float("nan"), *NO_NUMBER],
    },
    "sample_negatives": {"share": SHARES},
    "NegativeSampling": {"share": SHARES},
    "Warehouse.batches": {"rows": COUNTS},
    "read_table": {"sample": [0, -0.1, 1.5, float("nan"), True, [3], "half"]},
}  # of one function
MORE = {
    evaluation: "reliability by_segment",
    experiments: "confidence_sequence tuned_tau group_sequential team_draft",
    recommenders: "top_k judge ItemIndex GraphFilter RankerSettings Budget",
    serving: "Service export",
    training: "train_criteo sample_negatives NegativeSampling TrainSettings",
}  # what is not offered by the package itself
# what a model is asked by the code around it, which has checked the number; where
# alpha is a weight, trials are counts of each arm, and None is a seed
LEFT_OUT = re.compile(
    r"\.(top_items|answer_cold)$|^ALS\(alpha|^beta_binomial\(trials|^World.sample\(seed"
)


def list_callables():
    "Name and function of what a user may call; of a class also its methods."
    found = {name: getattr(rn, name) for name in rn.__all__}
    for part, names in MORE.items():
        found |= {name: getattr(part, name) for name in names.split()}
    for name, thing in found.items():
        if callable(thing):
            yield name, thing
        if not inspect.isclass(thing):
            continue
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if not method.startswith("_"):
                yield f"{name}.{method}", function


def list_cases():
    "Each callable with each of its parameters that WRONG or OWN knows."
    for name, function in list_callables():
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            continue
        wrong = WRONG | OWN.get(name, {})
        for parameter in wrong.keys() & parameters.keys():
            case = f"{name}({parameter})"
            if not LEFT_OUT.search(name) and not LEFT_OUT.search(case):
                yield pytest.param(function, parameter, wrong[parameter], id=case)


def call(function, **given):
    "Call with dummies for all that has no default."
    needed = dict(given)
    for name, parameter in inspect.signature(function).parameters.items():
        is_open = parameter.default is parameter.empty and name not in given
        if name == "self":
            owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
            kind = getattr(inspect.getmodule(function), owner)
            needed["self"] = object.__new__(kind)
        elif is_open and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            needed[name] = object()
    positional = needed.pop("self", None)
    if positional is None:
        return function(**needed)
    return function(positional, **needed)


CASES = sorted(list_cases(), key=lambda case: case.id)


@pytest.mark.parametrize("function, parameter, wrong", CASES)
def test_a_wrong_number_is_named(function, parameter, wrong):
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}\b"):
            call(function, **{parameter: value})


def test_many_functions_are_tried():
    cases = [case.id for case in CASES]
    assert len(cases) > 40
    some = ["evaluate(k)", "analyze(alpha)", "ItemKNN.recommend(k)", "tune(seed)"]
    some += ["Warehouse.split_by_user(seed)", "World.experiment(k)", "read_table(seed)"]
    some += [f"{name}({parameter})" for name in OWN for parameter in OWN[name]]
    assert set(some) <= set(cases)


@given(st.integers(0, 2**32 - 1), st.integers(1, 10**9), st.floats(1e-9, 1 - 1e-9))
def test_right_numbers_pass(seed, k, level):
    for kind in (int, np.int64, np.uint64):
        check_seed(kind(seed))
        check_whole_numbers(1, k=kind(k))
    check_levels(level=level, alpha=np.float64(level))


@given(
    st.one_of(
        st.integers(max_value=0),
        st.floats(),
        st.text(),
        st.booleans(),
        st.none(),
        st.lists(st.integers(), max_size=2),
    )
)
def test_nothing_else_passes(value):
    with pytest.raises((TypeError, ValueError), match=r"\bk\b"):
        check_whole_numbers(1, k=value)


@pytest.fixture(scope="module")
def popular():
    return Popularity().fit(simulate(50, 30, 500, seed=1))


@pytest.mark.parametrize(
    "ids",
    [
        pd.DataFrame({"user_id": ["user_1"]}),
        {"user_id": ["user_1"]},
        np.array([["user_1", "user_2"]]),
    ],
    ids=["frame", "dict", "matrix"],
)
@pytest.mark.parametrize("name", ["user_ids", "candidates", "exclude"])
def test_a_table_is_not_a_list_of_ids(popular, ids, name):
    with pytest.raises(TypeError, match=f"{name} must be one id or a list of ids"):
        popular.recommend(**{name: ids})


@pytest.mark.parametrize("null", [None, float("nan"), pd.NA])
def test_an_id_that_is_null_is_named(popular, null):
    with pytest.raises(NullIdError, match="an id of user_ids is null in 1 rows"):
        popular.recommend(["user_1", null])


@pytest.mark.parametrize("ids", [[True], [1.5], [1, "user_2"], [b"user_1"], [" "]])
def test_what_identifies_nobody_is_refused(popular, ids):
    with pytest.raises(DataError, match="an id of user_ids"):
        popular.recommend(ids)


def test_whole_floats_are_ids():
    log = pd.DataFrame({"user_id": [1, 1, 2, 3], "item_id": [1, 2, 2, 3]})
    model = Popularity().fit(Dataset(log))
    lists = [
        model.recommend(ids, k=2) for ids in ([1, 2], [1.0, 2.0], np.array([1, 2]))
    ]
    for other in lists[1:]:
        pd.testing.assert_frame_equal(other, lists[0])


@pytest.mark.parametrize("wrong", ["no", 0, 1, None, [True]])
def test_a_switch_is_true_or_false(popular, wrong):
    with pytest.raises(TypeError, match="exclude_seen must be True or False"):
        popular.recommend("user_1", exclude_seen=wrong)
    assert len(popular.recommend("user_1", exclude_seen=np.bool_(False))) == 10


TRIAL = pd.DataFrame(
    {
        "user_id": range(400),
        "variant": ["A", "B"] * 200,
        "y": [n % 7 for n in range(400)],
        "z": [n % 5 for n in range(400)],
        "t": pd.date_range("2024-01-01", periods=400, freq="h"),
    }
)
LISTS = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 3], "rank": [1, 2, 1]})
FOUND = pd.DataFrame({"user_id": [1, 2], "item_id": [2, 3]})


@pytest.mark.parametrize("wrong", ["5", float("nan"), True, [1.0]])
@pytest.mark.parametrize(
    "call, name",
    [
        (lambda x: analyze(TRIAL, metrics=["y", "z"], guardrails={"z": x}), "'z'"),
        (lambda x: analyze(TRIAL, metrics="y", winsorize=x), "winsorize"),
        (lambda x: monitor(TRIAL, "y", time="t", effect=x), "effect"),
        (lambda x: monitor(TRIAL, "y", time="t", min_users=x), "min_users"),
        (lambda x: duration(TRIAL, "y", time="t", days=[x]), "days"),
        (lambda x: duration(TRIAL, "y", time="t", days=[5], target=x), "target"),
        (lambda x: power(x, n=100), "baseline"),
        (lambda x: power(0.1, n=x), "n "),
        (lambda x: power(0.1, mde=x), "mde"),
        (lambda x: power(0.1, n=50, sd=x), "sd"),
        (lambda x: off_policy([1, 0], [0.5] * 2, [0.5] * 2, clip=x), "clip"),
    ],
)
def test_numbers_of_experiments_are_named(call, name, wrong):
    if name == "n " and wrong == [1.0]:
        name = "n must be at least 2"
    elif name == "mde" and wrong == [1.0]:
        return  # several lifts make a table
    with pytest.raises((TypeError, ValueError), match=name.strip()):
        call(wrong)


@pytest.mark.parametrize("name", ["n", "mde"])
def test_no_number_is_told(name):
    with pytest.raises(experiments.ExperimentError, match=f"{name} is empty"):
        power(0.1, **{name: []})
    with pytest.raises(experiments.ExperimentError, match="days is empty"):
        duration(TRIAL, "y", time="t", days=[])
    assert len(duration(TRIAL, "y", time="t", days=5).to_frame()) == 1


@pytest.mark.parametrize("looks", [0, -1, 2.5, "5", True, [], [0.5, 0.2], [2]])
def test_looks_are_a_number_or_rising_shares(looks):
    with pytest.raises((TypeError, ValueError), match="looks"):
        experiments.group_sequential(looks)


@pytest.mark.parametrize("prior", [(1,), (1, 1, 1), (0, 1), (1, float("nan"))])
def test_a_prior_has_two_numbers_above_0(prior):
    with pytest.raises(experiments.ExperimentError, match="prior="):
        experiments.beta_binomial({"a": 1, "b": 2}, {"a": 9, "b": 9}, prior=prior)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"metrics": []}, "metrics is empty"),
        ({"users": 1}, "a column of values is needed"),
        ({"users": "ab"}, "a column of values is needed"),
        ({"items": "abc"}, "a column of values is needed"),
        ({"k": []}, "k is empty"),
        ({"train": FOUND[:0]}, "train has no rows"),
    ],
)
def test_evaluate_says_what_is_missing(options, told):
    with pytest.raises(evaluation.MetricsError, match=told):
        evaluation.evaluate(LISTS, FOUND, **options)


def test_text_is_no_column_of_users():
    with pytest.raises(evaluation.MetricsError, match="a column of values is needed"):
        evaluation.ranker_metrics([0, 1, 1], [0.1, 0.4, 0.5], "abc")


def test_a_comparison_without_resamples_shows_no_interval():
    report = evaluation.evaluate(LISTS, FOUND, n_boot=0)
    shown = repr(evaluation.compare(report, report))
    assert "nan" not in shown and "no intervals" in shown


def test_one_id_and_no_id(popular):
    assert popular.recommend("user_1", k=3).user_id.tolist() == ["user_1"] * 3
    assert popular.recommend([], k=3).empty


@pytest.mark.parametrize(
    "asked, known", [("User_1", "user_1"), ("user_1 ", "user_1"), ("USER_2", "user_2")]
)
def test_a_user_written_otherwise_is_named(popular, asked, known):
    with pytest.warns(UserWarning, match=f"'{asked}' is not known, but '{known}' is"):
        lists = popular.recommend([asked, "user_3"], k=2)
    assert set(lists.source[lists.user_id == asked]) == {"popular"}


def test_new_users_are_no_warning(popular):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lists = popular.recommend(["somebody", "user_3"], k=2)
    assert lists.source.tolist() == ["popular"] * 2 + ["history"] * 2


def test_items_written_otherwise_are_named(popular):
    events = pd.DataFrame({"user_id": "me", "item_id": ["item_1", "item_2 ", "other"]})
    with pytest.warns(UserWarning, match="'item_2 ' is not known, but 'item_2' is"):
        popular.recommend(events=events, k=2)
    with pytest.warns(UserWarning, match="'Item_3' is not known, but 'item_3' is"):
        popular.recommend("user_1", candidates=["item_1", "Item_3"], k=2)


class Lazy:
    "A table of another library that is computed when it is asked for."

    columns = ("user_id", "item_id")

    def __init__(self, frame):
        self.frame = frame

    def collect(self):
        return pa.Table.from_pandas(self.frame)


def test_events_of_any_library(popular):
    frame = pd.DataFrame({"user_id": "me", "item_id": ["item_1", "item_2"]})
    expected = popular.recommend(events=frame, k=3)
    for events in (Lazy(frame), pa.Table.from_pandas(frame)):
        pd.testing.assert_frame_equal(popular.recommend(events=events, k=3), expected)
    for wrong in (3, ["item_1"], frame.item_id):
        with pytest.raises(TypeError, match="the events frame must be a"):
            popular.recommend(events=wrong)


def test_categories_need_item_ids():
    pairs = pd.DataFrame({"user_id": [1], "item_id": [2], "rank": [1]})
    for wrong in (pa.array(["x"]), np.array(["x"]), ["x"]):
        with pytest.raises(evaluation.MetricsError, match="categories has no item ids"):
            evaluation.evaluate(pairs, pairs, categories=wrong, n_boot=0)


def test_reliability_without_resamples_shows_no_interval():
    found = evaluation.reliability(
        [0, 1, 1, 0], [0.1, 0.8, 0.7, 0.3], n_bins=2, n_boot=0
    )
    assert "nan" not in repr(found) and "ECE 0.2250, " in repr(found)
