"""node_lib's docstrings on the API page: formulas as code, sources and chapters as links.

Docstrings are written to be read in an editor. This runs before napoleon reads their sections.
"""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from bookfiles import chapters  # noqa: E402

SECTION = re.compile(r"(Args|Returns|Raises):$")
EQUATION = re.compile(r" {2,}(?=\(\d+\.\d+\))")  # in an editor the numbers stand at the right
ARXIV = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")
DOI = re.compile(r"doi\s+(10\.\d{4,}/[^\s,;]*[^\s,;.])")
CHAPTER = re.compile(r"Chapter (\d+)")


def indent(line):
    return len(line) - len(line.lstrip())


def formulas_as_code(lines):
    """Put `code-block` above each formula: lines indented by four beyond the text around them."""
    out, section, before, inside = [], False, "", False
    for line in lines:
        if line and not indent(line):
            section = bool(SECTION.match(line))
        deep = indent(line) >= (12 if section else 4) and (not section or not before or inside)
        if line and deep and not before and not inside:
            out += [" " * (indent(line) - 4) + ".. code-block:: text", ""]
        if line:
            inside = bool(deep and (inside or not before))
        # To reStructuredText, |x| is a substitution.
        out.append(EQUATION.sub("    ", line) if inside else line.replace("|", r"\|"))
        before = line.strip()
    return out


def link_chapter(found):
    for notebook in chapters():
        if notebook.name.startswith(f"{int(found[1]):02d}-"):
            return f":doc:`{found[0]} </book/{notebook.stem}>`"
    return found[0]


def read_docstring(app, what, name, thing, options, lines):
    text = "\n".join(formulas_as_code(lines))
    text = ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", text)
    text = DOI.sub(r"`doi \1 <https://doi.org/\1>`__", text)
    text = CHAPTER.sub(link_chapter, text)
    text = re.sub(r"^Source: ", "**Source.** ", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def keras():
    """As much of Keras as node_lib's import takes: autodoc's mock hides the layers' arguments."""
    module = ModuleType("keras")
    module.layers = SimpleNamespace(Layer=type("Layer", (), {"__module__": __name__}))
    module.saving = SimpleNamespace(register_keras_serializable=lambda package: lambda layer: layer)
    return module


def setup(app):
    sys.modules["keras"] = keras()
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # napoleon has 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
