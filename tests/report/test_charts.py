"""What the charts of report.html are given."""

import numpy as np

from wespeaker_qm.evaluate.operating_points import roc_steps
from wespeaker_qm.report.charts import det_chart


def test_names_cannot_become_markup_of_charts():
    roc = roc_steps(np.arange(8.0), np.arange(8) % 2 == 1)
    curve = det_chart({"<b>a & %{x}</b>": roc}, {})["data"][0]
    shown = "&lt;b&gt;a &amp; &#37;{x}&lt;/b&gt;"  # plotly reads entities, and shows the name
    assert curve["name"] == shown
    assert curve["hovertemplate"].endswith(f"<extra>{shown}</extra>")
