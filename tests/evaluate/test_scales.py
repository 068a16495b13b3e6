"""The scales of intervals, and which figure has which."""

import numpy as np
import pytest

from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.scales import LINEAR, LOG, LOGIT


def test_every_figure_has_the_scale_of_its_range():
    scales = {LINEAR: "threshold@", LOG: ("Cllr", "actDCF")}  # these costs have no upper bound
    for figure in wanted_figures(is_llr=True):
        expected = next((scale for scale, start in scales.items() if figure.name.startswith(start)), LOGIT)
        assert figure.kind.scale is expected, figure.name
    for scale, x in ((LOGIT, 0.2), (LOG, 3.0), (LINEAR, -5.0)):
        step = 1e-6
        ends = scale.forward(np.array([x - step, x + step]))
        assert scale.slope(x) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-6)
        np.testing.assert_allclose(scale.inverse(ends), [x - step, x + step])
