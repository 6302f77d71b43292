"""node_lib may be copied into any package under any name, and needs only TensorFlow."""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "node_lib"
FILES = sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports(path):
    """Relative imports, TensorFlow, Keras and the standard library; Matplotlib in plots.py."""
    allowed = {*sys.stdlib_module_names, "tensorflow", "keras"}
    if path.name == "plots.py":
        allowed |= {"matplotlib", "numpy", "IPython", "PIL", "matplotlib_inline"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        assert {name.split(".")[0] for name in names} <= allowed, names


PROGRAM = """
import sys
import keras
import tensorflow as tf
from mine.solvers.ode import Autonomous, NeuralODE, odeint

z = odeint(lambda t, z: -z, tf.ones([2]), [0.0, 1.0])
assert abs(float(z[-1, 0]) - 0.36788) < 1e-4
model = keras.Sequential([keras.Input([2]), NeuralODE(Autonomous(keras.layers.Dense(2)), steps=2)])
model.save("model.keras")
loaded = keras.models.load_model("model.keras")
assert type(loaded.layers[0]) is NeuralODE
assert not {"node_lib", "mine.solvers.ode.plots"} & set(sys.modules)
print("works under another name")
"""


def run_beside_a_copy(folder, package, program):
    """Run a program beside a copy of node_lib, which is called package, and return what it says."""
    copy = folder.joinpath(*package.split("."))
    shutil.copytree(PACKAGE, copy)
    for parent in copy.relative_to(folder).parents[:-1]:
        (folder / parent / "__init__.py").touch()
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_copy_works_under_another_name(tmp_path):
    said = run_beside_a_copy(tmp_path, "mine.solvers.ode", PROGRAM)
    assert said.strip().endswith("works under another name")


def test_the_example_of_the_page_prints_what_the_page_says(tmp_path):
    page = (PACKAGE.parent / "book" / "copy-node-lib.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    printed = re.search(r"It prints:\n\n```text\n(.*?)```", page, re.DOTALL).group(1)
    assert run_beside_a_copy(tmp_path, "myproject.numerics.ode", program) == printed
