"""node_lib may be copied into any package under any name, and needs only TensorFlow."""

import ast
import pathlib
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


def test_a_copy_works_under_another_name(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "mine" / "solvers" / "ode")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "solvers"):
        (folder / "__init__.py").touch()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.stdout.strip().endswith("works under another name"), run.stderr
