"A reward of the user's own, from a file and a line of a parameter file to the report."
import json, re, shutil, sqlite3
from pathlib import Path

import papermill
import pytest

from conftest import ROOT, results_of
from ares.__main__ import main
from ares.core.io import AresError, read_json, read_jsonl, write_jsonl
from ares.data.sentences import sentences_of
from ares.data.synthetic import make_problems
from ares.students.loading import load_student
from ares.pipeline.config import load_config
from ares.pipeline.stages import run_ares
from ares.pipeline.sweep import sweep_configs
from forks import run_command

REWARD = """
def short(problem, sentences):
    "The fewer words, the higher the score."
    return [1 / len(s.split()) for s in sentences]
"""
PARAMS = """
train_problems: 32
val_problems: 8
test_problems: 12
student: {d_model: 32, d_ff: 64, num_layers: 1, num_decoder_layers: 1, num_heads: 2, vocab_size: 600}
max_new_tokens: 24
device: cpu
seed: 0
baseline_lr: 1.0e-2
baseline_epochs: 3
baseline_batch_size: 16
method: rl
rounds: 1
collections: 2
collect_problems: 8
num_samples: 2
rl_lr: 1.0e-3
ppo_epochs: 1
rl_batch_size: 16
rl_grad_accum: 1
answer_model: conclusion
reward: {my_reward.py:short: 1}
"""


@pytest.fixture
def project(tmp_path):
    "A folder with a reward and a parameter file, and another one in which the command is called."
    (tmp_path/"project").mkdir()
    (tmp_path/"elsewhere").mkdir()
    (tmp_path/"project"/"my_reward.py").write_text(REWARD)
    (tmp_path/"project"/"own.yaml").write_text(PARAMS)
    return tmp_path/"project"


def ares(project, *words):
    "Call the command in the other folder."
    return run_command(*words, cwd=project.parent/"elsewhere")


def test_a_reward_in_a_file_trains_a_student(project):
    done = ares(project, "run", "../project/own.yaml")
    assert done.returncode == 0, done.stderr
    run = project.parent/"elsewhere"/"runs"/"own"
    assert (run/"code"/"my_reward.py").read_text() == REWARD
    for stage, record in results_of(run).items():  # each stage was made by the kernel of a notebook
        scores = []
        for line in read_jsonl(run/stage/"rationales.jsonl"):
            assert line["scores"] == [1 / len(s.split()) for s in sentences_of(line["text"])]
            scores += line["scores"]
        assert record["sentence_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert "my_reward.py:short" in (run/"report.html").read_text()

    (project/"my_reward.py").write_text(REWARD.replace("1 /", "0.5 /"))
    changed = ares(project, "run", "own")
    assert changed.returncode == 1 and "Traceback" not in changed.stderr
    assert "my_reward.py: has changed since this run was started" in changed.stderr


def test_a_faulty_reward_is_found_before_anything_starts(project):
    (project/"my_reward.py").write_text(REWARD.replace("for s in sentences", "for s in sentences[1:]"))
    done = ares(project, "run", "../project/own.yaml")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "my_reward.py:short: `score` must return a number for each of the" in done.stderr
    assert not (project.parent/"elsewhere"/"runs"/"own"/"config.json").exists()


def test_a_sweep_compares_rewards(project, monkeypatch):
    monkeypatch.chdir(project)
    rewards = [{"my_reward.py:short": 1}, {"my_reward.py:short": 1, "facts": 3}, {"facts": 1}]
    configs = sweep_configs("own.yaml", dict(reward=rewards))
    full = f"{project}/my_reward.py:short"
    assert [list(config.reward) for config in configs.values()] == [[full], [full, "facts"], ["facts"]]
    again = load_config({"reward": {full: 1}, "train_problems": 8, "val_problems": 8, "test_problems": 8})
    assert again.reward == {full: 1}
    with pytest.raises(AresError, match="`reward` must be in a file that exists"):
        load_config("own.yaml", reward={"other.py:short": 1})


def test_the_page_with_an_own_reward_runs(tmp_path):
    overrides = dict(
        train_problems=32, gold_problems=32, val_problems=8, test_problems=12, baseline_epochs=2, method="rl",
        rounds=1, collections=2, collect_problems=4, ppo_epochs=1, max_new_tokens=24,
        answer_model="conclusion",
    )
    done = papermill.execute_notebook(
        str(ROOT/"nbs"/"learn"/"07_your_experiment.ipynb"), str(tmp_path/"out.ipynb"),
        dict(params=str(ROOT/"params"/"smoke.yaml"), home=str(tmp_path/"runs"), overrides=overrides),
        progress_bar=False, extra_arguments=["--log-level=ERROR"], cwd=str(tmp_path),
    )
    shown = "".join(str(cell.get("outputs", [])) for cell in done.cells)
    for name in ("baseline", "trained with facts", "trained with short", "trained with both"):
        assert name in shown
    assert (tmp_path/"runs"/"short"/"code"/"my_reward.py").exists()
    assert not (tmp_path/"runs"/"facts"/"code").exists()


def said(capsys, *words):
    "The command in this process: (exit code, what it says on the error stream)."
    code = main([str(word) for word in words])
    return code, capsys.readouterr().err


def test_a_run_with_own_code_moves_and_is_read_without_it(project, monkeypatch, capsys):
    lines = [dict(id=p.id, question=p.question, choices=p.choices, answer=p.answer, rationale=p.solution,
                  split=split)
             for split, n in dict(train=16, val=4, test=6).items() for p in make_problems(n, split=split)]
    write_jsonl(project/"quiz.jsonl", lines)
    (project/"my_reward.py").write_text(REWARD + "class Mine:\n    score = staticmethod(short)\n")
    mine, sizes = f"{project}/my_reward.py", dict(train_problems=0, val_problems=0, test_problems=0)
    more = dict(problems="own", data=str(project/"quiz.jsonl"), teacher=f"{mine}:Mine", judge=f"{mine}:Mine",
                reward={f"{mine}:short": 1, "reference": 1})
    monkeypatch.chdir(project.parent/"elsewhere")
    run = Path("runs/mine")
    run_ares(load_config(project/"own.yaml", **more, **sizes), run)
    moved = project.rename(project.with_name("moved"))

    reading = "report mine", "compare mine mine", "publish mine", "watch mine", "feedback mine --to set"
    for command in reading:
        code, error = said(capsys, *command.split())
        assert code == 0, f"{command}: {error}"
    assert "has asked no language model" in said(capsys, "ledger", "mine")[1]

    code = f"{moved}/my_reward.py"
    places = dict(data=moved/"quiz.jsonl", teacher=f"{code}:Mine", judge=f"{code}:Mine",
                  reward=f"{{{code}:short: 1, reference: 1}}")
    given = []
    for name, place in places.items():  # the command asks for one place after the other
        exit_code, error = said(capsys, "run", "mine", *given)
        assert exit_code == 1 and f"`ares run mine -p {name} " in error, error
        given += ["-p", name, place]
    before = results_of(run)
    shutil.rmtree(run/"rl-1")
    exit_code, error = said(capsys, "run", "mine", *given)
    assert exit_code == 0, error
    assert results_of(run) == before
    assert read_json(run/"config.json")["teacher"] == f"{code}:Mine"

    other = said(capsys, "run", "mine", "-p", "teacher", f"{code}:short")
    assert "keeps its name and settings (`teacher`)" in other[1]
    Path(code).write_text(REWARD)
    assert "has changed since this run was started" in said(capsys, "run", "mine")[1]


def test_a_rubric_is_in_every_question_to_a_language_model(project):
    text = PARAMS.replace("reward: {my_reward.py:short: 1}", "teacher: claude\nrubric: rubric.md")
    # fast enough that rationales differ from the baseline's, so that pairs are compared
    text = text.replace("method: rl", "method: sft\nsft_epochs: 5\nsft_lr: 1.0e-2")
    (project/"ruled.yaml").write_text(text)
    (project/"rubric.md").write_text("Name the unit of every number.\n")
    done = ares(project, "run", "../project/ruled.yaml", "--rehearse")
    assert done.returncode == 0, done.stderr
    run = project.parent/"elsewhere"/"runs"/"ruled-rehearsal"
    ledger = sqlite3.connect(run/"ledger.sqlite")
    questions = ledger.execute("select kind, question from questions").fetchall()
    assert {kind for kind, _ in questions} == {"score", "correct", "compare"}
    for kind, question in questions: assert "Name the unit of every number." in question, kind
    assert "Name the unit of every number." in (run/"report.html").read_text()


def test_the_program_with_trl_trains(tmp_path, monkeypatch):
    page = json.loads((ROOT/"nbs"/"training"/"07_sentence_grpo.ipynb").read_text())
    text = "\n".join("".join(cell["source"]) for cell in page["cells"])
    program = re.search(r"```python\n(from trl .*?)```", text, re.S).group(1)
    sizes = dict(kind="decoder", d_model=32, num_layers=1, num_heads=2, vocab_size=400)
    student = load_student(sizes, texts=[problem.question for problem in make_problems(40)])
    student.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    student.save(tmp_path/"decoder")
    small = """, max_steps=1, use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=2,
        max_completion_length=8, report_to="none", save_strategy="no", gradient_checkpointing=False)"""
    program = program.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path/"decoder"))
    program = program.replace('"runs/trl")', f'"runs/trl"{small}')
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program, names)
    assert names["trainer"].state.global_step == 1 and len(names["trainer"].rollouts) == 4
