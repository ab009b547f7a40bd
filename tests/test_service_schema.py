"""Requests that the OpenAPI of the service allows, and requests that it does not: made
up by schemathesis, 1,000 cases over all addresses, with all of its checks but two. One
wants each allowed request to be accepted, and no schema can say which columns a
catalogue has, or that a list with reasons has at most 20 items. The other wants 0.5 to
be refused as an id, which is right in a body; in an address it is the text '0.5', so it
is asked of bodies alone."""

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
            left_out = [positive_data_acceptance]
            if case.method == "GET":
                left_out.append(negative_data_rejection)
            case.call_and_validate(headers=HEADERS, excluded_checks=left_out)

        ask()
    assert n_cases >= N_CASES
