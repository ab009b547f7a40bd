"""Requests that the OpenAPI of the service allows, and requests that it does not: made
up by schemathesis, 1,000 cases over all addresses, those of the page among them, with
all of its checks. Two of them are asked where they can be: no schema can say which
columns a catalogue has or that a text is a moment that a table can hold, so an allowed
request may be refused for the reasons of UNSAYABLE and for no other; and an address is
text, so a list of one item there is what other types look like, too."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis is not installed: pip install schemathesis"
)
pytest.importorskip("fastapi")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    negative_data_rejection,
    positive_data_acceptance,
)

from recsys_nb.data import World  # noqa: E402
from recsys_nb.recommenders import EASE  # noqa: E402
from recsys_nb.serving import AppSettings, create_app  # noqa: E402
from recsys_nb.serving.gates import MAX_BYTES  # noqa: E402

N_CASES = 1_000  # of all addresses and both modes together
MOST = 60  # of one address and mode; some have only one case
TOKEN = "a token of many characters"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    log = World(n_users=60, n_items=30, seed=1).sample(1_500)
    events = tmp_path_factory.mktemp("events")
    app = create_app(EASE().fit(log), settings=AppSettings(TOKEN, events))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of httpx
        return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)


# place of a problem -> types that it may have although the schema allows the request
UNSAYABLE = {
    "value": {"id_type"},  # the model has no actions
    "position": {"ContextError"},  # nor a ranker that reads a context
    "hour": {"ContextError"},
    "weekday": {"ContextError"},
    "caps": {"id_type"},  # a fitted model in a service does not cap; exports do
    "body": {"MissingColumnError", "RuleError", "QuestionError"},  # rules about columns
    "timestamp": {"value_error"},  # no moment that a table can hold
}
QUOTED = "Value error, a condition is COLUMN=A,B or COLUMN<X"  # or has no values
LISTS = {"candidates", "exclude"}  # options of an address that may come several times


def is_unsayable(answer):
    """Whether all that is wrong are things that no schema can say."""
    if answer.status_code != 422:
        return False
    for problem in answer.json()["detail"]:
        place = problem["loc"]
        is_text = place[:2] == ["query", "where"]  # which may hold JSON
        is_quoted = "where" in place and problem["msg"] == QUOTED
        if is_text or is_quoted:
            continue
        if problem["type"] not in UNSAYABLE.get(place[-1], ()):
            return False
    return True


def is_right_as_text(case):
    """Whether an option of an address is written as an allowed one, or not at all."""
    options = dict(case.query or {})
    given = [options[name] for name in LISTS & set(options)]
    is_single = any(not isinstance(value, list) for value in given)
    several = [value for value in given if isinstance(value, list)]
    is_other_type = any(not isinstance(one, str) for some in several for one in some)
    is_left_out = any(value == [] for value in options.values())
    return is_single or is_other_type or is_left_out


def is_too_large(answer):
    """Whether a request was refused for its size before anybody looked into it: that is
    a refusal, too, which schemathesis does not count as one."""
    body = answer.request.body or b""
    return answer.status_code == 413 and len(body) > MAX_BYTES


def list_questions(schema):
    "Each address, with what is allowed and, where there is anything, what is not."
    for found in schema.get_all_operations():
        operation = found.ok()
        yield operation, GenerationMode.POSITIVE
        if operation.body or operation.query or operation.path_parameters:
            yield operation, GenerationMode.NEGATIVE


@pytest.mark.filterwarnings("ignore")
def test_all_addresses_answer_as_the_schema_says(schema):
    n_cases = 0
    for operation, mode in list_questions(schema):

        @settings(
            max_examples=MOST,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case):
            nonlocal n_cases
            n_cases += 1
            left_out = []
            answer = case.call(headers=HEADERS)
            if is_unsayable(answer):
                left_out.append(positive_data_acceptance)
            if is_right_as_text(case) or is_too_large(answer):
                left_out.append(negative_data_rejection)
            case.validate_response(answer, headers=HEADERS, excluded_checks=left_out)

        ask()
    assert n_cases >= N_CASES
