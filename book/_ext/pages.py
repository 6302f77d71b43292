"""What every page of the book needs and no extension gives."""

import re
import sys
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
TITLE = re.compile(r"#@title (?:(Figure \S+\d)\. .*|(.*))")


def keep_display_math(app, doctree):
    r"""Send display mathematics to MathJax as it was written.

    Sphinx wraps a formula that holds a line break into `split`, and `\tag` is an error in there.
    """
    for block in doctree.findall(nodes.math_block):
        if not block.get("nowrap") and not block.get("label"):
            block["nowrap"] = True
            block.children = [nodes.Text(rf"\[{block.astext()}\]")]


def name_folded_cells(app, doctree):
    """Let the line that opens a folded cell say what is in it: the `#@title` that Colab shows."""
    for cell in doctree.findall(nodes.container):
        if cell.get("hide_mode") and cell.children:
            title = TITLE.match(cell.children[0].astext())
            if title:
                figure, text = title.groups()
                cell["prompt_show"] = cell["prompt_hide"] = f"Code of {figure}" if figure else text


def setup(app):
    sys.path.insert(0, str(ROOT))  # for autodoc: node_lib need not be installed
    # Jupyter Book sets this for sphinx_comments, which this book does not load.
    app.add_config_value("comments_config", {}, "html")
    app.connect("doctree-read", keep_display_math)
    app.connect("doctree-read", name_folded_cells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
