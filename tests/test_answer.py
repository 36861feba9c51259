"A finished run is asked from the shell, is moved, and its published student is loaded by `transformers`."
import json, resource, shutil, subprocess, sys
from pathlib import Path

import pytest
from PIL import Image

from ares.core.io import read_json, write_json
from ares.data.synthetic import make_problems
from ares.pipeline.config import load_config
from ares.pipeline.stages import run_ares
from conftest import results_of
from forks import run_command

ARES = str(Path(sys.executable).parent/"ares")
TINY = dict(
    student=dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=600),
    max_new_tokens=16, seed=0, device="cpu", rounds=1, collections=1, collect_problems=8, num_samples=2,
    baseline_lr=1e-2, baseline_epochs=1, baseline_batch_size=16, rl_lr=1e-3, ppo_epochs=1, rl_batch_size=16,
    rl_grad_accum=1, sft_lr=1e-3, sft_epochs=1, sft_batch_size=16, answer_epochs=1, answer_lr=1e-2, lora_r=4,
    lora_alpha=8, answer_tokens=8,
)


def ares(*words, cwd):
    "What a command prints; it must end well."
    done = run_command(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_run_answers_from_the_shell_in_under_a_minute(smoke_run, tmp_path):
    Image.new("RGB", (64, 48), "white").save(tmp_path/"x.png")
    asked = ("--question", "Which is a mammal?", "--choices", "a trout", "a whale", "--image", "x.png")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    words = map(str, (ARES, "answer", smoke_run, *asked))  # in a process of its own, as a user starts it
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    assert lines[-1].startswith("Answer: ")
    assert lines[-2] == "(no scores: the teacher `facts` needs the facts of a problem that the package makes)"
    record = json.loads((smoke_run/"rl-1"/"rationales.jsonl").read_text().splitlines()[0])
    lines = ares("answer", smoke_run, "--problem", record["id"], "--stage", "rl-1", cwd=tmp_path).splitlines()
    assert [float(line[:4]) for line in lines[:-1]] == record["scores"]
    assert " ".join(line[6:] for line in lines[:-1]) == record["text"]


def write_science(place):
    "A data set in the layout of ScienceQA, of questions that the package makes; some have a picture."
    records = {}
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for problem in make_problems(count, split=split, seed=0):
            records[problem.id] = dict(
                question=problem.question, choices=problem.choices, answer=problem.answer, split=split,
                hint=problem.hint, solution=problem.solution, image=None,
            )
            if not problem.has_image: continue
            folder = place/"images"/split/problem.id
            folder.mkdir(parents=True)
            problem.picture().save(folder/"image.png")
            records[problem.id]["image"] = "image.png"
    write_json(place/"problems.json", records)
    return place


def test_a_moved_run_continues_and_gives_the_same_results(tmp_path):
    settings = TINY | dict(problems="scienceqa", teacher="reference")
    first, here = write_science(tmp_path/"data"), tmp_path/"here"/"run"
    whole = run_ares(load_config(settings | dict(data=str(first))), here)
    there = tmp_path/"there"
    shutil.copytree(here, there/"runs"/"run", ignore=shutil.ignore_patterns("sft-1", "complete.json"))
    shutil.rmtree(here)
    first.rename(tmp_path/"moved")
    out = run_command("run", "run", cwd=there)
    assert out.returncode == 1 and "`data` is" in out.stderr and "-p data PLACE" in out.stderr
    for command in ("report", "publish"): ares(command, "run", cwd=there)  # they need no data
    card = (there/"runs"/"run"/"published"/"README.md").read_text()
    assert "24 problems to train on" in card and str(tmp_path) not in card
    other = write_science(tmp_path/"other")
    records = read_json(other/"problems.json")
    id, record = next(iter(records.items()))
    write_json(other/"problems.json", records | {id: record | dict(hint="It is hot.")})
    out = run_command("run", "run", "-p", "data", other, cwd=there)
    assert out.returncode == 1 and f"(problem {id} has another `hint`)" in out.stderr, out.stderr
    ares("run", "run", "-p", "data", tmp_path/"moved", "-p", "device", "auto", cwd=there)
    again = results_of(there/"runs"/"run")
    write_json(tmp_path/"whole"/"results.json", whole)
    assert again == results_of(tmp_path/"whole")
    assert read_json(there/"runs"/"run"/"config.json")["data"] == str(tmp_path/"moved")


LOAD = """
from transformers import AutoConfig, AutoTokenizer, AutoModelForSeq2SeqLM
print(type(AutoConfig.from_pretrained(".")).__name__, AutoConfig.for_model("multimodal_t5", patch=8).patch)
tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForSeq2SeqLM.from_pretrained(".")
ids = tokenizer("Which is a mammal?", return_tensors="pt").input_ids
print(type(model).__name__, model.generate(ids, max_new_tokens=4).shape[0])
"""


@pytest.fixture(scope="module")
def published(smoke_run, tmp_path_factory):
    "The folder of a published student."
    ares("publish", smoke_run, cwd=tmp_path_factory.mktemp("elsewhere"))
    return smoke_run/"published"


@pytest.mark.parametrize("code", ["import ares", "import transformers.models.auto.modeling_auto, ares"])
def test_transformers_loads_a_published_student_after_import_ares(code, published):
    done = subprocess.run([sys.executable, "-c", f"{code}{LOAD}"], cwd=published, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.split() == ["MultimodalT5Config", "8", "MultimodalT5", "1"]
