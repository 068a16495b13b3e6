"""Evaluation runs where there is no torch, and imports nothing heavy before it is needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import wespeaker_qm.evaluate
from wespeaker_qm import evaluate

MODULES = sorted(path.stem for path in Path(wespeaker_qm.evaluate.__file__).parent.glob("*.py"))


def test_intervals_and_comparisons_are_public():
    """From scores to intervals and p-values by public names alone."""
    rng = np.random.default_rng(0)
    is_target = np.arange(3000) < 1000
    scores = {name: rng.standard_normal(3000) + better * is_target for name, better in (("a", 2.0), ("b", 2.5))}
    systems = [
        evaluate.SortedTrials.of(each, is_target, evaluate.wanted_figures(fars=(0.1,))) for each in scores.values()
    ]
    one, two = evaluate.resample(systems, None, num_resamples=50)
    tar = evaluate.figure_named("TAR@FAR 0.1")
    low, high = evaluate.spread(tar, [one]).interval()
    assert low < evaluate.tar_at_far(evaluate.roc_steps(scores["a"], is_target), 0.1).tar < high
    (comparison,) = evaluate.compare_all({"a": [one], "b": [two]}, [tar])
    assert comparison.difference > 0
    assert comparison.p_value < 0.01


def test_evaluate_imports_neither_torch_nor_matplotlib():
    names = [f"wespeaker_qm.evaluate.{name}" for name in MODULES if name != "__init__"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "heavy = {'torch', 'torchaudio', 'matplotlib', 'kaldiio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
