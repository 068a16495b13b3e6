"""Package metadata; tool settings stand in pyproject.toml, dependencies in requirements*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The requirements in a file, without its comments."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    """The version that the package states, read without importing it."""
    text = (HERE / "wespeaker_qm" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("wespeaker_qm/__init__.py states no __version__")
    return match[1]


RECIPE = requirements("requirements-recipe.txt")
TEST = requirements("requirements-test.txt")

setup(
    name="wespeaker_qm",
    version=version(),
    description="Speaker verification with sparsity-inducing divergence losses: the Q-Margin recipe",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_data={"wespeaker_qm.report": ["template.html"]},
    packages=find_packages(include=["wespeaker_qm", "wespeaker_qm.*"]),
    install_requires=requirements("requirements.txt"),
    extras_require={
        "eval": [],  # what is always there: scoring, evaluation and reports need no torch
        "recipe": RECIPE,
        "test": [*RECIPE, *TEST],
        "dev": [*RECIPE, *TEST, "mutmut==3.8.1", "pre-commit"],
    },
    entry_points={"console_scripts": ["wespeaker-qm = wespeaker_qm.bin.main:main"]},
)
