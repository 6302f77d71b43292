"""The set-up cell: the first code cell of every notebook, the same in all of them.

`python tools/setup_cell.py` writes it into every notebook of the book.
"""

from bookfiles import chapters, read, repository, write

TEMPLATE = """\
#@title Set up: run this first
import importlib.util, os, pathlib, subprocess, sys

SOURCE = "git+{repository}"  # where node_lib comes from
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages
if "google.colab" in sys.modules and not importlib.util.find_spec("node_lib"):
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", SOURCE], check=True)  # keeps Colab's TensorFlow
    importlib.invalidate_caches()
for folder in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents]:
    if (folder / "node_lib" / "__init__.py").exists():  # in a clone: beside book/
        sys.path.insert(0, str(folder))
        break
needed = {{"tensorflow": "tensorflow", "matplotlib": "matplotlib",
          "sklearn": "scikit-learn", "node_lib": SOURCE}}
missing = [needed[name] for name in needed if not importlib.util.find_spec(name)]
if missing:
    raise ImportError("Not installed. Run: pip install " + " ".join(missing))
import node_lib
print("node_lib", node_lib.__version__)"""


def setup_source():
    return TEMPLATE.format(repository=repository())


def main():
    for path in chapters():
        notebook = read(path)
        cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if cell.source != setup_source():
            cell.source = setup_source()
            write(notebook, path)
            print(f"{path.name}: set-up cell written")


if __name__ == "__main__":
    main()
