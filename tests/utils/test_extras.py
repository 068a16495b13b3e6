"""The command that is printed installs an extra where it is printed."""

import shlex
import sys
from importlib.machinery import PathFinder

import pytest

import wespeaker_qm
from wespeaker_qm.utils.extras import installation


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder above a package that is neither this one nor installed; it becomes a checkout with requirements."""
    folder = tmp_path / "50 % of it's"
    (folder / "wespeaker_qm").mkdir(parents=True)
    monkeypatch.setattr(wespeaker_qm, "__file__", str(folder / "wespeaker_qm" / "__init__.py"))
    monkeypatch.setattr(PathFinder, "find_spec", lambda name: name)
    return folder


def test_a_checkout_is_installed_where_it_lies_and_stays_one(root):
    (root / "requirements").mkdir()
    (root / "requirements" / "base.txt").touch()
    assert shlex.split(installation("onnx")) == ["pip", "install", "-e", f"{root}[onnx]"]


def test_an_installed_package_is_named(root):
    assert installation("onnx") == "pip install 'wespeaker_qm[onnx]'"


def test_an_environment_without_pip_is_named_to_one_outside(root, monkeypatch):
    monkeypatch.setattr(PathFinder, "find_spec", lambda name: None)
    assert shlex.split(installation("eval"))[:4] == ["pip", "--python", sys.executable, "install"]


def test_no_hook_of_imports_hears_of_pip(monkeypatch):
    """That of setuptools warns then, in the middle of a message, where distutils is loaded."""

    class Hook:
        def find_spec(self, name, path=None, target=None):
            raise AssertionError(name)

    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    assert "install" in installation("eval")
