"""Searches in processes of their own: on several devices, and killed again and again at the same place."""

import json
import signal

import numpy as np
import pytest


def test_a_trial_on_two_devices_is_the_one_on_one(forks, tmp_path):
    found = {}
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        code, text = forks.run("devices", count, tmp_path / str(count))
        assert code == 0, text
        found[count] = json.loads((tmp_path / str(count) / "found.json").read_text())
    assert [found[count]["replicas"] for count in found] == [1, 2]
    one = found[1]["ways"]["argument"]
    assert [status for status, *_ in one["trials"]] == ["finished"] * 3, one["messages"]
    assert any("tuner/trial_id" in values for _, values, *_ in one["trials"])  # one went on from another
    for way, two in found[2]["ways"].items():
        assert two["replicas"] == 2
        for mine, other in zip(two["trials"], one["trials"], strict=False):
            assert mine.pop(2) == pytest.approx(other[2], rel=1e-5), way
            assert mine == [*other[:2], *other[3:]], way
        assert "batch sizes that divide by 2" in two["odd"] and "a batch of 25" in two["odd"]
    two = found[2]["ways"]["argument"]
    assert len(two["trials"]) == 3
    for mine, other in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_a_trial_in_which_the_process_ends_each_time_has_failed(forks, tmp_path):
    codes = []
    while len(codes) < 5:
        code, text = forks.run("stuck", tmp_path / "s")
        codes.append(code)
        if code == 0:
            break
    assert codes == [-signal.SIGKILL] * 3 + [0], text
    kept = json.loads((tmp_path / "s" / "trial_0" / "outcome.json").read_text())
    assert "ended 3 times without getting further" in kept["message"]
