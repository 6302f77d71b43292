"""The form in which a chapter is stored. CONTRIBUTING.md says what each rule is for."""

import base64
import io
import re
import statistics

import pytest
from bookfiles import BOOK, METADATA, printed, repository, title
from notebooks import (
    CHAPTERS,
    chapter_number,
    code_cells,
    every_chapter,
    figures,
    html,
    load,
    markdown,
    markdown_cells,
    shows_picture,
    text_only,
)
from PIL import Image
from setup_cell import setup_source

TAGS = {"hide-cell", "hide-input", "claim", "claim-check", "quoted", "nbval-ignore-output"}
FOLDED = {"hide-cell", "hide-input"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work|content|opt|usr)/|[A-Z]:\\\\")
MYST = re.compile(r"^(?:`{3,}|:{3,})\{|\{[a-z][\w:-]*\}`|^\([\w-]+\)=\s*$", re.MULTILINE)
IMAGE = re.compile(r"!\[[^\]]*\]\(|<img\b")
EXERCISE = r"^\*\*Exercise (\d+\.\d+)(?: \([^)]*\))?\.\*\*"
EQUATION = re.compile(r"\\tag\{([^}]*)\}")
EQUATION_NAMED = re.compile(r"\((\d+\.[1-9]\d*)\)")


@every_chapter
def test_is_executed_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(load(path))]
    assert counts == list(range(1, len(counts) + 1)), "run `make refresh`"


@every_chapter
def test_holds_no_trace_of_a_machine(path):
    notebook = load(path)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert "execution" not in cell.metadata, "timings: run `make refresh`"
        outputs = cell.get("outputs", [])
        assert not [out for out in outputs if out.get("name") == "stderr"], cell.source
        assert not [out for out in outputs if out.output_type == "error"], cell.source
        text = cell.source + (printed(cell) + html(cell) if outputs else "")
        assert not MACHINE_PATH.search(text), f"a path of one machine in: {cell.source}"


@every_chapter
def test_is_small_and_has_unique_cell_ids(path):
    assert path.stat().st_size < 1_000_000
    ids = [cell.id for cell in load(path).cells]
    assert len(ids) == len(set(ids))


@every_chapter
def test_begins_with_title_colab_link_and_set_up(path):
    notebook = load(path)
    slug = repository().removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{slug}/blob/main/book/{path.name}"
    assert re.match(rf"{chapter_number(path)}\. \S", title(notebook))
    assert f"[Open in Colab]({colab})" in notebook.cells[0].source
    setup = notebook.cells[1]
    assert setup.source == setup_source(), "run `python tools/setup_cell.py`"
    assert setup.metadata.get("tags") == ["hide-cell"]


@every_chapter
def test_tags_are_known_and_folded_cells_fold_in_colab_too(path):
    for cell in load(path).cells:
        tags = set(cell.metadata.get("tags", []))
        assert tags <= TAGS, f"unknown tags {tags - TAGS}"
        folded = bool(tags & FOLDED)
        assert (cell.metadata.get("cellView") == "form") == folded, cell.source
        if folded:
            assert cell.source.startswith("#@title "), cell.source


@every_chapter
def test_figures_have_number_caption_and_text_alternative(path):
    notebook = load(path)
    for cell in code_cells(notebook):
        if shows_picture(cell) or "node-player" in html(cell):
            assert any(cell is figure for _, figure in figures(notebook)), (
                f"a picture without `#@title Figure n.m. ...`: {cell.source}"
            )
    for number, cell in figures(notebook):
        assert "hide-input" in cell.metadata.get("tags", []), number
        if "node-player" in html(cell):
            assert re.search(r'\balt="[^"]{20,}"', html(cell)), f"Figure {number}: no alt text"
            assert f"Figure {number}." in html(cell), f"Figure {number}: caption"
            continue
        assert shows_picture(cell), f"Figure {number} shows nothing"
        form = cell.metadata.get("mystnb", {})
        figure, alt = form.get("figure", {}), form.get("image", {}).get("alt", "")
        assert figure.get("caption", "").startswith(f"**Figure {number}.** "), number
        assert figure.get("name") == f"fig-{number.replace('.', '-')}"
        assert len(alt) >= 20, f"Figure {number}: no alt text"


@every_chapter
def test_figures_are_numbered_in_order_and_named_in_the_text(path):
    notebook, chapter = load(path), chapter_number(path)
    numbers = [number for number, _ in figures(notebook)]
    assert numbers == [f"{chapter}.{i}" for i in range(1, len(numbers) + 1)]
    text = text_only(markdown(notebook))
    listed = re.findall(r"Figures?\s+(\d+\.\d+)(?:(?:,|\s+and|\s+to)\s+(\d+\.\d+))?", text)
    named = {number for pair in listed for number in pair if number}
    known = {number for other in CHAPTERS for number, _ in figures(load(other))}
    assert set(numbers) <= named, f"not referred to: {set(numbers) - named}"
    assert named <= known, f"no such figure: {named - known}"


@every_chapter
def test_figures_stay_readable_on_a_phone(path):
    """On a page 390 px wide a figure is 358 px wide; ten-point text in it must be 8 px high."""
    for number, cell in figures(load(path)):
        for out in cell.outputs:
            if "image/png" in out.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(out.data["image/png"])))
                inches = picture.width / picture.info["dpi"][0]
                assert 358 / inches * 10 / 72 >= 8, f"Figure {number} is {inches:.1f} in wide"


@every_chapter
def test_text_is_plain_markdown(path):
    for cell in markdown_cells(load(path)):
        source = cell.source
        assert not MYST.search(source), f"a directive, role or label: {source}"
        assert not IMAGE.search(source), f"an image in Markdown: {source}"
        assert r"\newcommand" not in source and r"\def" not in source
        for opening, closing in re.findall(
            r"</summary>(\s*)\S.*?(\s*)</details>", source, re.DOTALL
        ):
            assert opening.count("\n") >= 2 and closing.count("\n") >= 2, (
                f"<details> needs blank lines inside: {source}"
            )
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", source):
            assert (BOOK / target).exists(), f"a link to {target}, which is not there"


@every_chapter
def test_sections_are_numbered(path):
    headings = re.findall(r"^## (.*)$", text_only(markdown(load(path))), re.MULTILINE)
    assert headings[-3:] == ["Summary", "Exercises", "Where to read on"]
    numbers = [heading.split(" ")[0] for heading in headings[:-3]]
    assert numbers == [f"{chapter_number(path)}.{i}" for i in range(1, len(numbers) + 1)]


@every_chapter
def test_says_what_you_will_learn(path):
    cell = next(c for c in markdown_cells(load(path)) if c.source.startswith("**You will learn**"))
    assert 3 <= len(re.findall(r"^[-*] ", cell.source, re.MULTILINE)) <= 5


@every_chapter
def test_has_three_exercises_with_solutions(path):
    notebook, chapter = load(path), chapter_number(path)
    exercises = re.findall(EXERCISE, markdown(notebook), re.MULTILINE)
    assert exercises == [f"{chapter}.{i}" for i in (1, 2, 3)]
    in_text = re.findall(r"<summary>Solution to exercise (\d+\.\d+)</summary>", markdown(notebook))
    in_code = {}
    for cell in code_cells(notebook):
        found = re.match(r"#@title Solution to exercise (\d+\.\d+)$", cell.source, re.MULTILINE)
        if found:
            in_code[found.group(1)] = cell
    assert set(in_text) | set(in_code) == set(exercises)
    assert in_code, "one exercise is code"
    for number, cell in in_code.items():
        assert "assert" in cell.source, f"the solution of {number} asserts nothing"
        assert "Right: " in printed(cell), f"the check does not accept the solution of {number}"
    visible = [c for c in code_cells(notebook) if not FOLDED & set(c.metadata.get("tags", []))]
    assert any("Not yet: " in printed(cell) for cell in visible), "a check refuses the stub"


@every_chapter
def test_no_cell_hides_its_value_by_a_semicolon(path):
    """Jupyter leaves the value out then, nbval does not: the comparison of outputs would fail."""
    assert not [c.source for c in code_cells(load(path)) if c.source.rstrip().endswith(";")]


@every_chapter
def test_cells_are_short(path):
    sources = [cell.source.splitlines() for cell in code_cells(load(path))]
    lengths = sorted(len([line for line in lines if line.strip()]) for lines in sources)
    assert statistics.median(lengths) <= 10
    assert sum(length <= 30 for length in lengths) >= 0.9 * len(lengths), lengths
    wide = [line for lines in sources for line in lines if len(line) > 88]
    assert not wide, "lines over 88 characters"


def equations(path):
    return EQUATION.findall(markdown(load(path)))


@every_chapter
def test_equations_are_numbered_for_their_chapter(path):
    numbers, chapter = equations(path), chapter_number(path)
    assert numbers == [f"{chapter}.{i}" for i in range(1, len(numbers) + 1)]


@pytest.mark.parametrize(
    "path", [*CHAPTERS, *sorted(BOOK.glob("*.md"))], ids=lambda path: path.stem
)
def test_equations_that_are_named_exist(path):
    source = path.read_text(encoding="utf-8") if path.suffix == ".md" else markdown(load(path))
    named = set(EQUATION_NAMED.findall(text_only(source)))
    known = {number for chapter in CHAPTERS for number in equations(chapter)}
    assert named <= known, f"no such equation (or a bare number in brackets): {named - known}"
