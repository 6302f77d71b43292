"""Run notebooks from top to bottom in fresh kernels and store their outputs.

python tools/refresh.py                        all chapters
python tools/refresh.py 01-resnet-is-euler 3   some, by name, its beginning or the number

What is stored does not depend on the machine or the hour: no timings, no error stream, no versions.
A notebook with a failing cell is left as it was.
"""

import base64
import io
import json
import os
import re
import sys
import time

from bookfiles import BOOK, RUN_TIMES, chapters, read, write
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image
from tqdm import tqdm

CELL_SECONDS = 600
TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def chosen(names):
    """The chapters whose file names begin with one of `names`; all of them for no names.

    A chapter that is being written can be named before the table of contents has it.
    """
    if not names:
        return chapters()
    written = sorted({*chapters(), *BOOK.glob("*.ipynb")})
    stems = [os.path.basename(name).removesuffix(".ipynb").zfill(2) for name in names]
    paths = [path for path in written if any(path.stem.startswith(stem) for stem in stems)]
    unknown = [stem for stem in stems if not any(path.stem.startswith(stem) for path in paths)]
    if unknown:
        known = ", ".join(path.stem for path in written)
        raise SystemExit(f"no chapter is called {', '.join(unknown)}; there are: {known}")
    return paths


def clean(cell):
    """Take out of an executed cell what differs from run to run, and make its pictures small."""
    cell.metadata.pop("execution", None)
    if cell.cell_type == "code":
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for out in cell.outputs:
            if "image/png" in out.get("data", {}):
                out.data["image/png"] = smaller(out.data["image/png"])


def smaller(png):
    """A figure with 128 colours, about a third of the bytes; lines and text look the same."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    colours = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    colours.save(buffer, "PNG", optimize=True, dpi=picture.info["dpi"])
    return base64.b64encode(buffer.getvalue()).decode()


def run(path):
    """Execute one notebook and store it; returns the seconds that took."""
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # leave=False: the bar makes room for the one line that the caller prints
    with tqdm(total=len(notebook.cells), desc=path.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(BOOK)}},
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],  # or each kernel warns that it listens on TCP
            coalesce_streams=True,
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        start = time.monotonic()
        client.execute()
        seconds = time.monotonic() - start
    for cell in notebook.cells:
        clean(cell)
    write(notebook, path)
    return seconds


def report(path, error):
    """Say which cell failed, why, and what that means for the file."""
    text = TERMINAL_COLOURS.sub("", str(error)).strip()
    print(f"\n{path.name}: a cell failed; the stored notebook is as it was.\n", file=sys.stderr)
    print(text, file=sys.stderr)


def main(names):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    times = json.loads(RUN_TIMES.read_text(encoding="utf-8")) if RUN_TIMES.exists() else {}
    failed = []
    for path in chosen(names):
        try:
            times[path.stem] = round(run(path))
            print(f"{path.name}: {times[path.stem]} s")
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            report(path, error)
            failed.append(path.name)
    known = {path.stem for path in chapters()}
    times = {name: seconds for name, seconds in sorted(times.items()) if name in known}
    RUN_TIMES.write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
