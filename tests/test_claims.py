"""A chapter's claim, its check and the numbers in its prose agree."""

import re

import pytest
from bookfiles import claim, measured, printed, tagged
from notebooks import (
    checkable_numbers,
    code_values,
    every_chapter,
    load,
    markdown_cells,
    prose,
    run_values,
    values,
)


@every_chapter
def test_one_claim_with_one_check(path):
    notebook = load(path)
    (statement,), (check,) = tagged(notebook, "claim"), tagged(notebook, "claim-check")
    assert statement.cell_type == "markdown" and statement.source.startswith("> **Claim.** ")
    assert all(line.startswith(">") for line in statement.source.splitlines())
    assert re.search(r"^\s*assert\b", check.source, re.MULTILINE), "the check asserts nothing"
    lines = [line for line in printed(check).splitlines() if line.startswith("Claim holds: ")]
    assert len(lines) == 1, "the check prints one line `Claim holds: ...`"
    assert values(lines[0]), "that line holds the measured value"


@every_chapter
def test_the_claims_numbers_are_checked(path):
    notebook = load(path)
    (check,) = tagged(notebook, "claim-check")
    checked = values(measured(notebook)) | code_values(check.source)
    stated = values(prose(claim(notebook)))
    assert stated <= checked, f"in the claim but not in its check: {stated - checked}"


@every_chapter
def test_numbers_in_prose_come_from_the_run(path):
    notebook = load(path)
    known = run_values(notebook)
    for cell in markdown_cells(notebook):
        if "quoted" in cell.metadata.get("tags", []):
            assert "quote" in cell.source.lower(), f"must say that it quotes: {cell.source}"
            continue
        stated = checkable_numbers(cell.source)
        strange = [written for written, value in stated if value not in known]
        assert not strange, f"in no output and no code: {strange}\n\n{cell.source}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It fell to 0.031.", ["0.031"]),
        ("That is 97 % or 4 times more, in 1,000 runs.", ["97", "4", "1,000"]),
        ("Ten points; 3 solvers; `x = 0.5`; $h = 0.1$; RK4 in float64.", []),
        ("See (1.3), Figure 1.12, Chapters 11 and 12, [Chen 2018](https://arxiv.org/x).", []),
        ("## 1.2 Title\n\n12. the twelfth item\n\n```\n0.25\n```\n", []),
        ("An error of 1e-8 after 40 steps.", ["1e-8", "40"]),
        ("The factor is 3.9\u00d7; see [Chapter 12](12-x.ipynb).", ["3.9"]),
    ],
)
def test_what_counts_as_a_number(text, found):
    assert [written for written, _ in checkable_numbers(text)] == found
