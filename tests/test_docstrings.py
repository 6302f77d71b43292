"""What a docstring of node_lib says: formula, arguments, errors, source, chapter; nothing stale."""

import ast
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import keras
import pytest
from bookfiles import BOOK, read

import node_lib

FILES = sorted(Path(node_lib.__file__).parent.glob("*.py"))
NAMES = [name for name in node_lib.__all__ if callable(getattr(node_lib, name))]
METHODS = {name for name in NAMES if isinstance(getattr(node_lib, name), node_lib.RungeKutta)}
PUBLIC = [name for name in NAMES if name not in METHODS]
# What the layers, the solvers and the results are made of; a check answers, it solves nothing.
FORMULAS = ["Autonomous", "ConcatTime", "NeuralODE", "RungeKutta", "get_neural_ode_layer", "odeint"]
SECTION = re.compile(r"^(Args|Returns|Raises):$|^(?:.*\. )?(Source|Chapters?)\b[: ]", re.MULTILINE)
NUMBER = re.compile(r"\((\d{1,2}\.\d{1,2})\)")
CHAPTERS = re.compile(r"Chapters? (\d+(?:(?:, | and | to )\d+)*)", re.MULTILINE)

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def sections(text):
    return {first or second.rstrip("s") for first, second in SECTION.findall(text)}


def arguments(thing):
    """The names of the arguments of a function or, for a class, of its making."""
    parameters = inspect.signature(thing).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]


def described(text):
    """The names that the section Args describes: `name:` or `name, other:`."""
    block = re.search(r"^Args:\n((?:(?: .*)?\n)*)", text + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+(?:, \w+)*): ", block.group(1), re.MULTILINE) if block else []
    return [name for entry in entries for name in entry.split(", ")]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_docstring_has_every_part(name):
    thing = getattr(node_lib, name)
    text = inspect.getdoc(thing)
    missing = {"Args", "Chapter"} - sections(text)
    if name in FORMULAS:
        assert re.search(r"^ {4,}\S.* = ", text, re.MULTILINE), "no formula"
    if not inspect.isclass(thing):
        missing |= {"Returns"} - sections(text)
    if "raise " in inspect.getsource(thing) or name in ("odeint", "get_neural_ode_layer"):
        missing |= {"Raises"} - sections(text)
    if name not in ("Autonomous", "ConcatTime", "Stats"):  # a definition has no source
        missing |= {"Source"} - sections(text)
        assert re.search(r"\d \(\d{4}\)|arXiv\s\d{4}\.\d{4,5}|doi\s10\.\d{4,}/\S+", text), (
            "no arXiv, doi or journal"
        )
    assert not missing
    unknown = set(described(text)) ^ set(arguments(thing))
    assert not unknown, f"in the signature or in Args, not in both: {unknown}"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_names_its_source_at_its_tableau(name):
    source = (Path(node_lib.__file__).parent / "solvers.py").read_text(encoding="utf-8")
    above = source.split(f"\n{name} = ")[0].split("\n\n")[-1]
    assert re.search(r"^# [\s\S]*\(?(1[789]|20)\d\d\)", above.strip()), above


@every_file
def test_everything_public_has_a_docstring(path):
    def bare(node, prefix=""):
        for child in node.body:
            kinds = ast.ClassDef | ast.FunctionDef
            if isinstance(child, kinds) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    yield prefix + child.name
                if isinstance(child, ast.ClassDef):
                    yield from bare(child, f"{child.name}.")

    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert not list(bare(tree))


def words(path):
    """All docstrings and comments of a file; other strings too, which does no harm."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    wanted = (tokenize.COMMENT, tokenize.STRING)
    return "\n".join(token.string for token in tokens if token.type in wanted)


@cache
def equations(chapter):
    """The numbers of a chapter's equations, None where there is no such notebook (yet)."""
    notebooks = sorted(BOOK.glob(f"{chapter:02d}-*.ipynb"))
    if not notebooks:
        return None
    text = "".join(cell.source for cell in read(notebooks[0]).cells)
    return set(re.findall(r"\\tag\{(\d+\.\d+)\}", text))


@every_file
def test_named_equations_exist(path):
    for number in NUMBER.findall(words(path)):
        there = equations(int(number.split(".")[0]))
        assert there is None or number in there, f"({number}) is in no chapter"


@every_file
def test_named_chapters_exist(path):
    last = max(int(notebook.name[:2]) for notebook in BOOK.glob("[0-9][0-9]-*.ipynb"))
    for listed in CHAPTERS.findall(words(path)):
        for number in map(int, re.findall(r"\d+", listed)):
            assert number > last or equations(number) is not None, f"Chapter {number}"


def test_the_adjoint_names_the_equations_that_it_is():
    """Each line of it can be derived from the printed equations of Chapter 5, and says which."""
    from node_lib import adaptive_gradients, fixed_grid, gradients

    parts = [
        (fixed_grid.rescaled, {"5.13"}),
        (gradients.over_intervals, {"5.6", "5.10", "5.17", "5.18"}),
        (gradients._checkpoint, {"5.22"}),
        (gradients._adjoint, {"5.7", "5.13", "5.14", "5.15", "5.19"}),
        (adaptive_gradients._checkpoint, {"5.22"}),
        (adaptive_gradients._adjoint, {"5.7", "5.13", "5.14", "5.15", "5.20", "5.21"}),
    ]
    for function, numbers in parts:
        assert numbers <= set(NUMBER.findall(inspect.getsource(function))), function.__qualname__


def test_the_api_page_shows_every_public_name():
    page = (BOOK / "api.md").read_text(encoding="utf-8")
    for name in node_lib.__all__:
        assert re.search(rf":: node_lib\.{name}$|`(node_lib\.)?{name}`", page, re.MULTILINE), name


def test_the_table_of_methods_is_right():
    page = (BOOK / "api.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    rows = [[cell.strip(" `") for cell in row] for row in rows if row[0].strip(" `") in METHODS]
    assert [row[0] for row in rows] == list(node_lib.SOLVERS)
    for name, order, stages, evaluations, error, dense, _ in rows:
        method = node_lib.SOLVERS[name]
        assert int(order) == method.order
        assert int(stages) == len(method.b)
        assert int(evaluations) == len(method.b) - method.fsal
        assert bool(error) == (method.b_error is not None)
        if error.startswith("order "):
            assert error == f"order {method.error_order}"
        assert dense == (f"order {len(method.dense[0])}" if method.dense else "")


@pytest.mark.parametrize("name", ["Autonomous", "ConcatTime", "NeuralODE"])
def test_layers_are_documented_as_layers(name):
    """Keras's own docstring is not shown where ours is missing."""
    layer = getattr(node_lib, name)
    assert layer.__doc__ != keras.layers.Layer.__doc__
    assert layer.call.__doc__ and layer.call.__doc__ != keras.layers.Layer.call.__doc__
