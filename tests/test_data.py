"Data sets at their real size, from a hub, in words, and with ten options."
import json, os, subprocess, sys
from dataclasses import replace
from unittest.mock import patch

import pytest
from PIL import Image

from ares.alternation import run_ares
from ares.core import data_folder, read_json, read_jsonl, write_json
from ares.datasets import TEXT_FIELDS, load_mmbench, load_mmmu, load_scienceqa, takeable
from ares.evaluation import measure, stage_answers, write_rationales
from ares.llm_teachers import load_teacher
from ares.settings import load_config, load_splits, make_student

TINY = dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=800)
SMALL = dict(student=TINY, max_prompt_tokens=96, max_new_tokens=24, device="cpu", seed=0, baseline_epochs=2, baseline_lr=1e-2, rounds=1, collections=2, collect_problems=8, num_samples=2, ppo_epochs=1,
             sft_epochs=1, answer_epochs=2, answer_tokens=8, lora_r=4, lora_alpha=8)
def real(name): return pytest.mark.skipif(not (data_folder() and (data_folder()/name).exists()), reason=f"needs a sample of {name} (ARES_DATA)")


@real("aokvqa")
@pytest.mark.parametrize("answer_model", ["conclusion", "adapter"])
def test_the_loop_answers_in_words(answer_model, tmp_path):
    config = load_config(SMALL | dict(problems="aokvqa", data=str(data_folder()/"aokvqa"), aokvqa_division="sample", aokvqa_answers="direct", teacher="reference", train_problems=24, val_problems=8, test_problems=12,
                                      answer_model=answer_model))
    run_ares(config, tmp_path/"run")
    results, problems = read_json(tmp_path/"run"/"results.json"), load_splits(config)["test"]
    assert set(results) == {"baseline", "rl-1", "sft-1"}
    for stage, result in results.items():
        answers = [r["answer"] for r in read_jsonl(tmp_path/"run"/stage/"rationales.jsonl")]
        assert all(a is None or isinstance(a, str) for a in answers) and any(answers)
        credit = [min(1.0, p.direct_answers.count(a) / 3) for p, a in zip(problems, answers)]
        assert result["accuracy"] == round(100 * sum(credit) / len(credit), 2)
    from ares.report import before_after, skill_table
    page, words = before_after(tmp_path/"run").data, skill_table(tmp_path/"run").loc["all"]
    assert f"{problems[0].answer_text} ✓" in page and "(A)" not in page
    assert abs(words["sft-1 %"] - results["sft-1"]["accuracy"]) < 0.1


@real("mmmu")
@real("mmbench")
def test_a_student_is_evaluated_on_mmmu_and_mmbench(tmp_path, capsys):
    config = load_config(SMALL | dict(train_problems=24, val_problems=8, test_problems=8, answer_model="conclusion"))
    student, teacher = make_student(config, load_splits(config)["train"]), load_teacher("reference")
    for load, name, n in ((load_mmmu, "mmmu", 20), (load_mmbench, "mmbench", 20)):
        problems, left = takeable(load(data_folder()/name))
        assert len(problems) == n and sum(left.values()) == (name == "mmmu")
        rollouts = write_rationales(student, problems, tmp_path/f"{name}.jsonl", config)
        assert stage_answers(student, [], rollouts, tmp_path, config) is not None
        gold = [replace(r, text=f"So the answer is ({chr(65 + r.problem.answer)}).") for r in rollouts]
        result = measure(teacher, teacher, rollouts, stage_answers(student, [], gold, tmp_path, config), None)
        assert result["accuracy"] == 100.0 and result["n"] == n and result["accuracy_by_category"]["IMG"] == 100.0
    assert "set aside 1 of 21 problems: 1 x Its options are pictures." in capsys.readouterr().out


PROBE = """
import json, sys, psutil
from ares.datasets import load_scienceqa
def now(): m = psutil.Process().memory_info(); return [m.rss / 2**20, (m.rss - m.shared) / 2**20]
for source in sys.argv[1:]: print(json.dumps([sum(p.has_image for p in load_scienceqa(source)), *now()]))
"""

@pytest.mark.parametrize("form", ["own", "parquet"])
def test_memory_does_not_grow_with_the_pictures(form, tmp_path):
    "600 pictures of 100 KB each, 60 MB in all, must leave no trace in the memory of a process that has loaded them."
    import datasets
    datasets.disable_progress_bars()
    Image.frombytes("RGB", (192, 192), os.urandom(192 * 192 * 3)).save(tmp_path/"image.png")
    picture = (tmp_path/"image.png").read_bytes()
    kinds = datasets.Features({f: datasets.Value("string") for f in TEXT_FIELDS} | dict(choices=datasets.List(datasets.Value("string")), answer=datasets.Value("int8"), image=datasets.Image()))
    for n in (0, 600):
        place = tmp_path/str(n)
        records = [{f: f"{f} {i}" for f in TEXT_FIELDS} | dict(choices=["a", "b"], answer=i % 2, image="image.png" if i < n else None) for i in range(800)]
        if form == "parquet":
            place.mkdir()
            datasets.Dataset.from_list([r | dict(image=r["image"] and dict(bytes=picture, path=None)) for r in records], features=kinds).to_parquet(place/"train.parquet")
        else:
            write_json(place/"problems.json", {str(i): r | dict(split="train") for i, r in enumerate(records)})
            for i in range(n):
                (place/"images"/"train"/str(i)).mkdir(parents=True)
                (place/"images"/"train"/str(i)/"image.png").write_bytes(picture)
        with patch.object(datasets.config, "HF_DATASETS_CACHE", str(tmp_path/"cache")): assert len(load_scienceqa(str(place))) == 800  # `datasets` writes its cache now, not below
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path/"0"), str(tmp_path/"600")], capture_output=True, text=True, env=os.environ | dict(HF_DATASETS_CACHE=str(tmp_path/"cache")))
    assert done.returncode == 0, done.stderr[-2000:]
    none, many = map(json.loads, done.stdout.splitlines())
    assert (none[0], many[0]) == (0, 600)
    assert many[1] - none[1] < 20 and many[2] - none[2] < 10, done.stdout
