"""What the tests ask of stored notebooks and of their prose."""

import re
from functools import cache

import bookfiles
import pytest

NUMBER = re.compile(r"(?<![\w.])\d+(?:[,_]\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)
FIGURE = re.compile(r"#@title Figure (\d+\.\d+)\. \S")

CHAPTERS = bookfiles.chapters()
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@cache
def load(path):
    return bookfiles.read(path)


def chapter_number(path):
    return int(path.stem.split("-")[0])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def markdown(notebook):
    return "\n\n".join(cell.source for cell in markdown_cells(notebook))


def figures(notebook):
    """The cells titled as figures, with their numbers: [("1.2", cell), ...]."""
    titled = ((FIGURE.match(cell.source), cell) for cell in code_cells(notebook))
    return [(found.group(1), cell) for found, cell in titled if found]


def html(cell):
    """What a cell shows as HTML."""
    return "".join(out.get("data", {}).get("text/html", "") for out in cell.outputs)


def shows_picture(cell):
    kinds = {kind for out in cell.outputs for kind in out.get("data", {})}
    return any(kind.startswith("image/") for kind in kinds)


def text_only(source):
    """Markdown without code, mathematics and comments."""
    source = re.sub(r"^(```|~~~).*?^\1[ \t]*$", " ", source, flags=re.DOTALL | re.MULTILINE)
    source = re.sub(r"<!--.*?-->", " ", source, flags=re.DOTALL)
    source = re.sub(r"(`+).+?\1", " ", source)
    source = re.sub(r"\$\$.*?\$\$", " ", source, flags=re.DOTALL)
    return re.sub(r"(?<!\\)\$.+?(?<!\\)\$", " ", source, flags=re.DOTALL)


def prose(source):
    """The sentences of a Markdown text, without headings, link targets and cross-references."""
    text = text_only(source)
    text = re.sub(r"^#+ .*$", " ", text, flags=re.MULTILINE)
    # The text of a link to elsewhere names a source: "Chen et al. 2018".
    text = re.sub(r"\[[^\]]*\]\(https?:[^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"https?://\S+|<[^>]+>", " ", text)
    text = re.sub(r"^\s*\d+[.)] ", " ", text, flags=re.MULTILINE)  # the number of a list item
    named = r"(?:Figures?|Chapters?|Sections?|Exercises?|Equations?|Tables?|Parts?)"
    more = r"(?:(?:,| and| or| to)+ \d+(?:\.\d+)?)*"
    text = re.sub(rf"\b{named}\s+\d+(?:\.\d+)?{more}", " ", text, flags=re.IGNORECASE)
    return re.sub(r"\(\d+\.\d+\)", " ", text)


def values(text):
    """All numbers in a text, as floats."""
    return {float(re.sub("[,_]", "", found)) for found in NUMBER.findall(text)}


def checkable_numbers(source):
    """The numbers that must come from the run: decimals, shares, factors, and 11 or more."""
    text = prose(source)
    for found in NUMBER.finditer(text):
        written = found.group()
        factor = re.match(r"\s*(%|×|x\b|percent\b|times\b|-fold\b)", text[found.end() :])
        value = float(re.sub("[,_]", "", written))
        if "." in written or "e" in written.lower() or factor or value >= 11:
            yield written, value


def code_values(source):
    """The numbers that stand in code, comments left out."""
    return values(re.sub(r"#.*$", "", source, flags=re.MULTILINE))


def run_values(notebook):
    """The numbers of a notebook's code and of what it printed or showed as text."""
    found = set()
    for cell in code_cells(notebook):
        shown = re.sub(r"<style.*?</style>|<[^>]+>", " ", html(cell), flags=re.DOTALL)
        found |= code_values(cell.source) | values(bookfiles.printed(cell)) | values(shown)
    return found
