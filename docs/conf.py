"""How the documentation is built: `python -m sphinx -W --keep-going -n -b html docs docs/_build`."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))  # config_table

import wespeaker_qm

project = "wespeaker_qm"
author = "the wespeaker_qm developers"
version = release = wespeaker_qm.__version__
language = "en_GB"
smartquotes_action = "qe"  # two dashes begin an option

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "config_table"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Types of other projects, and of modules that no page is about: their inventories would have to be fetched.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = f"wespeaker_qm {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_copy_source = False
html_show_sphinx = False


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line, as MathML, which browsers draw themselves: nothing is fetched."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def displayed_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """A formula of its own, as MathML."""
    self.body.append(f'<div class="formula" style="overflow-x: auto">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def without_field_numbers(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A field of a named tuple that says nothing of itself has no text, instead of Python's own."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> None:
    """Register what draws formulas, and what leaves texts out."""
    app.connect("autodoc-process-docstring", without_field_numbers)
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
