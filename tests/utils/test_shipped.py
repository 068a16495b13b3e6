from pathlib import Path

import pytest

from wespeaker_qm.utils import shipped as module
from wespeaker_qm.utils.shipped import shipped, shipped_names


@pytest.fixture(params=["installed", "checkout"])
def package(request, tmp_path, monkeypatch):
    """Where the folders of an installed package are, or those of a checkout; the working directory is elsewhere."""
    package = tmp_path / "lib" / "wespeaker_qm"
    package.mkdir(parents=True)
    root = package if request.param == "installed" else package.parent
    (root / "egs" / "mini").mkdir(parents=True)
    (root / "egs" / "mini" / "corpus.yaml").write_text("kind: mini\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(module, "_PACKAGE", package)
    return root


def test_what_is_not_here_comes_from_the_package(package):
    assert shipped("egs/mini/corpus.yaml") == package / "egs" / "mini" / "corpus.yaml"
    assert shipped("egs/mini") == package / "egs" / "mini"


def test_what_is_here_wins(package):
    Path("egs/mini").mkdir(parents=True)
    assert shipped("egs/mini") == Path("egs/mini")


@pytest.mark.parametrize("path", ["egs/other", "wespeaker_qm", "mini/egs", "/egs/mini", ""])
def test_other_paths_stay_as_they_are(package, path):
    assert shipped(path) == Path(path)


def test_names_of_here_and_of_the_package_together(package):
    Path("egs/own").mkdir(parents=True)
    Path("egs/own/corpus.yaml").write_text("kind: folder\n")
    assert shipped_names("egs/*/corpus.yaml") == ["egs/mini/corpus.yaml", "egs/own/corpus.yaml"]
