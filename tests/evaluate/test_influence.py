"""Influence functions against what they foretell, and their parts by hand."""

import numpy as np
import pytest

from wespeaker_qm.evaluate.bootstrap import SortedTrials
from wespeaker_qm.evaluate.figure import Quantity
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.influence import recalibrated
from wespeaker_qm.evaluate.operating_points import convex_hull, roc_steps

SMOOTH = wanted_figures(fars=(0.1, 0.03), tars=(0.9,), p_targets=(0.1,), is_llr=True)


@pytest.mark.parametrize(
    "figure", [each for each in SMOOTH if each.kind.quantity is not Quantity.THRESHOLD], ids=lambda figure: figure.name
)
def test_influence_foretells_what_reweighting_does(figure, simulate):
    """The figure of a list with some trials left out, against the sum of their influences."""
    _, is_target, scores = simulate(num_targets=30000, num_nontargets=30000, effect=0.0, distance=2.0)
    system = SortedTrials.of(scores, is_target, SMOOTH)
    influence = figure.influence(system.influence, system.curves)
    assert influence[is_target].sum() == pytest.approx(0, abs=1e-12)
    assert influence[~is_target].sum() == pytest.approx(0, abs=1e-12)
    whole = figure.value_of(figure.read(system.curves))
    rng = np.random.default_rng(0)
    changes = []
    for _ in range(40):  # leave out trials of a random range of scores
        low = rng.uniform(-1, 3)
        out = (scores > low) & (scores < low + 0.5) & (rng.random(len(scores)) < 0.2)
        weights = (~out).astype(np.int32)
        # the derivative is with respect to shares: weights divided by their mean in each kind
        relative = np.where(is_target, weights / weights[is_target].mean(), weights / weights[~is_target].mean())
        changes.append((influence @ (relative - 1), figure.value_of(figure.read(system.weighted(weights))) - whole))
    foretold, found = np.array(changes).T
    assert np.corrcoef(foretold, found)[0, 1] > 0.97
    assert foretold @ found / (foretold @ foretold) == pytest.approx(1, abs=0.15)


def test_slopes_and_ratios_of_a_hull_by_hand():
    """From the top: two targets; two non-targets and a target, which the hull joins; two non-targets."""
    scores = np.arange(7.0, 0, -1)
    is_target = np.array([True, True, False, False, True, False, False])
    influence = SortedTrials.of(scores, is_target).influence
    # A third of the targets for a half of the non-targets: (1 / 3) / (2 / 4) is the one slope that
    # is neither infinite nor 0, and the nearest one from everywhere.
    assert [influence.slope(score) for score in scores] == [pytest.approx(2 / 3)] * 7
    hull = convex_hull(roc_steps(scores, is_target))
    middle = np.log(2 / 3)
    np.testing.assert_allclose(recalibrated(hull, scores), [30, 30, middle, middle, middle, -30, -30])
