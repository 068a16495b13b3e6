"""path.sh: which Python it takes, and how it makes one. Stubs stand for interpreters; nothing is installed."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STUB = """#!/bin/bash
# An interpreter whose missing packages stand in the file "missing" beside it, and that logs what it is asked to do.
here=$(dirname "$0")
echo "$0 $*" >> "{log}"
case "$*" in
tools/missing_packages.py*) cat "$here/missing" ;;
"-m venv .venv" | "-m venv --without-pip .venv")
  mkdir -p .venv/bin
  cp "$0" .venv/bin/python
  touch .venv/bin/missing
  ;;
"-c import ensurepip") {ensurepip} ;;
*"-m pip --version") {pip} ;;
"-m wespeaker_qm.utils.room "*) {room} ;;
*" install "*)
  echo "Collecting torch"
  {install}
  ;;
esac
"""

FILES = " ".join(f"requirements/{name}.txt" for name in ("base", "losses", "eval", "bench", "train"))
LOOK = f"tools/missing_packages.py {FILES}"
INSTALL = "install -c constraints.txt -e"


class Folder:
    def __init__(self, path):
        self.path = path
        self.log = path / "calls"
        (path / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "path.sh", path)

    def interpreter(self, name, missing="", ensurepip="true", pip="true", install="true", room="true"):
        python = self.path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STUB.format(log=self.log, ensurepip=ensurepip, pip=pip, install=install, room=room))
        python.chmod(0o755)
        (python.parent / "missing").write_text(missing)
        return python

    def source(self, **environment):
        script = 'set -euo pipefail; . ./path.sh; echo "PYTHON=$PYTHON"; echo "PYTHONPATH=$PYTHONPATH"'
        inherited = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            ["bash", "-c", script], cwd=self.path, env={**inherited, **environment}, capture_output=True, text=True
        )

    def calls(self):
        return self.log.read_text().replace(f"{self.path}/", "").splitlines()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "recipe")


@pytest.mark.parametrize("python", ["/nowhere/python", ""])
def test_a_shell_that_sources_it_by_hand_outlives_a_failure(folder, python):
    folder.interpreter("bin", missing="torch\n", ensurepip="exit 1", pip="exit 1")
    result = subprocess.run(
        ["/bin/bash", "-c", '. ./path.sh; echo "status $?, still here"'],
        cwd=folder.path,
        env={"PATH": str(folder.path / "none") if not python else "/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
    )
    assert "status 1, still here" in result.stdout


def test_python_is_honoured_before_the_virtual_environment(folder):
    chosen, active = folder.interpreter("chosen"), folder.interpreter("active")
    result = folder.source(PYTHON=str(chosen), VIRTUAL_ENV=str(active.parents[1]))
    assert result.stdout == f"PYTHON={chosen}\nPYTHONPATH={folder.path}\n"
    assert result.stderr == ""


def test_an_active_virtual_environment_is_honoured_before_our_own(folder):
    active = folder.interpreter("active")
    folder.interpreter(".venv")
    result = folder.source(VIRTUAL_ENV=str(active.parents[1]))
    assert f"PYTHON={active}\n" in result.stdout


def test_our_own_serves_where_the_active_one_lacks_packages_and_that_is_said(folder):
    active = folder.interpreter("active", missing="torch\ntqdm\n")
    folder.interpreter(".venv")
    result = folder.source(VIRTUAL_ENV=str(active.parents[1]))
    assert f"PYTHON={folder.path}/.venv/bin/python\n" in result.stdout
    assert result.stderr == f"path.sh: {active} lacks: torch tqdm \n"


def test_it_is_made_once_where_there_is_none(folder):
    base = folder.interpreter("base", missing="torch\n")
    first = folder.source(PYTHON=str(base))
    assert first.returncode == 0, first.stderr
    assert "making .venv with pip install -e .[train]" in first.stdout
    assert f"PYTHON={folder.path}/.venv/bin/python\n" in first.stdout
    assert folder.calls()[-2:] == [".venv/bin/python -m pip --version", f".venv/bin/python -m pip {INSTALL} .[train]"]
    number = len(folder.calls())
    second = folder.source()
    assert f"PYTHON={folder.path}/.venv/bin/python\n" in second.stdout
    assert "making" not in second.stdout
    assert folder.calls()[number:] == [f".venv/bin/python {LOOK}"]


def test_what_pip_says_goes_to_a_file(folder):
    base = folder.interpreter("base", missing="torch\n", install="echo Warning: of no matter >&2")
    result = folder.source(PYTHON=str(base))
    assert result.returncode == 0
    _, second, *rest = result.stdout.splitlines()
    assert second.endswith("takes some minutes, once; what pip says is in .venv/install.log")
    assert [line.partition("=")[0] for line in rest] == ["PYTHON", "PYTHONPATH"]
    assert result.stderr == f"path.sh: {base} lacks: torch \n"
    log = (folder.path / ".venv/install.log").read_text()
    assert log == "Collecting torch\nWarning: of no matter\n"


def test_an_installation_that_fails_shows_how_pip_ended(folder):
    install = "for number in $(seq 30); do echo line $number; done; echo ERROR: No matching distribution >&2; exit 1"
    base = folder.interpreter("base", missing="torch\n", install=install)
    result = folder.source(PYTHON=str(base))
    assert result.returncode == 1
    assert "Collecting" not in result.stdout + result.stderr
    assert "line 29\nline 30\nERROR: No matching distribution\npath.sh: pip install failed; see above" in result.stderr
    assert "in .venv/install.log. To use an environment of your own: PYTHON=/path/to/python ./run.sh" in result.stderr
    assert "Collecting torch\nline 1\n" in (folder.path / ".venv/install.log").read_text()


@pytest.mark.parametrize("extra", ["", "test"])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(folder, extra):
    base = folder.interpreter("base", missing="torch\n", room="echo path.sh: too small: $3 >&2; exit 1")
    result = folder.source(PYTHON=str(base), path_extra=extra)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"path.sh: {base} lacks: torch \npath.sh: too small: {extra or 'train'}\n"
    assert [path.name for path in (folder.path / ".venv").iterdir()] == [".making"]
    assert folder.calls()[-1] == f"base/bin/python -m wespeaker_qm.utils.room {extra or 'train'}"


@pytest.mark.parametrize(
    "said", ["[Errno 28] No space left on device: '/tmp/pip-unpack-x'", "[Errno 122] Disk quota exceeded"]
)
def test_a_disk_that_fills_up_while_pip_works(folder, said):
    install = f'echo "ERROR: Could not install packages due to an OSError: {said}" >&2; exit 1'
    base = folder.interpreter("base", missing="torch\n", install=install)
    result = folder.source(PYTHON=str(base), TMPDIR="/var/tmp")
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "lacks" not in line]
    assert len(lines) == 1  # and nothing of pip's
    begins = (
        f"path.sh: pip install failed: a disk is full, that of {folder.path}/.venv or of /var/tmp, where pip unpacks."
    )
    assert lines[0].startswith(begins)
    assert said in (folder.path / ".venv/install.log").read_text()


def test_the_full_disk_may_be_the_one_that_pips_lines_go_to(folder):
    """Bash then says so of each line; /dev/full takes none."""
    (folder.path / ".venv").mkdir()
    (folder.path / ".venv/install.log").symlink_to("/dev/full")
    install = "for number in $(seq 30); do echo line; done; echo OSError: [Errno 28] No space left on device; exit 1"
    base = folder.interpreter("base", missing="torch\n", install=install)
    result = folder.source(PYTHON=str(base))
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["path.sh"] * 2
    assert "a disk is full" in result.stderr


def test_a_full_disk_that_pip_could_do_without_ends_nothing(folder):
    """Its folder of copies, say."""
    install = 'echo "WARNING: no copy kept: No space left on device"'
    base = folder.interpreter("base", missing="torch\n", install=install)
    result = folder.source(PYTHON=str(base))
    assert result.returncode == 0, result.stderr
    assert f"PYTHON={folder.path}/.venv/bin/python\n" in result.stdout


def test_a_folder_in_which_nothing_can_be_made(folder):
    """A file is where .venv would be; of a disk without space or rights mkdir says it in the same way."""
    (folder.path / ".venv").touch()
    result = folder.source(PYTHON=str(folder.interpreter("base", missing="torch\n")))
    assert result.returncode == 1
    assert "mkdir: cannot create directory" in result.stderr
    assert not any("install" in call or "-m venv" in call for call in folder.calls())


def test_a_long_silence_of_pip_is_filled_once_a_minute(folder):
    """A clock that goes a minute at a time: what is downloaded for minutes says nothing meanwhile."""
    script = (
        ". ./path.sh 2>/dev/null; SECONDS=0\n"
        'read() { SECONDS=$((SECONDS + 30)); builtin read "$@"; }\n'
        'for number in 1 2 3 4; do echo "Collecting $number"; done | path_follow log'
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python"}
    command = ["bash", "-c", script]
    result = subprocess.run(command, cwd=folder.path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "path.sh: 1 min, 2 packages\npath.sh: 2 min, 4 packages\n"
    assert (folder.path / "log").read_text() == "".join(f"Collecting {number}\n" for number in (1, 2, 3, 4))


def test_an_interrupted_installation_is_completed(folder):
    folder.interpreter(".venv", missing="torch\n")
    base = folder.interpreter("base", missing="torch\n")
    folder.source(PYTHON=str(base))
    assert f".venv/bin/python -m pip {INSTALL} .[train]" in folder.calls()
    assert not any("-m venv" in call for call in folder.calls())


def test_debian_without_python3_venv_installs_with_the_pip_outside(folder):
    base = folder.interpreter("base", missing="torch\n", ensurepip="exit 1", pip="exit 1")
    result = folder.source(PYTHON=str(base))
    assert result.returncode == 0, result.stderr
    assert folder.calls()[-1] == f"base/bin/python -m pip --python .venv/bin/python {INSTALL} .[train]"


def test_the_extra_is_asked_for_and_installed(folder):
    base = folder.interpreter("base", missing="pytest\n")
    folder.source(PYTHON=str(base), path_extra="test")
    extras = " ".join(f"requirements/{name}.txt" for name in ("onnx", "demo", "docs", "test"))
    assert f"base/bin/python {LOOK} {extras}" in folder.calls()
    assert f".venv/bin/python -m pip {INSTALL} .[test]" in folder.calls()


@pytest.mark.parametrize(("constraints", "options"), [("", ""), ("mine.txt", "-c mine.txt ")])
def test_other_versions_are_installed_when_asked_for(folder, constraints, options):
    base = folder.interpreter("base", missing="torch\n")
    folder.source(PYTHON=str(base), CONSTRAINTS=constraints)
    assert folder.calls()[-1] == f".venv/bin/python -m pip install {options}-e .[train]"


def test_two_commands_make_one_environment_between_them(folder):
    """Two pips at once in one folder leave a broken environment."""
    folder.interpreter("usr")
    base = {"PATH": f"{folder.path}/usr/bin:/usr/bin:/bin"}
    (folder.path / "usr/bin/python3").symlink_to("python")
    (folder.path / ".venv").mkdir()
    with (folder.path / ".venv/.making").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        script = "set -euo pipefail; . ./path.sh; echo PYTHON=$PYTHON"
        second = subprocess.Popen(["bash", "-c", script], cwd=folder.path, env=base, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert second.stdout.readline() == "path.sh: another command is making .venv here; waiting for it\n"
        made = folder.interpreter(".venv")  # by the first, meanwhile
    output, _ = second.communicate()
    assert second.returncode == 0
    assert output == f"PYTHON={made}\n"
    assert not any("install" in call for call in folder.calls())
