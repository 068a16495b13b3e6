import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "missing_packages.py"


def missing(*files):
    result = subprocess.run([sys.executable, SCRIPT, *files], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_this_environment_lacks_nothing():
    """But for Weights & Biases and MLflow, in whose place the tests have their own."""
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert missing(*(file for file in files if file.stem not in {"docs", "trackers"})) == []


def test_absent_too_old_and_too_new_packages_are_printed(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\n\nno-such-package-here\nnumpy>=1.0\nnumpy>=9999.1\nnumpy<9999\nnumpy<1.2\npytest\n")
    assert missing(file) == ["no-such-package-here", "numpy>=9999.1", "numpy<1.2"]


def test_a_package_that_was_installed_by_half_is_missing(tmp_path):
    """As a full disk, or a kill, leaves one: without a version, whatever is asked for."""
    (tmp_path / "halved-1.0.dist-info").mkdir()
    (tmp_path / "halved-1.0.dist-info" / "METADATA").touch()
    file = tmp_path / "requirements.txt"
    file.write_text("halved\nhalved>=1\nhalved<2\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, SCRIPT, file]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["halved", "halved>=1", "halved<2"]


def test_a_package_of_another_system_is_not_missed(tmp_path):
    file = tmp_path / "requirements.txt"
    here = platform.system()
    file.write_text(f"no-such-package-here; platform_system == 'Plan9'\nnor-this>=2; platform_system == '{here}'\n")
    assert missing(file) == ["nor-this>=2;", "platform_system", "==", f"'{here}'"]
