"Twenty seconds of mixed load with swaps and a killed worker: nothing is lost or fails."

import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxscript")
if not Path("/proc/self/smaps_rollup").exists():
    pytest.skip("needs /proc to find the workers", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from soak import N_REPORTERS, soak  # noqa: E402


def test_a_short_soak():
    askers = 2
    found = soak(seconds=20, n_askers=askers)
    assert found["errors_of_the_service"] == 0, found
    assert found["refused_questions"] == 0, found
    assert found["acknowledged_events"] > 0 and found["lost_events"] == 0, found
    assert found["stored_twice"] == 0, found
    assert len(found["requests"]) == 5, found  # of all kinds
    assert found["swaps_taken"] >= 2 and found["swaps_refused"] >= 1, found
    assert found["killed_workers"] == 1 and found["broken_before_the_kill"] == 0, found
    # each client held one connection, to one of the workers
    assert found["broken_by_the_kill"] <= askers + N_REPORTERS, found
    assert found["status"] == 0
