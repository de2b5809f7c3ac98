"""Settings of the documentation site: `make docs` builds it, and any warning fails the build.

Sphinx with MyST was chosen because both are maintained, read Markdown pages as GitHub shows them,
and take the reference from the docstrings. MkDocs with mkdocstrings was the other
candidate, but MkDocs has had no release since 2024, and its theme, Material, is marked as inactive.
Links within the site are checked; links to other sites are not.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "steer-lightning"
author = "the steer-lightning authors"
release = version = installed_version("steer-lightning")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "reference_pages",
]

# -- pages --------------------------------------------------------------------------------------
exclude_patterns = ["_build", "_ext", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 4
myst_heading_slug_func = "reference_pages.slug"
myst_dmath_allow_digits = False
nb_execution_mode = "off"  # a test runs the notebooks; the site shows their stored output
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"

# -- reference ----------------------------------------------------------------------------------
default_role = "code"  # docstrings are Markdown: a single backtick means code
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True  # what stands for a function in memory is no Python
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
nitpicky = True  # a name of this package that leads nowhere fails the build
nitpick_ignore_regex = [(r"py:.*", r"(?!steer_lightning).*")]  # the other libraries' names

# -- looks --------------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "steer-lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_sidebars = {"index": [], "glossary": [], "faq": [], "comparison": []}
html_theme_options = {
    "logo": {"text": "steer-lightning"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def _math(self: Any, node: Any) -> None:
    """Writes a formula as MathML, which browsers show without a script and without a network."""
    formula = latex2mathml.tex2mathml(node.astext(), as_block=node.tagname == "math_block")
    block = node.tagname == "math_block"
    self.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Adds what the site needs beside its extensions: formulas without a script."""
    app.add_html_math_renderer("mathml", (_math, None), (_math, None))
