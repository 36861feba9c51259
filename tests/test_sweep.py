"Six runs on two processes: baselines are shared, one run fails, one is killed, the same command ends the work; then they are compared."
import subprocess, sys, time
from pathlib import Path

import pandas as pd
import psutil

from conftest import ROOT, lines, results_of, start_loop

SHORT = dict(method="rl", rounds=1, collections=6, baseline_epochs=1, answer_model="conclusion", train_problems=32, test_problems=12)
FAILS, KILLED, SHARES = "rl_lr=0.0001,seed=1", "rl_lr=0.001,seed=0", "rl_lr=0.0003,seed=0"


def start_sweep(home):
    "The command of a user, in a process of its own."
    words = ["ares", "sweep", ROOT/"params"/"smoke.yaml", "--set", "rl_lr=1e-4,3e-4,1e-3", "--set", "seed=0,1", "--home", home, "--parallel", "2"]
    words += [w for k, v in SHORT.items() for w in ("-p", k, v)]
    return subprocess.Popen([str(Path(sys.executable).parent/words[0]), *map(str, words[1:])], cwd=home.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_run(sweep, run):
    "Kill the process that holds the lock of a run, when its reinforcement learning has begun."
    while lines(run/"rl-1"/"metrics.jsonl") < 1:
        assert sweep.poll() is None, sweep.stderr.read()
        time.sleep(0.05)
    holders = [p for p in psutil.Process(sweep.pid).children(recursive=True) if any(Path(f.path) == run/"lock" for f in p.open_files())]
    for p in holders: p.kill()
    return len(holders)


def test_a_sweep_goes_on_after_failures_and_kills(tmp_path):
    home = tmp_path/"rates"
    (home/FAILS).mkdir(parents=True)
    (home/FAILS/"rl-1").write_text("in the way of the stage's folder")
    sweep = start_sweep(home)
    assert kill_run(sweep, home/KILLED) == 1
    said, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 1, errors[-3000:]
    table = pd.read_parquet(home/"table.parquet")
    failed = table[table.state == "failed"].set_index("run")
    assert set(failed.index) == {FAILS, KILLED} and set(failed.stage) == {"rl-1"}
    assert "rl-1" in failed.reason[FAILS] and "as if killed" in failed.reason[KILLED]
    assert all((home/run/row.notebook).exists() for run, row in failed.iterrows())
    assert table[(table.stage == "baseline") & table.shared_from.isna()].groupby("seed").size().tolist() == [1, 1]
    assert FAILS in said and "report:" in said

    # The same command: what is done stays, the two others are finished.
    (home/FAILS/"rl-1").unlink()
    before = {p: p.stat().st_mtime_ns for p in home.glob("*/*/result.json")}
    begun = lines(home/KILLED/"rl-1"/"metrics.jsonl")
    assert len(before) == 6 + 4 and begun >= 1
    sweep = start_sweep(home)
    said, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, errors[-3000:]
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    table = pd.read_parquet(home/"table.parquet")
    assert len(table) == 12 and set(table.state) == {"done"} and table.accuracy.notna().all()
    assert (home/KILLED/"notebooks"/"rl-1-failed-1.ipynb").exists() and "rl_lr 0.001" in (home/"sweep.html").read_text()

    # A run that took over a baseline and was killed ends in the numbers of one that did neither.
    params = tmp_path/"alone.yaml"
    params.write_text((ROOT/"params"/"smoke.yaml").read_text() + "".join(f"{k}: {v}\n" for k, v in (SHORT | dict(rl_lr=0.001, seed=0)).items()))
    alone = start_loop(tmp_path/"alone", params)
    assert alone.wait(600) == 0, alone.stderr.read()
    assert results_of(home/KILLED) == results_of(tmp_path/"alone")

    # Two of them side by side.
    done = subprocess.run([str(Path(sys.executable).parent/"ares"), "compare", str(home/SHARES), str(home/KILLED)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (home/"compare.html").read_text()
    assert "rl_lr" in page and f"{KILLED} − {SHARES}" in page and "<img" in page and f"{SHARES}" in done.stdout


def test_nothing_starts_before_everything_is_checked(tmp_path, monkeypatch, capsys):
    from ares.__main__ import main
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no srun here
    for words, message in ((["--set", "rl_Ir=1e-4"], "did you mean `rl_lr`"), (["--set", "seed=0,x"], "`seed` must be int"), ([], "nothing varies"),
                           (["--set", "seed=0", "--job", "timeout=5"], "--job:"), (["--set", "seed=0", "--executor", "slurm"], "no such cluster here")):
        assert main(["sweep", str(ROOT/"params"/"smoke.yaml"), "--home", "rates", *words]) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.strip().split("\n")) == 1, said
        assert not list(tmp_path.glob("rates/*/config.json"))
