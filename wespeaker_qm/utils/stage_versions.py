"""The version of each stage's code, which its done marker carries: results of an earlier one are made again.

A change after which a stage gives other figures for the same inputs raises the number here, and its line in
``CHANGELOG.md`` names it: **[numbers: score 2]**. A test compares the two.
"""

from collections.abc import Mapping

STAGE_VERSIONS: Mapping[str, int] = {
    "prepare": 2,
    "pack": 2,
    "train": 4,
    "average": 1,
    "extract": 5,
    "score": 1,
    "cohort": 1,  # the mean embeddings that normalise and calibrate share
    "normalise": 1,
    "calibrate": 2,
    "evaluate": 2,
    "report": 1,
    "export": 2,
    "export_onnx": 2,
    "import": 2,
}
