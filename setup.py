"""Package metadata; tool settings stand in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "wespeaker_qm" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
TEST = ["entmax", "hypothesis", "mypy", "pytest", "pytest-timeout", "ruff", "scipy-stubs", "types-PyYAML", "types-tqdm"]

setup(
    name="wespeaker_qm",
    version=VERSION,
    description="Speaker verification with sparsity-inducing divergence losses: the Q-Margin recipe",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["wespeaker_qm", "wespeaker_qm.*"]),
    install_requires=[
        "av",  # m4a; its wheels carry FFmpeg
        "kaldiio",
        "matplotlib",
        "numpy",
        "pydantic>=2.7",
        "pyroomacoustics",
        "pyyaml",
        "scipy",
        "soundfile",
        "tensorboard",
        "torch",
        "torchaudio",
        "tqdm",
    ],
    extras_require={"test": TEST, "dev": [*TEST, "pre-commit"]},
    entry_points={"console_scripts": ["wespeaker-qm = wespeaker_qm.bin.main:main"]},
)
