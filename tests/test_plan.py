"What a plan says, beside what is measured, and as a command."
import os, subprocess, sys
from pathlib import Path

import pytest

from conftest import ROOT

ARES = "import sys; from ares.cli import main; sys.exit(main(sys.argv[1:]))"


def plan(*words, cwd):
    return subprocess.run([sys.executable, "-c", ARES, "plan", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300, env=os.environ | dict(HF_HUB_OFFLINE="1"))


def test_planned_memory_is_what_is_measured():
    from ares.plan import check_peaks
    table = check_peaks()
    assert (table["measured"] > 250).all(), "too small to tell"
    assert (table["planned"] / table["measured"]).between(0.8, 1.2).all(), table.to_string()


def total(name, stage, **overrides):
    from ares.plan import follow_stage
    from ares.settings import load_config
    return sum(follow_stage(load_config(ROOT/"params"/f"{name}.yaml", need_data=False, **overrides), stage)[0].values()) / 1e9


def test_a_collection_of_base_fits_24_gb_by_halves():
    assert total("scienceqa_base", "collection") < 23 < total("scienceqa_base", "collection", rollout_batch_size=64)


def test_more_rows_take_more_and_checkpointing_less():
    one, two = (total("scienceqa_sample", "PPO update", rl_batch_size=n) for n in (8, 16))
    assert 1.5 * one < two < 2.2 * one
    assert total("scienceqa_sample", "baseline", gradient_checkpointing=True) < 0.7 * total("scienceqa_sample", "baseline")


def test_the_command_needs_neither_weights_nor_data(tmp_path):
    done = plan(ROOT/"params"/"scienceqa_sample.yaml", "-p", "data", "nowhere", "-p", "teacher", "claude", "--tflops", 1, "--gigabytes-per-second", 100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert all(word in done.stdout for word in ("PPO update", "this machine", "RTX 4090     fits", "since the data is not there", "calls"))


@pytest.mark.parametrize("words, message", [
    (["params/none.yaml"], "no such file"),
    ([ROOT/"params"/"smoke.yaml", "--tflops", 5], "belong together"),
    ([ROOT/"params"/"smoke.yaml", "-p", "student", "somebody/else"], "nor known here"),
])
def test_nonsense_gets_one_sentence(words, message, tmp_path):
    done = plan(*words, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
