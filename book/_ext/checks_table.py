"""The directive `claims-table`: each chapter's claim, what was measured, and how long the chapter runs.

It reads the stored notebooks when the book is built, so the page cannot disagree with the chapters.
"""

import json
import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
RUN_TIMES = ROOT / "book" / "run-times.json"
MARKDOWN = re.compile(r"([\\`*_\[\]<>$#~])")


def chapters():
    """The notebooks of the table of contents, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    notebooks = [ROOT / f"{name}.ipynb" for name in files]
    return [path for path in notebooks if path.exists()]


def tagged(cells, tag):
    return next((c for c in cells if tag in c["metadata"].get("tags", [])), None)


def claim_of(cells):
    """The claim's sentences, without the quotation marks of Markdown and the word "Claim"."""
    cell = tagged(cells, "claim")
    text = " ".join(line.lstrip("> ") for line in "".join(cell["source"]).splitlines() if line.strip()) if cell else ""
    return text.replace("**Claim.**", "").strip()


def measured_of(cells):
    """What the check printed after `Claim holds:`."""
    cell = tagged(cells, "claim-check")
    printed = "".join("".join(out.get("text", "")) for out in cell["outputs"]) if cell else ""
    found = re.search(r"^Claim holds: (.*)$", printed, re.MULTILINE)
    return found.group(1) if found else ""


def rows():
    seconds = json.loads(RUN_TIMES.read_text(encoding="utf-8")) if RUN_TIMES.exists() else {}
    for path in chapters():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        time = f"{seconds[path.stem]} s" if path.stem in seconds else ""
        yield f"[{title}]({path.name})", claim_of(cells), MARKDOWN.sub(r"\\\1", measured_of(cells)), time


class ClaimsTable(SphinxDirective):
    def run(self):
        lines = ["| Chapter | Claim | Measured | Run time |", "|---|---|---|---:|"]
        for row in rows():
            lines.append("| " + " | ".join(text.replace("|", r"\|") for text in row) + " |")
        for path in [*chapters(), RUN_TIMES]:
            self.env.note_dependency(str(path))
        box = nodes.container(classes=["claims-table"])
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, box)
        return box.children


def setup(app):
    app.add_directive("claims-table", ClaimsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
