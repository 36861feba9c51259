"""Run the notebooks as `nbdev_test` does, with its options.

Its processes, and the kernels that a notebook starts, are forks of this one, which has everything imported.
"""
import importlib, multiprocessing, os, tempfile
from pathlib import Path

from nbdev.test import nbdev_test

import forks

if __name__ == "__main__":
    for name in forks.HEAVY: importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="ares") as place:
        server = multiprocessing.get_context("fork").Process(target=forks.serve, args=(f"{place}/forks",))
        server.start()
        os.environ |= forks.announce(Path(place))
        try: nbdev_test()
        finally: server.kill()
