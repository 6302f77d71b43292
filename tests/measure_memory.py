"""Memory of one gradient, printed as JSON by a process of its own (tests/test_memory.py).

``python tests/measure_memory.py compiled DIR``: what XLA assigns to each program, in bytes.
``python tests/measure_memory.py resident MODE N ...``: how far the peak of the process rises.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys

MODES = ("adjoint", "reversible", "checkpoint")
SHAPE = {"compiled": [64, 32], "resident": [512, 64]}
STEPS = (10, 10_000)


def gradient(mode, steps, shape, **options):
    """A gradient of z0 through so many RK4 steps of cheap dynamics."""
    import tensorflow as tf

    from node_lib import odeint

    def slope(t, z):
        return t - z * z

    @tf.function(input_signature=[tf.TensorSpec(shape)], **options)
    def grads(z0):
        with tf.GradientTape() as tape:
            tape.watch(z0)
            z = odeint(slope, z0, [0.0, 1.0], solver="rk4", steps=steps, gradient=mode)
            loss = tf.reduce_sum(z[-1])
        return tape.gradient(loss, z0)

    return grads


def compiled(folder):
    """The bytes of all buffers that a program needs beside its constants, as XLA assigned them."""
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    import tensorflow as tf

    sizes, seen = {}, set()
    for mode in MODES:
        for steps in STEPS:
            gradient(mode, steps, SHAPE["compiled"], jit_compile=True)(tf.ones(SHAPE["compiled"]))
            new = set(pathlib.Path(folder).glob("*grads*buffer-assignment.txt")) - seen
            seen |= new
            (report,) = (path.read_text() for path in new)
            found = re.findall(r"^allocation \d+: size (\d+), (.*?):?$", report, re.MULTILINE)
            sizes[f"{mode} {steps}"] = sum(int(n) for n, kind in found if "constant" not in kind)
    return sizes


def resident(mode, *counts):
    """For each number of steps, the rise of the process's peak over what it held before."""
    import tensorflow as tf

    def now(field):
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status)[1])

    rises = {}
    for steps in map(int, counts):
        grads, z0 = gradient(mode, steps, SHAPE["resident"]), tf.ones(SHAPE["resident"])
        grads.get_concrete_function()
        before = now("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        grads(z0)
        rises[f"{mode} {steps}"] = now("VmHWM") - before
    return rises


if __name__ == "__main__":
    how, *arguments = sys.argv[1:]
    print(json.dumps({"compiled": compiled, "resident": resident}[how](*arguments)))
