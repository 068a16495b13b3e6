"""What a machine has and lacks for this project, and how to get what it lacks.

Needs no package but Python's own, so that it runs where nothing else does.
"""

import importlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import wespeaker_qm
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.extras import EXTRAS, installation
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.provenance import git_commit
from wespeaker_qm.utils.room import RUN_GIB, Need, environment_needs, shortages

_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:>=([0-9.]+))?[^;]*(?:;.*extra == ['\"](\w+)['\"].*)?")


def examine(folder: Path) -> list[str]:
    """Versions, devices, disk and packages, a line each; what is missing with the command that gets it.

    Args:
        folder: where one wants to work.
    """
    return [
        f"wespeaker_qm {wespeaker_qm.__version__}, commit {git_commit()}, in {Path(wespeaker_qm.__file__).parent}",
        f"Python {platform.python_version()}, {platform.platform()}",
        f"CPU: {_cpu()}, {available_cpus()} for this process; memory: {_memory()}",
        f"GPU: {_gpu()}",
        _disk(folder),
        *(_extra(name, packages) for name, packages in requirements().items()),
        _program("chromium", "the tests of report.html in a browser", "apt-get install chromium"),
    ]


def requirements() -> dict[str, list[str]]:
    """Extra -> what it needs, ``name`` or ``name>=version``: of the installed package, else of the checkout."""
    found: dict[str, list[str]] = {}
    try:
        lines = metadata.requires("wespeaker_qm") or []
        pairs = [(match[3], match[0].partition(";")[0].strip()) for match in map(_REQUIREMENT.match, lines) if match]
    except metadata.PackageNotFoundError:
        files = Path(wespeaker_qm.__file__).parents[1] / "requirements"
        pairs = [
            (name, line)
            for name in EXTRAS
            if (files / f"{name}.txt").is_file()
            for line in (files / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        ]
    for name, requirement in pairs:
        if name in EXTRAS:
            found.setdefault(name, []).append(requirement)
    return {name: found[name] for name in EXTRAS if name in found}


def missing(packages: list[str]) -> Iterator[str]:
    """Those of some requirements that are not met, with the version that is there."""
    for requirement in packages:
        match = _REQUIREMENT.match(requirement)
        assert match is not None, requirement
        name, least = match[1], match[2]
        try:
            version: str | None = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None:  # also of what was installed by half, on a full disk say
            yield name
        elif least is not None and _numbers(version) < _numbers(least):
            yield f"{requirement} (found {version})"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _extra(name: str, packages: list[str]) -> str:
    lacking = list(missing(packages))
    if not lacking:
        return f"{name} ({EXTRAS[name]}): complete"
    return f"{name} ({EXTRAS[name]}): lacks {', '.join(lacking)}; to get it: {installation(name)}"


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, {counted(os.cpu_count() or 1, 'core', 'cores')}"


def _memory() -> str:
    path = Path("/proc/meminfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if "MemAvailable" not in kib:
        return "unknown"
    return f"{kib['MemAvailable'] / 2**20:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB free"


def _gpu() -> str:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return f"not looked for, because torch cannot be imported ({error}); to get it: {installation('losses')}"
    built = torch.version.cuda
    build = f"built for CUDA {built}" if built else "built without CUDA"
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use ({build})"
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return f"{names} (torch {torch.__version__}, CUDA {built})"


def _disk(folder: Path) -> str:
    """With what is too little for a run here, and for the environment where packages for it are lacking."""
    folder, extras = folder.absolute(), requirements()
    lacking = [name for extra in ("losses", "eval", "train") for name in missing(extras.get(extra, []))]
    needs = [Need(folder, "./run.sh", RUN_GIB), *(environment_needs(folder, "train") if lacking else [])]
    said = f"disk: {shutil.disk_usage(folder).free / 2**30:.1f} GiB free in {folder}"
    return "; ".join([said, *(f"{line}: free some, or work on another disk" for line in shortages(needs))])


def _program(name: str, purpose: str, remedy: str) -> str:
    found = shutil.which(name)
    return f"{name}: {found}" if found else f"{name}: not found; {purpose} are skipped; to get it: {remedy}"
