"""What Table 5 says of differences, and what it reads."""

from types import SimpleNamespace

import pytest

from wespeaker_qm.report.table5 import conclusion, read_table
from wespeaker_qm.utils.errors import RecipeError

NAMES = {"a": "ArcFace", "b": "CosFace", "c": "Q-Margin"}


def difference(figure, one, two, estimate, p_holm, reason=None):
    p_value = None if p_holm is None else p_holm / 2
    return SimpleNamespace(
        figure=figure, one=one, two=two, difference=estimate, p_value=p_value, p_holm=p_holm, reason=reason
    )


def test_sure_is_a_pair_of_its_own_figure_below_five_per_cent():
    """Sure in one figure is not sure in another, and small before the correction is not small after it."""
    text = conclusion(
        [
            difference("EER", "a", "b", 0.01, 0.0499),
            difference("EER", "a", "c", -0.02, 0.001),
            difference("EER", "b", "c", -0.03, 0.05),
            difference("TAR@FAR 1e-3", "a", "b", 0.01, 0.06),
            difference("TAR@FAR 1e-3", "a", "c", 0.01, 0.9),
            difference("minDCF 0.01", "a", "c", 0.01, 0.001),
            difference("TAR@FAR 1e-4", "a", "b", 0.2, None, "3 false accepts"),
            difference("TAR@FAR 1e-2", "a", "b", 0.2, None, "3 false accepts"),
            difference("TAR@FAR 1e-2", "a", "c", -0.2, 0.01),
        ],
        NAMES,
    )
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- EER: CosFace above ArcFace; Q-Margin below ArcFace",
        "- TAR@FAR 1e-3: no two losses differ",
        "- TAR@FAR 1e-4: the trials do not support a comparison",
        "- TAR@FAR 1e-2: Q-Margin below ArcFace",
    ]
    assert conclusion([], NAMES) == ""


def test_a_figure_that_no_pair_supports_is_said_to_be_none():
    nothing = SimpleNamespace(figure="TAR@FAR 1e-2", one="a", two="b", difference=0.1, p_value=None, p_holm=None)
    text = conclusion([difference("EER", "a", "b", 0.01, 0.2), nothing], NAMES)
    assert text.splitlines()[-1] == "- TAR@FAR 1e-2: the trials do not support a comparison"


ROW = "{name: X, alpha: null, scale: 32, margin: 0.2, loss: conf/loss/x.yaml, paper_tar_per_cent: {1e-3: 86.62}}"


def test_the_papers_values_become_fractions(tmp_path):
    path = tmp_path / "table5.yaml"
    path.write_text(f"paper: P\npaper_training_set: T\npaper_test_set: E\nrows:\n- {ROW}\n")
    table = read_table(path)
    assert (table.paper, table.training_set, table.test_set) == ("P", "T", "E")
    (row,) = table.rows
    assert (row.run, row.card.name, row.card.alpha, row.card.scale, row.card.margin) == ("x", "X", None, 32, 0.2)
    assert list(row.paper_tar.values()) == [pytest.approx(0.8662)]


@pytest.mark.parametrize("text", ["rows: [{name: X}]\n", "rows: 3\n", f"rows: [{ROW}]\n"])
def test_a_table_that_lacks_something_is_refused(tmp_path, text):
    (tmp_path / "table5.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"table5\.yaml: .*; expected the keys of conf/table5\.yaml in every row"):
        read_table(tmp_path / "table5.yaml")
