"""Namespaces that import what they name when it is first asked for (PEP 562)."""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach_stub(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's ``__init__.py`` assigns to ``__getattr__, __dir__, __all__``.

    The names are those of the ``__init__.pyi`` beside it, which type checkers read, too: lines
    ``from .module import name as name``, or ``from . import module as module``.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_bytes())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: node.module for node in imports for alias in node.names}

    def getattribute(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{module_of[name] or name}")
        value = getattr(module, name) if module_of[name] else module
        setattr(sys.modules[package], name, value)  # also where a submodule of that name has taken its place
        return value

    return getattribute, lambda: sorted(module_of), sorted(module_of)
