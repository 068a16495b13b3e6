"""Evaluation runs where there is no torch, and imports nothing heavy before it is needed."""

import subprocess
import sys
from pathlib import Path

import wespeaker_qm.evaluate

MODULES = sorted(path.stem for path in Path(wespeaker_qm.evaluate.__file__).parent.glob("*.py"))


def test_evaluate_imports_neither_torch_nor_matplotlib():
    names = [f"wespeaker_qm.evaluate.{name}" for name in MODULES if name != "__init__"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "heavy = {'torch', 'torchaudio', 'matplotlib', 'kaldiio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
