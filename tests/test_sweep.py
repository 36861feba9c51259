"Four runs on two processes: a shared baseline, a run that fails, one that is killed, and a comparison."
import subprocess, time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

from ares.__main__ import main
from ares.pipeline.stages import run_ares
from ares.pipeline.config import load_config
from ares.core.io import AresError
from ares.pipeline.sweep import make_runs, run_sweep, sweep_configs
from conftest import ROOT, lines, results_of, timeless
from launches import fork_python, processes_of

SMOKE = ROOT/"params"/"smoke.yaml"
SHORT = dict(
    method="rl", rounds=1, collections=4, collect_problems=4, ppo_epochs=1, baseline_epochs=1,
    answer_model="conclusion", train_problems=24, val_problems=8, test_problems=8, max_new_tokens=24,
)
VALUES = dict(rl_lr=[1e-4, 1e-3], kl_coef=[0.0, 0.02])
FAILS, KILLED, SHARES = "rl_lr=0.0001,kl_coef=0.02", "rl_lr=0.001,kl_coef=0.0", "rl_lr=0.001,kl_coef=0.02"


def kill_run(run, patience=900):
    "Kill the job of a run and the kernel of its notebooks when reinforcement learning has begun."
    begun = time.time()
    while lines(run/"rl-1"/"metrics.jsonl") < 1:
        assert time.time() < begun + patience, "the run did not begin"
        time.sleep(0.05)
    job, kernel = processes_of(run)
    for process in (job, kernel): process.kill()


@pytest.fixture
def one_thread():
    "As each of the two runs at a time has."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_sweep_goes_on_after_failures_and_kills(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", fork_python)
    home = tmp_path/"rates"
    (home/FAILS).mkdir(parents=True)
    (home/FAILS/"rl-1").write_text("in the way of the stage's folder")
    with ThreadPoolExecutor() as pool:
        killer = pool.submit(kill_run, home/KILLED)
        table = run_sweep(sweep_configs(SMOKE, VALUES, **SHORT), home, parallel=2)
        killer.result()
    failed = table[table.state == "failed"].set_index("run")
    assert set(failed.index) == {FAILS, KILLED} and set(failed.stage) == {"rl-1"}
    assert "rl-1" in failed.reason[FAILS] and "as if killed" in failed.reason[KILLED]
    assert all((home/run/row.notebook).exists() for run, row in failed.iterrows())
    baselines = table[table.stage == "baseline"]
    assert len(baselines) == 4 and baselines.shared_from.isna().sum() == 1

    # The same as a command: what is done stays, the two others are finished.
    (home/FAILS/"rl-1").unlink()
    before = {p: p.stat().st_mtime_ns for p in home.glob("*/*/result.json")}
    assert len(before) == 4 + 2 and lines(home/KILLED/"rl-1"/"metrics.jsonl") >= 1
    words = [w for k, v in SHORT.items() for w in ("-p", k, str(v))] + [
        w for k, v in VALUES.items() for w in ("--set", f"{k}={','.join(map(str, v))}")
    ]
    assert main(["sweep", str(SMOKE), "--home", str(home), "--parallel", "2", *words]) == 0
    assert "rl_lr 0.001" in capsys.readouterr().out
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    table = pd.read_parquet(home/"table.parquet")
    assert len(table) == 8 and set(table.state) == {"done"} and table.accuracy.notna().all()
    assert (home / KILLED / "notebooks" / "rl-1-failed-1.ipynb").exists() and "rl_lr 0.001" in (
        home / "sweep.html"
    ).read_text()

    # A run that took over a baseline and was killed ends in the numbers of one that did neither.
    run_ares(load_config(SMOKE, **SHORT | dict(rl_lr=0.001, kl_coef=0.0)), tmp_path/"alone")
    assert results_of(home/KILLED) == results_of(tmp_path/"alone")

    # Two of them side by side.
    assert main(["compare", str(home/SHARES), str(home/KILLED)]) == 0
    page, said = (home/"compare.html").read_text(), capsys.readouterr().out
    assert "kl_coef" in page and f"{KILLED} − {SHARES}" in page and "<img" in page and SHARES in said


def test_the_runs_of_a_page_are_the_same_two_at_a_time_and_the_first_failure_ends_it(
    tmp_path, monkeypatch, one_thread,
):
    monkeypatch.setattr(subprocess, "Popen", fork_python)
    configs = {method: load_config(SMOKE, **SHORT | dict(method=method)) for method in ("ares", "rl")}
    together = make_runs(configs, tmp_path/"together", parallel=2)
    assert timeless(together["rl"]) == timeless(make_runs(configs, tmp_path/"single", parallel=1)["rl"])
    assert results_of(tmp_path/"together"/"ares") == results_of(tmp_path/"single"/"ares")
    assert together["ares"]["baseline"] == together["rl"]["baseline"]
    (tmp_path/"together"/"sft").mkdir()
    (tmp_path/"together"/"sft"/"sft-1").write_text("in the way of a stage")
    more = configs | {"sft": load_config(SMOKE, **SHORT | dict(method="sft"))}
    with pytest.raises(AresError, match=f"{tmp_path}/together/sft: .*sft-1"):
        make_runs(more, tmp_path/"together", parallel=2)


def test_nothing_starts_before_everything_is_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no srun here
    for words, message in (
        (["--set", "rl_Ir=1e-4"], "did you mean `rl_lr`"),
        (["--set", "seed=0,x"], "`seed` must be int"),
        ([], "nothing varies"),
        (["--set", "seed=0", "--job", "timeout=5"], "--job:"),
        (["--set", "seed=0", "--executor", "slurm"], "no such cluster here"),
    ):
        assert main(["sweep", str(SMOKE), "--home", "rates", *words]) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.strip().split("\n")) == 1, said
        assert not list(tmp_path.glob("rates/*/config.json"))
