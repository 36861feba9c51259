"Paths and small runs that several tests share."
import json, os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOOP = "import sys; from ares.settings import load_config; from ares.alternation import run_ares; run_ares(load_config(sys.argv[1]), sys.argv[2])"

os.environ.setdefault("OMP_NUM_THREADS", "2")


def start_loop(run, params=ROOT/"params"/"smoke.yaml"):
    "The whole loop in a process of its own, without notebooks."
    return subprocess.Popen([sys.executable, "-c", LOOP, str(params), str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def timeless(results):
    "Results without what a clock says."
    return {stage: {k: v for k, v in record.items() if not k.endswith("seconds")} for stage, record in results.items()}


def results_of(run):
    return timeless(json.loads((Path(run)/"results.json").read_text()))


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    "One uninterrupted smoke run."
    run = tmp_path_factory.mktemp("smoke")/"run"
    process = start_loop(run)
    assert process.wait(600) == 0, process.stderr.read()
    return run
