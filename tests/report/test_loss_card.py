"""How the losses are named."""

import pytest

from wespeaker_qm.config import load_config
from wespeaker_qm.report.loss_card import loss_card


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("softmax", "softmax (s 32, m 0)"),
        ("arcface", "ArcFace (s 32, m 0.2)"),
        ("cosface", "CosFace (s 32, m 0.2)"),
        ("entmax_a1.75", "EntMax (α 1.75, s 5, m 0.1)"),
        ("qmargin_a1.5", "Q-Margin (α 1.5, s 10, m 0.1)"),
    ],
)
def test_losses_are_named_as_in_the_paper(repository, loss, text):
    config = load_config([f"{repository}/conf/resnet34.yaml", f"{repository}/conf/loss/{loss}.yaml"])
    assert str(loss_card(config)) == text
