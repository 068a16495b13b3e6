"""What a machine lacks is told with the command that gets it."""

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.utils import doctor
from wespeaker_qm.utils.extras import EXTRAS, installation


def test_a_complete_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WESPEAKER_QM_MODEL", raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line.partition(" ")[0].rstrip(":") for line in lines]
    assert starts == ["wespeaker_qm", "Python", "CPU", "GPU", "disk", *EXTRAS, "chromium", "default"]
    assert [line for line in lines if line.startswith("eval")] == ["eval (scoring, evaluation, reports): complete"]
    assert f"free in {tmp_path}" in lines[4]
    assert lines[-1].startswith("default model: no model: name one (--model DIR)")


def test_every_extra_is_told_of(repository):
    """Those that somebody installs: `bench` comes with `train`, `dev` is the tests."""
    named = {path.stem for path in (repository / "requirements").glob("*.txt")}
    assert named - {"base", "bench"} == set(EXTRAS)


def test_what_is_missing(monkeypatch):
    versions = {"torch": "2.8.1+cpu", "numpy": "2.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    versions["half"] = None  # as of what was installed on a disk that was full
    monkeypatch.setattr(metadata, "version", version)
    assert list(doctor.missing(["numpy", "torch>=2.9", "scipy", "half", "half>=2"])) == [
        "torch>=2.9 (found 2.8.1+cpu)",
        "scipy",
        "half",
        "half",
    ]
    assert list(doctor.missing(["torch>=2.8", "torch>=2.8.1"])) == []
    monkeypatch.setattr(doctor, "requirements", lambda: {"eval": ["scipy"]})
    expected = f"eval (scoring, evaluation, reports): lacks scipy; to get it: {installation('eval')}"
    assert expected in doctor.examine(Path())


@pytest.mark.parametrize(("lacking", "free"), [([], 1.9), ([], 2.1), (["torch"], 10.9), (["torch"], 11.1)])
def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch, lacking, free):
    """A run takes 2 GiB; what it needs of packages 6 more, and while they are installed another 3."""
    usage = SimpleNamespace(free=free * 2**30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(doctor, "missing", lambda packages: iter(lacking))
    (line,) = (line for line in doctor.examine(tmp_path) if line.startswith("disk"))
    expected = f"disk: {free:.1f} GiB free in {tmp_path}"
    if free in (1.9, 10.9):
        folders, more = f"{tmp_path}", ""
        if lacking:
            folders += f" and {tmp_path}/.venv"
            more = " and 6.0 for the packages of [train] and 3.0 for what pip downloads meanwhile (TMPDIR)"
        expected += f"; {folders}: found {free:.1f} GiB free on this disk, expected 2.0 for ./run.sh{more}"
        expected += ": free some, or work on another disk"
    assert line == expected


def test_requirements_of_an_installed_package(monkeypatch):
    lines = ["numpy", "torch>=2.9; extra == 'losses'", 'scipy ; extra == "eval"', "mutmut==3; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert doctor.requirements() == {"losses": ["torch>=2.9"], "eval": ["scipy"]}


def test_it_runs_where_no_package_is_installed(repository):
    """Python's own modules alone: what such a machine needs most."""
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        "from wespeaker_qm.bin.main import main; sys.exit(main(['doctor']))"
    )
    result = subprocess.run([sys.executable, "-S", "-c", code], cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "GPU: not looked for, because torch cannot be imported" in result.stdout
    assert "eval (scoring, evaluation, reports): lacks jinja2, kaldiio," in result.stdout
