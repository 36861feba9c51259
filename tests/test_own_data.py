"Your own questions: from a file to a trained student in one command, and one sentence for every fault."
import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from datasets import load_dataset

from ares.__main__ import main
from ares.core.io import AresError, read_json, read_jsonl, write_jsonl
from ares.pipeline.build import check_gold, load_splits
from ares.pipeline.config import load_config
from ares.pipeline.notebooks import execute_notebook
from conftest import results_of

PARAMS = """problems: own
data: quiz.jsonl
teacher: reference
answer_model: conclusion
student: {d_model: 32, d_ff: 64, num_layers: 1, num_decoder_layers: 1, num_heads: 2, vocab_size: 400}
max_new_tokens: 24
baseline_lr: 1.0e-2
baseline_epochs: 4
rounds: 1
collections: 2
collect_problems: 8
ppo_epochs: 1
sft_epochs: 1
device: cpu
"""


def quiz(n=30):
    "Questions about numbers."
    numbers = [(i, i + 1 + i % 5) for i in range(n)]
    return [
        dict(
            question="Which number is larger?",
            hint=f"{a} and {b}",
            choices=[str(a), str(b)],
            answer="B",
            rationale=f"{b} comes after {a}. So the answer is {b}.",
        )
        for a, b in numbers
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with thirty questions, and what one command makes of them."
    home = tmp_path_factory.mktemp("own")
    write_jsonl(home/"quiz.jsonl", quiz())
    (home/"my.yaml").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        with redirect_stdout(io.StringIO()) as said: assert main(["run", "my.yaml"]) == 0
    assert "no split val or test" in said.getvalue() and "24 train, 3 val, 3 test" in said.getvalue()
    return home


def test_thirty_questions_become_a_trained_student_in_one_command(home, monkeypatch):
    monkeypatch.chdir(home)
    results = read_json("runs/my/results.json")
    assert list(results) == ["baseline", "rl-1", "sft-1"]
    sizes = {split: len(found) for split, found in load_splits(load_config("my.yaml")).items()}
    assert sizes == dict(train=24, val=3, test=3) and results["sft-1"]["n"] == 3
    assert Path("runs/my/sft-1/model").is_dir() and Path("runs/my/report.html").is_file()


def test_the_finished_student_is_asked_its_test_problems_and_others(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    before = {path: path.read_bytes() for path in Path("runs/my").rglob("*.json*")}
    tested = {p.id for p in load_splits(load_config("my.yaml"))["test"]}
    assert main("evaluate my --on own --data quiz.jsonl".split()) == 0
    assert "no judge was asked" in capsys.readouterr().out
    (kept,) = Path("runs/my/evaluations").rglob("rationales.jsonl")
    assert {line["id"] for line in read_jsonl(kept)} == tested, "problems that the run has learned from"
    own = {line["id"]: line["answer"] for line in read_jsonl("runs/my/sft-1/rationales.jsonl")}
    assert {line["id"]: line["answer"] for line in read_jsonl(kept)} == own
    write_jsonl("more.jsonl", quiz(12))
    asked = dict(run="runs/my", on="own", data="more.jsonl", judge="reference")
    execute_notebook("evaluate", Path("more.ipynb").absolute(), asked)
    assert "reference prefers its rationales" in Path("more.ipynb").read_text()
    assert {path: path.read_bytes() for path in before} == before


def test_feedback_is_exported_loaded_and_replayed(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    assert main("feedback my --to ./feedback".split()) == 0
    rows = load_dataset("./feedback", cache_dir=str(tmp_path))
    assert {row["kind"] for row in rows["train"]} == {"scored", "corrected"} and len(rows["test"]) == 3 * 3
    replay = "teacher: replay\nreplay: ./feedback\njudge: reference\n"
    Path("again.yaml").write_text(PARAMS.replace("teacher: reference\n", replay))
    assert main(["run", "again.yaml"]) == 0
    assert results_of(home/"runs"/"again") == results_of(home/"runs"/"my")


SETTINGS = {
    "a file or a folder that exists": dict(data="none.jsonl"),
    "or a hub's data set as `owner/name`": dict(data="nowhere"),
    "`columns`: 'prompt' is none of question, choices": dict(columns=dict(prompt="question")),
    "`columns`: `answer` must be the name of a column": dict(columns=dict(answer=3)),
    "`splits_file` must be empty for own problems": dict(splits_file="splits.json"),
    "`columns` must be empty unless `problems: own`": dict(
        problems="scienceqa", data="derek-thomas/ScienceQA", columns=dict(question="prompt")
    ),
    "another one for real problems": dict(teacher="facts"),
}


@pytest.mark.parametrize("message", SETTINGS)
def test_each_fault_of_the_settings_gets_its_sentence(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("quiz.jsonl", quiz())
    mine = dict(problems="own", data="quiz.jsonl", teacher="reference")
    assert load_config(mine | dict(columns=dict(question="hint"))).columns == dict(question="hint")
    with pytest.raises(AresError) as refused: load_config(mine | SETTINGS[message])
    assert message in str(refused.value)


@pytest.mark.parametrize("records", [quiz(2), [record | dict(split="test") for record in quiz(5)]])
def test_a_split_without_problems_is_named(records, tmp_path):
    write_jsonl(tmp_path/"quiz.jsonl", records)
    config = load_config(dict(problems="own", data=str(tmp_path/"quiz.jsonl"), teacher="reference"))
    with pytest.raises(AresError, match="no train problems found; a run needs some in each of"):
        load_splits(config)


def test_data_without_rationales_are_refused_before_a_student_is_made(tmp_path, capsys):
    records = quiz()
    mine = dict(problems="own", data=str(tmp_path/"quiz.jsonl"), teacher="reference")
    write_jsonl(tmp_path/"quiz.jsonl", [{k: v for k, v in r.items() if k != "rationale"} for r in records])
    with pytest.raises(AresError, match="none of the .* train problems has a gold rationale"):
        check_gold(load_config(mine), load_splits(load_config(mine)))
    half = [r | dict(rationale="") if i % 2 else r for i, r in enumerate(records)]
    write_jsonl(tmp_path/"quiz.jsonl", half)
    check_gold(load_config(mine), load_splits(load_config(mine)))
    assert "train problems have neither rationale nor lecture" in capsys.readouterr().err


def test_a_fault_in_the_data_stops_the_command_before_it_writes_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("quiz.jsonl", [quiz()[0] | dict(answer="C")])
    Path("my.yaml").write_text(PARAMS)
    assert main(["run", "my.yaml"]) == 1
    assert "ares: quiz.jsonl, record 1, field `answer`: 'C' is not the index" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_plan_counts_the_questions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("quiz.jsonl", quiz())
    Path("my.yaml").write_text(PARAMS)
    assert main(["plan", "my.yaml"]) == 0
    assert "Numbers of problems: the data" in capsys.readouterr().out
    assert main("plan my.yaml -p data other.jsonl".split()) == 1
    assert "a plan needs the number of its problems" in capsys.readouterr().err
