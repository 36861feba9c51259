"Paths and small runs that several tests share."
import json, os
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is imported

from ares.pipeline.stages import run_ares
from ares.pipeline.config import load_config
from forks import fork, redirect, use_forks

ROOT = Path(__file__).resolve().parent.parent
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 200))  # of each fuzz test; thousands for the full size
use_forks()


# these files take longest, so they begin first: a long one at the end would keep one of two workers waiting
LONGEST = [f"test_{name}" for name in "experiments loop teachers processes sweep repository".split()]


def pytest_collection_modifyitems(items):
    "The longest files first; the order within a file stays."
    def rank(item): return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
    items.sort(key=rank)


def work(log, do, args):
    "Do something; what is said goes into a file."
    Path(log).write_text("")
    redirect({1: log, 2: log})
    do(*args)


def start(do, *args, log):
    "Do something in a process of its own."
    process = fork(work, log, do, args)
    Finalize(process, process.kill, exitpriority=10)  # when the tests end, whatever failed
    process.log = log
    return process


def end(process, seconds=600):
    "Wait until it has ended well."
    process.join(seconds)
    assert process.exitcode == 0, process.log.read_text()[-3000:]


def loop(params, run): run_ares(load_config(params), run)


def start_loop(run, params=ROOT/"params"/"smoke.yaml"):
    "The whole loop in a process of its own, without notebooks."
    return start(loop, params, run, log=run.with_suffix(".log"))


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def timeless(results):
    "Results without what a clock says."
    return {
        stage: {k: v for k, v in record.items() if not k.endswith("seconds")}
        for stage, record in results.items()
    }


def results_of(run):
    return timeless(json.loads((Path(run)/"results.json").read_text()))


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    "One uninterrupted smoke run."
    run = tmp_path_factory.mktemp("smoke")/"run"
    end(start_loop(run))
    return run
