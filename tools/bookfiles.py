"""Where the book's files are, and how a notebook is read and written.

Shared by the scripts beside this file, by the book's extensions and by the tests.
"""

import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
CONFIG = ROOT / "_config.yml"
RUN_TIMES = BOOK / "run-times.json"

# The metadata of every stored notebook: the kernel it wants, nothing about the machine that ran it.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def chapters():
    """The notebooks of the table of contents that exist, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [path for path in (ROOT / f"{name}.ipynb" for name in files) if path.exists()]


def repository():
    """The address of the book's repository, as `_config.yml` has it."""
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]["url"]


def read(path):
    return nbformat.read(path, as_version=4)


def write(notebook, path):
    """Store a notebook so that the same content gives the same bytes."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken = {cell.get("id") for cell in notebook.cells}
    for number, cell in enumerate(notebook.cells, start=1):
        if not cell.get("id"):
            free = (f"c-{n:03d}" for n in range(number, number + len(notebook.cells) + 1))
            cell.id = next(name for name in free if name not in taken)
            taken.add(cell.id)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def tagged(notebook, tag):
    """The cells with a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def title(notebook):
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def claim(notebook):
    """The sentences of the chapter's claim, without the marks of a quotation and the word Claim."""
    source = "".join(cell.source for cell in tagged(notebook, "claim"))
    text = " ".join(line.lstrip("> ").rstrip() for line in source.splitlines())
    return text.replace("**Claim.**", "").strip()


def printed(cell):
    """All that a code cell printed or showed as text."""
    texts = [out.get("text", out.get("data", {}).get("text/plain", "")) for out in cell.outputs]
    return "\n".join(texts)


def measured(notebook):
    """What the check of the claim printed after `Claim holds: `."""
    text = "\n".join(printed(cell) for cell in tagged(notebook, "claim-check"))
    found = re.search(r"^Claim holds: (.+)$", text, re.MULTILINE)
    return found.group(1) if found else ""
