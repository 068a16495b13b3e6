"""Package metadata; tool settings stand in pyproject.toml, dependencies in requirements/."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The requirements in ``requirements/<name>.txt``, without its comments."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    """The version that the package states, read without importing it."""
    text = (HERE / "wespeaker_qm" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("wespeaker_qm/__init__.py states no __version__")
    return match[1]


class CleanBuildPy(build_py):
    """Builds from nothing: modules that are gone, but lie in build/lib from before, would go into the wheel."""

    def run(self) -> None:
        """Remove what was built of this package, then build."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "wespeaker_qm", ignore_errors=True)
        super().run()


LOSSES, EVAL, DOCS = requirements("losses"), requirements("eval"), requirements("docs")
BENCH = [*LOSSES, *EVAL, *requirements("bench")]
TRAIN = [*BENCH, *requirements("train")]
ONNX = [*EVAL, *requirements("onnx")]
DEMO = [*ONNX, *requirements("demo")]
TEST = [*TRAIN, *DEMO, *DOCS, *requirements("test")]

# Configurations and the corpora's tables lie beside the package, and travel inside it: utils/shipped.py finds them.
DATA = {"wespeaker_qm.conf": "conf", "wespeaker_qm.egs": "egs"}

setup(
    name="wespeaker_qm",
    version=version(),
    description="Speaker verification with sparsity-inducing divergence losses: the Q-Margin recipe",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2606.31664"},
    keywords=[
        "speaker verification",
        "speaker recognition",
        "sparse loss",
        "entmax",
        "margin",
        "VoxCeleb",
        "WeSpeaker",
        "Kaldi",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["wespeaker_qm", "wespeaker_qm.*"]), *DATA],
    package_dir=DATA,
    package_data={
        "wespeaker_qm": ["py.typed"],
        "wespeaker_qm.demo": ["page.html", "recorder.js"],
        "wespeaker_qm.report": ["template.html"],
        "wespeaker_qm.conf": ["*.yaml", "loss/*.yaml"],
        "wespeaker_qm.egs": ["*/*.yaml", "*/*.tsv", "*/*.md"],
    },
    install_requires=requirements("base"),
    extras_require={
        "losses": LOSSES,
        "eval": EVAL,
        "train": TRAIN,
        "onnx": ONNX,
        "bench": BENCH,
        "demo": DEMO,
        "test": TEST,
        "trackers": [*TRAIN, *requirements("trackers")],
        "docs": DOCS,
        "dev": [*TEST, "mutmut==3.8.1", "pre-commit"],
    },
    cmdclass={"build_py": CleanBuildPy},
    entry_points={"console_scripts": ["wespeaker-qm = wespeaker_qm.bin.main:main"]},
)
