"""The kernels compile for a GPU that is not here: the interpreter allows what the compiler refuses."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_kernel_compiles_and_hardly_spills():
    command = [sys.executable, ROOT / "tools" / "compile_kernels.py", "--arch", "90"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    names = {line.split()[1] for line in result.stdout.splitlines()}
    kernels = (ROOT / "wespeaker_qm" / "losses" / "kernels").glob("*.py")
    programs = [text for file in kernels for text in file.read_text(encoding="utf-8").split("@triton.jit\n")[1:]]
    # A kernel is what begins with its number among the programs; the rest are functions that kernels call.
    assert names == {text.split("(")[0].removeprefix("def ") for text in programs if "tl.program_id(0)" in text}
    assert all(int(line.split(" bytes spilt")[0].split()[-1]) <= 128 for line in result.stdout.splitlines())
