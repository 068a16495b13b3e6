#!/usr/bin/env python3
"""Compile the kernels of the losses for GPUs that need not be there, and say what each program takes.

    tools/compile_kernels.py [--arch 80 90 100]

One line a kernel and architecture: registers of a thread, bytes spilt, bytes of shared memory, at the sizes of a head
with 512 dimensions. It needs Triton (``pip install triton``), whose wheel brings ptxas. The exit code is 1 where a
kernel does not compile.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from wespeaker_qm.losses.kernels import classes, dense, rows, survivors, vectors
from wespeaker_qm.losses.kernels import filter as filters

_TYPES = {
    "rows": "*fp32", "unit": "*fp32", "prototypes": "*fp32", "inverse_norms": "*fp64", "target": "*i64",
    "inverse_embedding_norms": "*fp64", "embedding": "*fp32", "sums": "*fp32", "gradient": "*fp32", "factor": "*fp32",
    "cosine": "*fp32", "logit": "*fp64", "slope": "*fp64", "log_q": "*fp64", "target_cosine": "*fp64",
    "target_logit": "*fp64", "target_slope": "*fp64", "target_log_q": "*fp64", "loss": "*fp32", "correct": "*i1",
    "support": "*fp32", "posterior": "*fp32", "maxima": "*fp32", "threshold": "*fp64", "live": "*i32",
    "classes": "*i32", "count": "*i32", "derivative": "*fp32", "towards": "*fp32", "solution": "*fp64",
    "scratch": "*fp32", "scratch_classes": "*i32", "low_cosine": "*fp16", "order": "*i64", "offsets": "*i64",
    "num_wide": "*i64", "square": "*fp64", "momenta": "*fp32", "low": "*fp16", "is_stopped": "*fp32",
    "rate": "fp32", "momentum": "fp32", "decay": "fp32",
    "scale": "fp64", "margin": "fp64", "cos_margin": "fp64", "sin_margin": "fp64", "roundoff": "fp64", "a": "fp64",
    "error": "fp64",
}  # fmt: skip
"""Type of an argument by its name; sizes, which have none here, are i32."""

_ALIGNED = {"D", "stride"}
"""Sizes that are multiples of 16, which, as those of memory's addresses, lets a kernel load several values at once."""

_LOW = {"cosine": "*fp16"}
_KERNELS: list[tuple[Any, dict[str, int], int, dict[str, str]]] = [
    (vectors.unit_rows, {"ROWS": 8, "BLOCK_D": 512}, 4, {}),
    (vectors.embedding_terms, {"MARGIN": 1, "BLOCK_D": 512}, 4, {"cosine": "*fp64"}),
    (dense.cosines, {"ROWS": 128, "CLASSES": 64, "DEPTH": 32, "WIDTH": 64}, 8, {}),
    (dense.embedding_sums, {"ROWS": 128, "COLUMNS": 128, "DEPTH": 32}, 8, {}),
    (dense.embedding_gradient, {"PARTS": 16, "BLOCK_D": 512}, 4, {}),
    (dense.prototype_gradient, {"CLASSES": 32, "DEPTH": 32, "BLOCK_D": 256}, 4, {}),
    (dense.prototype_gradient, {"CLASSES": 32, "DEPTH": 32, "BLOCK_D": 512}, 8, {}),
    (rows.softmax_rows, {"BLOCK": 2048}, 8, {}),
    *((rows.divergence_rows, {"POWER": power, "BLOCK": 2048}, 8, {}) for power in (2, 4, 0)),
    (filters.group_max, {"GROUP": 64, "GROUPS": 64}, 4, _LOW),
    *((filters.bound, {"POWER": power, "BLOCK": 4096}, 8, {}) for power in (4, 0)),
    (filters.compact, {"GROUP": 64, "GROUPS": 16, "BLOCK": 4096}, 4, _LOW),
    (survivors.candidate_cosines, {"BLOCK": 16, "BLOCK_D": 512}, 4, {}),
    *((survivors.candidate_root, {"POWER": power, "BLOCK": 1024}, 8, {}) for power in (4, 0)),
    (survivors.candidate_root, {"POWER": 4, "BLOCK": 8192}, 16, {}),  # of classes that 8 devices have divided
    (survivors.wide_rows, {"POWER": 4, "BLOCK": 4096, "CLASSES": 16, "BLOCK_D": 512}, 8, {}),
    (survivors.candidate_embedding_gradient, {"CLASSES": 16, "BLOCK_D": 512}, 4, {}),
    (classes.unit_prototypes, {"BLOCK_D": 512}, 1, {}),
    (classes.candidate_prototype_gradient, {"POWER": 4, "BLOCK_D": 512}, 1, {}),
    (classes.squared_gradient_norms, {"POWER": 4, "BLOCK_D": 512}, 1, {}),
    *((classes.prototype_step, {"NESTEROV": True, "POWER": power, "BLOCK_D": 512}, 1, {}) for power in (4, 0)),
]
"""Kernel, sizes, warps of a program, types that differ."""

_STAGES = {"prototype_gradient": 1}
"""Kernel -> blocks that are loaded ahead, where they are not 3."""


def resources(kernel: Any, sizes: dict[str, int], warps: int, types: dict[str, str], arch: int) -> str:
    """Compile one kernel and say what it takes.

    Raises:
        triton.CompilationError, subprocess.CalledProcessError: it does not compile.
    """
    names = kernel.arg_names
    signature = {name: "constexpr" if name in sizes else {**_TYPES, **types}.get(name, "i32") for name in names}
    constants = {(names.index(name),): value for name, value in sizes.items()}
    aligned = [place for place, name in enumerate(names) if signature[name].startswith("*") or name in _ALIGNED]
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": _STAGES.get(kernel.fn.__name__, 3)}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    suffix = "a" if arch >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(compiled.asm["ptx"], encoding="ascii")
        command = [get_ptxas(arch).path, f"-arch=sm_{arch}{suffix}", "-v", str(ptx), "-o", f"{folder}/kernel.cubin"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = max(int(number) for number in re.findall(r"(\d+) registers", said))
    spilt = sum(int(number) for number in re.findall(r"(\d+) bytes spill stores", said))
    return f"{registers:3d} registers, {spilt:4d} bytes spilt, {compiled.metadata.shared:6d} bytes shared"


def main() -> int:
    """Compile all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], help="default: 80 90 100")
    failed = 0
    for arch in parser.parse_args().arch:
        for kernel, sizes, warps, types in _KERNELS:
            title = f"sm_{arch} {kernel.fn.__name__} {sizes}"
            try:
                print(f"{title}: {resources(kernel, sizes, warps, types, arch)}", flush=True)
            except (triton.CompilationError, subprocess.CalledProcessError, RuntimeError) as error:
                failed += 1
                print(f"{title}: does not compile: {getattr(error, 'stderr', None) or error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
