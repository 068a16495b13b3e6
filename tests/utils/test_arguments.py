import argparse

import pytest

from wespeaker_qm.utils.arguments import true_or_false


def test_only_true_and_false_are_booleans():
    assert true_or_false("true") is True
    assert true_or_false("false") is False
    for text in ("True", "False", "1", "no", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected true or false"):
            true_or_false(text)
