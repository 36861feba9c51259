"The whole loop: as a command, killed in each stage, and asked for nonsense."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from ares.__main__ import main
from conftest import ROOT, end, lines, results_of, start_loop
from forks import run_command
from launches import fork_python, processes_of

FIELDS = ("accuracy accuracy_by_category sentence_score wrong_per_rationale repeated unfinished "
          "seconds teacher_calls").split()
STAGES = ["baseline", "rl-1", "sft-1", "rl-2", "sft-2"]


def heed_ctrl_c():
    "Undo what a shell does to a command in its background, and so to all it starts: they ignore Ctrl-C."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_ares(*words, cwd):
    "The command as a user starts it; what it prints goes into files."
    command = [str(Path(sys.executable).parent/"ares"), *map(str, words)]
    with open(cwd/"out.txt", "w") as out, open(cwd/"err.txt", "w") as err:
        return subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, start_new_session=True,
                                preexec_fn=heed_ctrl_c)


def fork_module(*words, cwd):
    "A module in a fork, for example the command again; what it prints goes into the same files."
    with open(cwd/"out.txt", "w") as out, open(cwd/"err.txt", "w") as err:
        return fork_python([sys.executable, "-m", *map(str, words)], cwd=cwd, stdout=out, stderr=err,
                           start_new_session=True)


def wait_until(reached, process, seconds=300):
    begun = time.time()
    while not reached():
        assert process.poll() is None, "the command ended too early"
        assert time.time() < begun + seconds, "waited in vain"
        time.sleep(0.05)


def kernels_of(process, run):
    return [p for p in processes_of(run) if p.pid != process.pid]


def last_lines(path):
    "What a command has said at its end, without progress bars."
    return [line for line in path.read_bytes().decode().split("\n") if line.strip() and "\r" not in line]


def test_results_are_complete(smoke_run):
    results = json.loads((smoke_run/"results.json").read_text())
    assert list(results) == sorted(results) and set(results) == set(STAGES)
    for stage, record in results.items():
        assert all(f in record for f in FIELDS), stage
        if stage != "baseline": assert {"win_rate", "win_rate_ci", "ties"} <= set(record)


# What shows that a stage is in the middle of its work, and can be killed there.
IN_THE_MIDDLE = {
    "baseline": lambda run: lines(run/"baseline"/"fit"/"metrics.jsonl") >= 2,
    "baseline evaluation": lambda run: (run/"baseline"/"train_rationales.jsonl").exists(),
    "rl-1": lambda run: lines(run/"rl-1"/"metrics.jsonl") >= 3,
    "sft-1": lambda run: (run/"sft-1"/"corrections.jsonl").exists(),
    "rl-2": lambda run: lines(run/"rl-2"/"metrics.jsonl") >= 1,
    "sft-2": lambda run: lines(run/"sft-2"/"fit"/"metrics.jsonl") >= 1,
}


def test_killed_in_each_stage_ends_in_the_same_numbers(smoke_run, tmp_path):
    run = tmp_path/"killed"
    killed = []
    for stage, reached in IN_THE_MIDDLE.items():
        process = start_loop(run)
        while process.is_alive() and not reached(run): time.sleep(0.02)
        if process.is_alive(): killed.append(stage)
        process.kill()
        process.join()
    assert killed == list(IN_THE_MIDDLE), "a stage was over before it could be killed"
    end(start_loop(run))
    assert results_of(run) == results_of(smoke_run)
    assert json.loads((run/"rl-1"/"metrics.jsonl").read_text().split("\n")[0])["collection"] == 1


def test_trackers_are_given_the_numbers_of_the_run(smoke_run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    params, run = tmp_path/"tracked.yaml", tmp_path/"tracked"
    params.write_text((ROOT/"params"/"smoke.yaml").read_text() + "report_to: tensorboard\n")
    process = start_loop(run, params)
    while process.is_alive() and not IN_THE_MIDDLE["rl-1"](run): time.sleep(0.02)
    assert process.is_alive(), "the stage was over before it could be killed"
    process.kill()
    process.join()
    end(start_loop(run, params))
    assert results_of(run) == results_of(smoke_run)
    for stage in STAGES:
        records = [
            json.loads(line)
            for path in (run / stage / "metrics.jsonl", run / stage / "fit" / "metrics.jsonl")
            if path.exists()
            for line in path.read_text().splitlines()
        ]
        events = EventAccumulator(str(run/"tracking"/stage)).Reload()
        name = "score" if stage.startswith("rl") else "eval_loss"
        assert {name, "loss" if name == "eval_loss" else "kl"} <= set(events.Tags()["scalars"])
        for name in events.Tags()["scalars"]:
            expected = [(r.get("collection", r.get("step")), r[name]) for r in records if name in r]
            assert [(e.step, e.value) for e in events.Scalars(name)] == [
                (step, pytest.approx(value, rel=1e-6)) for step, value in expected
            ], (stage, name)


def test_the_command_runs_the_notebooks(smoke_run, tmp_path):
    words, run = ("run", ROOT/"params"/"smoke.yaml", "--name", "mine"), tmp_path/"runs"/"mine"
    # Ctrl-C: one sentence, and the exit code that shells know it by.
    process = start_ares(*words, cwd=tmp_path)
    wait_until(lambda: (run/"baseline"/"fit"/"metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert last_lines(tmp_path/"err.txt") == ["ares: stopped; call the same command again to continue."]
    # A second command, and a stage's notebook by papermill, are refused while the first one works.
    process = fork_module("ares", *words, cwd=tmp_path)
    wait_until(lambda: lines(run/"rl-1"/"metrics.jsonl") >= 1, process)
    os.kill(process.pid, signal.SIGSTOP)  # so that it does not end meanwhile
    kernel, = kernels_of(process, run)
    kernel.suspend()
    other = run_command(*words, cwd=tmp_path)
    assert other.returncode == 1 and len(other.stderr.strip().split("\n")) == 1
    assert f"process {process.pid} on" in other.stderr and "already works on this run" in other.stderr
    elsewhere = tmp_path/"papermill"
    elsewhere.mkdir()
    given = ("-f", ROOT/"params"/"smoke.yaml", "-p", "run", run, "-p", "stage", "rl-1")
    papermill = fork_module("papermill", ROOT/"nbs"/"runs"/"rl.ipynb", "out.ipynb", *given, cwd=elsewhere)
    assert papermill.wait(300) == 1 and "already works on this run" in (elsewhere/"err.txt").read_text()
    # A kernel that the system ends: one sentence.
    os.kill(process.pid, signal.SIGCONT)
    kernel.kill()
    assert process.wait(60) == 1
    said = last_lines(tmp_path/"err.txt")
    assert len(said) == 1 and "rl-1.ipynb: the process of this notebook was ended by signal 9" in said[0]
    # The command is killed: its kernel ends too, and writes nothing more.
    process = fork_module("ares", *words, cwd=tmp_path)
    wait_until(lambda: lines(run/"rl-1"/"metrics.jsonl") >= 2 and kernels_of(process, run), process)
    kernel, = kernels_of(process, run)
    process.kill()
    process.wait()
    kernel.wait(5)
    written = lines(run/"rl-1"/"metrics.jsonl")
    # All of this leaves no trace in the numbers.
    assert fork_module("ares", *words, cwd=tmp_path).wait(600) == 0, (tmp_path/"err.txt").read_text()[-3000:]
    assert results_of(run) == results_of(smoke_run)
    bars = (tmp_path/"err.txt").read_bytes().decode()
    assert written <= 4 and "KeyboardInterrupt" not in bars and "ERROR" not in bars
    finished = [line.split("\r")[-1] for line in bars.split("\n")]
    assert len(finished) < 40 and max(map(len, finished)) < 80  # a line a bar
    done = run_command("run", "mine", cwd=tmp_path)
    assert max(map(len, done.stdout.split("\n"))) <= 80
    assert "rl-1" in bars and "baseline" in done.stdout and "report.html" in done.stdout
    assert {p.stem for p in (run/"notebooks").glob("*.ipynb")} == {*STAGES, "report"}
    page = (run/"report.html").read_text()
    assert "<img" in page and "src=\"http" not in page
    # A second call reuses what is there, a report can be made again, and other settings are refused.
    before = (run/"sft-2"/"result.json").stat().st_mtime_ns
    assert run_command("run", "mine", cwd=tmp_path).returncode == 0
    assert (run/"sft-2"/"result.json").stat().st_mtime_ns == before
    other = run_command("run", ROOT/"params"/"smoke.yaml", "--name", "mine", "-p", "seed", "5", cwd=tmp_path)
    assert (
        other.returncode == 1
        and "`seed` was 0 and is now 5" in other.stderr
        and len(other.stderr.strip().split("\n")) == 1
    )


@pytest.mark.parametrize("words, message", [
    (["run", "params/none.yaml"], "no such file"),
    (["run", "nothing"], "neither a parameter file"),
    (["run", ROOT/"params"/"smoke.yaml", "-p", "rl_Ir", "1"], "did you mean `rl_lr`"),
    (["run", ROOT/"params"/"smoke.yaml", "-p", "rounds", "many"], "`rounds` must be int"),
    (["run", ROOT/"params"/"smoke.yaml", "-p", "report_to", "tensorbored"], "`report_to` must be one of"),
    (["report", "nothing"], "neither a parameter file"),
    (["publish", "nothing"], "neither a parameter file"),
])
def test_nonsense_gets_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(w) for w in words]) == 1
    said = capsys.readouterr().err
    assert message in said and len(said.strip().split("\n")) == 1


def test_every_parameter_file_is_valid(tmp_path, monkeypatch):
    from ares.pipeline.config import load_config
    # a file may need a package that is an extra
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: True)
    # that one is for `accelerate launch`
    for path in sorted(set((ROOT/"params").glob("*.yaml")) - {ROOT/"params"/"fsdp.yaml"}):
        if "data:" not in path.read_text(): load_config(path)
        else: load_config(path, data=str(tmp_path))


def test_the_run_notebooks_travel_in_the_wheel(tmp_path):
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w",
            str(tmp_path), str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    import zipfile
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"ares_runs/rl.ipynb", "ares_runs/report.ipynb", "ares/training/ppo.py"} <= set(names)
