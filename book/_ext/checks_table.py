"""The directive `claims-table`: each chapter's claim, what was measured, and how long it runs.

It reads the stored notebooks when the book is built, so the page cannot disagree with the chapters.
"""

import json
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from bookfiles import RUN_TIMES, chapters, claim, measured, read, title  # noqa: E402

MARKDOWN = re.compile(r"([\\`*_\[\]<>$#~])")


def rows():
    seconds = json.loads(RUN_TIMES.read_text(encoding="utf-8")) if RUN_TIMES.exists() else {}
    for path in chapters():
        notebook = read(path)
        yield (
            f"[{title(notebook)}]({path.name})",
            claim(notebook),
            MARKDOWN.sub(r"\\\1", measured(notebook)),
            f"{seconds[path.stem]} s" if path.stem in seconds else "",
        )


class ClaimsTable(SphinxDirective):
    def run(self):
        lines = ["| Chapter | Claim | Measured | Run time |", "|---|---|---|---:|"]
        for row in rows():
            lines.append("| " + " | ".join(text.replace("|", r"\|") for text in row) + " |")
        for path in [*chapters(), RUN_TIMES]:
            self.env.note_dependency(str(path))
        box = nodes.container()
        source = StringList(lines, source=self.env.docname)
        self.state.nested_parse(source, self.content_offset, box)
        return box.children


def setup(app):
    app.add_directive("claims-table", ClaimsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
