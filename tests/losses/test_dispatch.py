"""The table of ways: complete, in order, and with chunks that fit the device."""

import math

import pytest
import torch

from wespeaker_qm.losses.candidates import Problem, _chunk_ranges
from wespeaker_qm.losses.dispatch import PLAIN, WAYS, Way, way_of
from wespeaker_qm.losses.gradients import Vectors


@pytest.mark.parametrize("rows", [PLAIN, *WAYS.values()])
def test_each_number_of_classes_has_one_row(rows: tuple[tuple[float, Way], ...]) -> None:
    limits = [up_to for up_to, _ in rows]
    assert limits == sorted(set(limits))
    assert limits[-1] == math.inf


def test_few_classes_of_any_device_are_dense() -> None:
    for device in (torch.device("cpu"), torch.device("meta")):
        assert way_of(device, 1) is way_of(device, 1024) is Way.DENSE
        assert way_of(device, 1025) is way_of(device, 10**9) is Way.FILTERED


@pytest.mark.parametrize(("device", "num_chunks"), [("cpu", 503), ("meta", 4)])
def test_chunks_fit_the_device(device: str, num_chunks: int) -> None:
    """One of eight shards of two million classes: as much as a cache holds, or as few operations as memory allows."""
    rows = torch.empty(257_488, 1, device=device)
    unit = torch.empty(1024, 1, device=device)
    problem = Problem(unit, Vectors(rows, rows, None), 1.0, 0.5, unit, unit, unit, None)
    ranges = _chunk_ranges(problem)
    assert len(ranges) == num_chunks
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, 257_488)
