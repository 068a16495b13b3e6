"""The evaluated corpus of tests/evaluate, in the report's tests, too."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "evaluate_conftest", Path(__file__).parents[1] / "evaluate" / "conftest.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

recipe, _template, repository = _module.recipe, _module._template, _module.repository
