"Every experiment runs from its notebook, at the smallest size."
import json, re, shutil
from pathlib import Path

import papermill
import pytest
import yaml

from conftest import ROOT
from ares.core.io import data_folder
from ares.data.synthetic import make_problems
from ares.teachers.mock_server import MockServer
from ares.teachers.offline import FactTeacher

SMOKE = str(ROOT/"params"/"smoke.yaml")
# settings still smaller than those of SMOKE, for every page
SMALLER = dict(
    answer_model="conclusion", train_problems=32, gold_problems=32, val_problems=8, test_problems=12,
    baseline_epochs=2, collections=2, collect_problems=4, ppo_epochs=1, sft_epochs=1, max_new_tokens=24,
)
SMALL = {
    "why_alternate": dict(params=SMOKE, parallel=1, seeds=[0], alone_seeds=[0], variant_seeds=[0]),
    "demo": dict(
        params=SMOKE, parallel=1, seeds=[0, 1], knowledges=["answer", "facts"], rates=[3e-4],
        passes=[[1, 2e-4]],
    ),
    "harder": dict(
        params=SMOKE, seeds=[0], overrides=dict(
            train_problems=44, gold_problems=33, sft_skip=33, baseline_epochs=1, collections=2,
            max_new_tokens=32,
        ),
    ),
    "controls": dict(params=SMOKE, seeds=[0], overrides=dict(collections=2, num_samples=4)),
    "estimators": dict(params=SMOKE, seeds=[0, 1]),
    "students": dict(
        params=str(ROOT / "params"),
        seeds=[0],
        overrides=dict(
            train_problems=44, val_problems=11, test_problems=44, gold_problems=33, baseline_epochs=1,
            collections=2, collect_problems=11, value_warmup=1, rl_batch_size=22, num_samples=2,
            max_new_tokens=24, rounds=1, sft_epochs=1,
        ),
    ),
    "answer_only": dict(params=SMOKE, seeds=[0]),
    "corrections": dict(params=SMOKE, parallel=1, seeds=[0], overrides=dict(rounds=1, collections=2)),
    "selection": dict(params=SMOKE, seeds=[0], overrides=dict(rounds=1, collections=2)),
    "distilled": dict(
        params=SMOKE, seeds=[0], later=1, epochs=2, held=2, overrides=dict(num_samples=4),
        variants=["real", "noisy", "plain", "careful", "sure", "memory", "mixed"],
    ),
    "learning_rate": dict(
        params=SMOKE,
        parallel=1,
        seeds=[0],
        rates=[1e-3],
        kl_coefs=[0.02],
        samples=[4],
        overrides=dict(method="rl", rounds=1, collections=2, evaluate_on="val"),
    ),
    "travel": dict(
        params=SMOKE,
        parallel=1,
        seeds=[0],
        overrides=dict(train_problems=32, collections=2),
        vqa_n=12,
        science=SMOKE,
        science_overrides=dict(
            collections=1, problems="scienceqa", use_images=False, teacher="reference", gold_problems=0,
            max_new_tokens=24, rounds=1,
        ),
    ),
    "parts": dict(
        params=SMOKE,
        parallel=1,
        seeds=[0],
        knowledges=dict(facts="nearly gold", answer="the answer"),
        overrides=dict(collections=2, collect_problems=4),
    ),
    "reward_hacking": dict(
        params=SMOKE, baseline="", overrides=dict(rounds=1, collections=2, neutral=-0.3, kl_coef=0.0)
    ),
    "judge": dict(problems_n=22, published_n=8, chat_n=0),
    "teachers": dict(
        params=SMOKE, parallel=1, seeds=[0], flipped=[0.0, 0.4], problems_n=24, published_n=8,
        chat_n=dict(student=0, published=0), draws=49,
    ),
    "asking": dict(params=SMOKE, problems_n=24, collect_n=12, reply_seconds=0.05),
    "planning": dict(
        folder=str(ROOT / "params"),
        files=["smoke"],
        variants={
            "as in its file": {},
            "layers compute their activations again": dict(gradient_checkpointing=True),
        },
        varied="smoke",
        pretrained="demo_decoder",
        ways={"as in its file": {}},
    ),
    "speed": dict(
        prompts_n=4,
        samples=2,
        new_tokens=8,
        vocabulary=2000,
        size=dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2),
        repeats=1,
    ),
    "loading": dict(problems_n=60, images_ns=[20]),
    "growth": dict(
        problems_ns=[10, 20], samples_ns=[1, 2], lengths_ns=[8, 16], rounds_ns=[1], replies_ns=[10, 100],
        records_ns=[10, 20], pictures_ns=[4, 8], runs_ns=[1, 2], repeats=1,
    ),
    "published": dict(problems_n=40),
    "real_images": dict(
        params=str(ROOT / "params"),
        num_processes=1,
        shorter=dict(
            train_problems=24,
            val_problems=8,
            test_problems=12,
            baseline_epochs=1,
            collections=1,
            collect_problems=8,
            value_warmup=0,
            sft_problems=12,
            sft_epochs=1,
            answer_problems=12,
            answer_epochs=1,
            max_new_tokens=24,
            student=dict(
                d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=800
            ),
        ),
    ),
    "grpo": dict(
        model=dict(kind="decoder", d_model=32, d_ff=64, num_layers=2, num_heads=2, vocab_size=600),
        dtypes=["float32"],
        repeats=1,
        steps=2,
        gold_n=8,
        val_n=6,
        problems_n=2,
        samples=2,
        rows=2,
        new_tokens=8,
        budget=40,
        seeds=[0],
    ),
    "smollm2": dict(
        params=str(ROOT / "params" / "smollm2_scienceqa.yaml"),
        overrides=dict(
            student=dict(kind="decoder", d_model=32, d_ff=64, num_layers=1, num_heads=2, vocab_size=800),
            lora=False,
            dtype="float32",
            similarity="lexical",
            train_problems=24,
            val_problems=8,
            test_problems=12,
            gold_problems=0,
            baseline_epochs=1,
            collections=2,
            collect_problems=8,
            sft_skip=12,
            max_new_tokens=24,
        ),
    ),
}
FOLDERS = { # parameters of a page that say where it writes
    "demo": ["home", "images"],
    "judge": ["ledger"],
    "reward_hacking": ["run"],
    "smollm2": ["home"],
    "grpo": ["run"],
    "travel": ["home", "science_run"],
    **{
        name: ["home"]
        for name in (
            "why_alternate", "real_images", "estimators", "students", "corrections", "learning_rate", "parts",
            "controls", "teachers", "answer_only", "selection", "distilled", "harder",
        )
    },
}
NEEDS = { # which of the real samples a page needs
    "published": "scienceqa/rationales",
    "real_images": "aokvqa",
    "smollm2": "scienceqa",
    "travel": "aokvqa",
}
CAN_USE = ["judge", "teachers"]  # pages that use the real samples where they exist


def small(name, folder):
    "Parameters with which a page is tried; its parameter file is put into a folder."
    smaller = folder/"smaller.yaml"
    smaller.write_text(yaml.safe_dump(yaml.safe_load(Path(SMOKE).read_text()) | SMALLER))
    return {k: str(smaller) if v == SMOKE else v for k, v in SMALL[name].items()}


def test_every_experiment_is_tried():
    assert {p.stem for p in (ROOT/"nbs"/"experiments").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_experiment_runs(name, tmp_path, monkeypatch):
    if name in NEEDS and not (data_folder() and (data_folder() / NEEDS[name]).exists()):
        pytest.skip(f"needs {NEEDS[name]} (ARES_DATA)")
    if data_folder() and name in (*NEEDS, *CAN_USE):
        monkeypatch.setenv("ARES_DATA", str(data_folder().resolve()))
    if name == "grpo":  # starts its program several times
        startup = tmp_path/"ipython"/"profile_default"/"startup"
        startup.mkdir(parents=True)
        shutil.copy(ROOT/"tests"/"worker_forks.py", startup)
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path/"ipython"))
    parameters = small(name, tmp_path) | {key: str(tmp_path/key) for key in FOLDERS.get(name, [])}
    page = ROOT/"nbs"/"experiments"/f"{name}.ipynb"
    cells = json.loads(page.read_text())["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    for key in parameters:  # without a place for it the page would run at its own size
        assert re.search(rf"^[^#=]*\b{key}\b[^#=]*=", "".join(tagged), re.MULTILINE), key
    quiet = dict(progress_bar=False, extra_arguments=["--log-level=ERROR"], cwd=str(tmp_path))
    done = papermill.execute_notebook(str(page), str(tmp_path/"out.ipynb"), parameters, **quiet)
    outputs = []
    for cell in done.cells: outputs += cell.get("outputs", [])
    assert not any(o.output_type == "error" for o in outputs)
    assert any("data" in o for o in outputs), "it should show a table or a figure"


def test_the_lesson_runs(tmp_path):
    settings = yaml.safe_load((ROOT/"params"/"lesson.yaml").read_text())
    (tmp_path/"smaller.yaml").write_text(yaml.safe_dump(settings | SMALLER | dict(sft_skip=16)))
    parameters = dict(params=str(tmp_path/"smaller.yaml"), home=str(tmp_path/"runs"), seeds=[0])
    quiet = dict(progress_bar=False, extra_arguments=["--log-level=ERROR"], cwd=str(tmp_path))
    page = str(ROOT/"nbs"/"learn"/"lesson.ipynb")
    done = papermill.execute_notebook(page, str(tmp_path/"out.ipynb"), parameters, **quiet)
    kinds = set()
    for cell in done.cells:
        for output in cell.get("outputs", []): kinds |= set(output.get("data", {}))
    assert {"image/png", "text/html"} <= kinds


@pytest.mark.parametrize("name", ["judge", "teachers"])
def test_a_language_model_joins_and_its_replies_are_replayed(name, tmp_path, monkeypatch):
    own, place = (
        dict(
            judge=dict(chat_n=2, ledger="ledger.sqlite"),
            teachers=dict(chat_n=dict(student=2, published=0), home="runs"),
        )[name],
        str(tmp_path),
    )
    monkeypatch.setenv("ARES_DATA", str(tmp_path/"nothing"))
    def tables(send):
        models = dict(Claude=dict(kind="claude", model="claude-haiku-5-5", send=send))
        done = papermill.execute_notebook(
            str(ROOT / "nbs" / "experiments" / f"{name}.ipynb"),
            f"{place}/out.ipynb",
            cwd=place,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
            parameters=small(name, tmp_path) | own | dict(problems_n=11, models=models),
        )
        return [
            o["data"]["text/html"]
            for c in done.cells
            if c.cell_type == "code"
            for o in c.outputs
            if "text/html" in o.get("data", {})
        ]

    with MockServer(make_problems(11, split="test"), FactTeacher()) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "stand-in")
        live = tables("live")
        asked = sum(server.answered.values())
    assert asked and any("Claude" in t for t in live)
    assert tables("replay") == live
