"""Imports go one way, and the heavy ones stay where they belong: a walk over the source, nothing is run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "wespeaker_qm"

LAYERS = {
    "utils": 0,
    "config": 1,
    "audio": 2,
    "models": 2,
    "losses": 2,
    "trials": 2,
    "evaluate": 3,
    "network": 3,
    "corpus": 4,
    "packing": 5,
    "corpora": 5,
    "dataset": 6,
    "embed": 6,
    "train": 7,
    "score": 9,
    "report": 10,
    "export": 11,
    "speaker": 12,
    "enrolment": 13,
    "demo": 14,
    "bench": 15,
    "stages": 16,
    "bin": 17,
}
FORBIDDEN = {
    "trials": {"torch", "torchaudio"},
    "evaluate": {"torch", "torchaudio"},
    "report": {"torch", "torchaudio"},
    "export": {"torch", "torchaudio"},
    "enrolment": {"torch", "torchaudio"},
    "losses": {"wespeaker_qm.config"},
    "models": {"wespeaker_qm.config"},
    "bin": {"numpy", "torch", "wespeaker_qm.utils.done"},  # options and calls, no work
}
HEAVY = {
    *("av", "jinja2", "matplotlib", "plotly", "pyroomacoustics", "tensorboard", "torch.utils.tensorboard"),
    *("scipy.optimize", "scipy.signal", "wandb", "mlflow"),
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(nodes):
    """The modules that import statements name: ``from a import b`` names a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module, package):
    return module == package or module.startswith(f"{package}.")


def layer_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = layer_of(path)
    if own == "__init__":
        assert list(imported(ast.walk(tree))) == ["wespeaker_qm.utils.lazy", "wespeaker_qm.utils.lazy.attach_stub"]
        return
    assert own in LAYERS, f"{own} has no place in the order of imports"
    everything = set(imported(ast.walk(tree)))
    for module in everything:
        layer = module.split(".")[1] if module.startswith("wespeaker_qm.") else None
        if layer in LAYERS and layer != own:
            assert LAYERS[layer] < LAYERS[own], f"{own} must not import {module}"
        for forbidden in FORBIDDEN.get(own, set()) | ({"torchaudio"} if own != "bench" else set()):
            assert not within(module, forbidden), f"{own} must not import {module}"
    for module in set(imported(tree.body)):
        assert not any(within(module, heavy) for heavy in HEAVY), f"import {module} inside the function that needs it"


CORPORA = sorted(path.name for path in (PACKAGE / "corpora").iterdir() if (path / "settings.py").is_file())


def test_there_are_corpora():
    assert {"mini", "folder", "voxceleb"} <= set(CORPORA)


@pytest.mark.parametrize("path", sorted((PACKAGE / "corpora").rglob("*.py")), ids=lambda path: path.stem)
def test_no_corpus_knows_another(path):
    """What two of them need lies beside their folders, and only the table of corpora names all."""
    own = path.relative_to(PACKAGE / "corpora").parts[0]
    if own == "table.py":
        return
    for module in imported(ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        for corpus in CORPORA:
            assert corpus == own or not within(module, f"wespeaker_qm.corpora.{corpus}"), f"{own} imports {module}"
    if own in CORPORA or own == "settings.py":
        assert "argparse" not in path.read_text(encoding="utf-8"), "options are for bin to parse"
