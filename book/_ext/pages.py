"""What every page of the book needs and no extension gives."""

import sys
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]


def keep_display_math(app, doctree):
    r"""Send display mathematics to MathJax as it was written.

    Sphinx wraps a formula that holds a line break into a `split` environment, and `\tag` is an error in there.
    """
    for block in doctree.findall(nodes.math_block):
        formula = block.astext()
        if not block.get("nowrap") and not block.get("label"):
            block["nowrap"] = True
            block.children = [nodes.Text(rf"\[{formula}\]")]


def setup(app):
    sys.path.insert(0, str(ROOT))  # for autodoc: node_lib need not be installed
    # Jupyter Book sets this for sphinx_comments, which this book does not load.
    app.add_config_value("comments_config", {}, "html")
    app.connect("doctree-read", keep_display_math)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
