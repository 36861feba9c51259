"Data sets from a hub, answered in words, with ten options, and with many pictures."
import hashlib, http.server, json, os, shutil, subprocess, sys, threading
from dataclasses import replace
from unittest.mock import patch

import pytest
from PIL import Image

from ares.pipeline.stages import run_ares
from ares.core.io import AresError, data_folder, read_json, read_jsonl, write_json
from ares.data.datasets import TEXT_FIELDS, filter_supported, load_aokvqa, load_mmbench, load_mmmu
from ares.data.datasets import load_scienceqa
from ares.evaluation.metrics import compute_metrics
from ares.pipeline.evaluate import stage_answers, write_rationales
from ares.teachers.llm import load_teacher
from ares.evaluation.metrics import CATEGORIES
from ares.pipeline.config import load_config
from ares.pipeline.build import load_splits, make_student, sampling_settings

TINY = dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=800)
SMALL = dict(
    student=TINY, max_prompt_tokens=96, max_new_tokens=24, device="cpu", seed=0, baseline_epochs=2,
    baseline_lr=1e-2, rounds=1, collections=2, collect_problems=8, num_samples=2, ppo_epochs=1, sft_epochs=1,
    answer_epochs=2, answer_tokens=8, lora_r=4, lora_alpha=8,
)
def real(name):
    return pytest.mark.skipif(
        not (data_folder() and (data_folder() / name).exists()),
        reason=f"needs a sample of {name} (ARES_DATA)",
    )


@real("aokvqa")
@pytest.mark.parametrize("answer_model", ["conclusion", "adapter"])
def test_the_loop_answers_in_words(answer_model, tmp_path):
    config = load_config(
        SMALL
        | dict(
            problems="aokvqa", data=str(data_folder() / "aokvqa"), aokvqa_division="sample",
            aokvqa_answers="direct", teacher="reference", train_problems=24, val_problems=8, test_problems=12,
            answer_model=answer_model,
        )
    )
    run_ares(config, tmp_path/"run")
    results, problems = read_json(tmp_path/"run"/"results.json"), load_splits(config)["test"]
    assert set(results) == {"baseline", "rl-1", "sft-1"}
    for stage, result in results.items():
        answers = [r["answer"] for r in read_jsonl(tmp_path/"run"/stage/"rationales.jsonl")]
        assert all(a is None or isinstance(a, str) for a in answers) and any(answers)
        credit = [min(1.0, p.direct_answers.count(a) / 3) for p, a in zip(problems, answers)]
        assert result["accuracy"] == round(100 * sum(credit) / len(credit), 2)
    from ares.reports.report import before_after, skill_table
    page, words = before_after(tmp_path/"run").data, skill_table(tmp_path/"run").loc["all"]
    assert f"{problems[0].answer_text} ✓" in page and "(A)" not in page
    assert abs(words["sft-1 %"] - results["sft-1"]["accuracy"]) < 0.1


@real("mmmu")
@real("mmbench")
def test_a_student_is_evaluated_on_mmmu_and_mmbench(tmp_path, capsys):
    config = load_config(
        SMALL | dict(train_problems=24, val_problems=8, test_problems=8, answer_model="conclusion")
    )
    student, teacher = make_student(config, load_splits(config)["train"]), load_teacher("reference")
    greedily = sampling_settings(config, "test")
    for load, name, n in ((load_mmmu, "mmmu", 20), (load_mmbench, "mmbench", 20)):
        problems, left = filter_supported(load(data_folder()/name))
        assert len(problems) == n and sum(left.values()) == (name == "mmmu")
        rollouts = write_rationales(student, problems, tmp_path/f"{name}.jsonl", greedily)
        assert stage_answers(student, [], rollouts, tmp_path, config) is not None
        gold = [replace(r, text=f"So the answer is ({chr(65 + r.problem.answer)}).") for r in rollouts]
        answers = stage_answers(student, [], gold, tmp_path, config)
        result = compute_metrics(teacher, teacher, rollouts, answers, None)
        assert (
            result["accuracy"] == 100.0
            and result["n"] == n
            and result["accuracy_by_category"]["IMG"] == 100.0
        )
    assert "set aside 1 of 21 problems: 1 x Its options are pictures." in capsys.readouterr().out


def rows(n, picture, with_picture):
    "Rows as ScienceQA has them; the first have a picture."
    return [
        {f: f"{f} {i}" for f in TEXT_FIELDS}
        | dict(
            choices=["a", "b"],
            answer=i % 2,
            image=dict(bytes=picture, path=None) if i < with_picture else None,
        )
        for i in range(n)
    ]


def write_parquet(path, records):
    import datasets
    datasets.disable_progress_bars()
    kinds = datasets.Features(
        {f: datasets.Value("string") for f in TEXT_FIELDS}
        | dict(
            choices=datasets.List(datasets.Value("string")),
            answer=datasets.Value("int8"),
            image=datasets.Image(),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(records, features=kinds).to_parquet(path)


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub as `datasets` asks for: one data set, its list of files, its files."
    name, commit = "derek-thomas/ScienceQA", "a" * 40

    def log_message(self, *_): pass

    def reply(self, body=b"", code=200, **headers):
        self.send_response(code)
        for name, value in headers.items() | {"Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def missing(self, what): self.reply(code=404, X_Error_Code=f"{what}NotFound")

    def entry(self, path):
        common = dict(path=str(path.relative_to(self.root)), size=path.stat().st_size)
        return common | (
            dict(type="directory", oid="d" * 40)
            if path.is_dir()
            else dict(type="file", oid=hashlib.sha1(path.read_bytes()).hexdigest())
        )

    def do_GET(self):
        path = self.path.split("?")[0]
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path.startswith(f"{api}/tree/"):
            here = self.root/path.removeprefix(f"{api}/tree/").partition("/")[2]
            return (
                self.reply(json.dumps([self.entry(p) for p in here.iterdir()]).encode())
                if here.is_dir()
                else self.missing("Entry")
            )
        if path == api or path.startswith(f"{api}/revision/"):
            return self.reply(
                json.dumps(
                    dict(
                        id=self.name, sha=self.commit, private=False, gated=False, disabled=False, tags=[],
                        siblings=[],
                    )
                ).encode()
            )
        if not path.startswith(files): return self.missing("Repo")
        file = self.root/path.removeprefix(files).partition("/")[2]
        if not file.is_file(): return self.missing("Entry")
        self.reply(
            file.read_bytes(),
            ETag=f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"',
            X_Repo_Commit=self.commit,
        )

    def do_HEAD(self): self.do_GET()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.reply(json.dumps([self.entry(self.root/p) for p in asked if (self.root/p).exists()]).encode())


FROM_HUB = """
import json, sys
from ares.core.io import AresError
from ares.data.datasets import load_scienceqa
problems = load_scienceqa("derek-thomas/ScienceQA")
try: load_scienceqa("nobody/nothing"); said = ""
except AresError as e: said = str(e)
corners = [list(p.picture().getpixel((0, 0))) for p in problems if p.has_image]
print(json.dumps([[p.id for p in problems], corners, said]))
"""

def test_scienceqa_comes_from_a_hub_and_then_from_its_cache(tmp_path):
    Image.new("RGB", (8, 8), (200, 10, 20)).save(tmp_path/"image.png")
    for split, n in dict(train=3, validation=2, test=1).items():
        write_parquet(
            tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet",
            rows(n, (tmp_path / "image.png").read_bytes(), 1),
        )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Server", (Hub,), dict(root=tmp_path / "hub"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    def load(**env):
        env = (
            os.environ
            | dict(
                HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
                HF_HOME=str(tmp_path / "home"),
                HF_HUB_DISABLE_XET="1",
            )
            | env
        )
        done = subprocess.run(
            [sys.executable, "-c", FROM_HUB], capture_output=True, text=True, env=env, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])
    try: ids, pixels, said = load()
    finally: server.shutdown()
    assert (
        ids == ["train-0", "train-1", "train-2", "validation-0", "validation-1", "test-0"]
        and pixels == [[200, 10, 20]] * 3
    )
    assert said.startswith("nobody/nothing: no folder") and "DatasetNotFoundError" in said
    assert load(HF_HUB_OFFLINE="1")[:2] == [ids, pixels]
    assert {"hub", "datasets"} <= {p.name for p in (tmp_path/"home").iterdir()}


PROBE = """
import json, sys, psutil
from ares.data.datasets import load_scienceqa
def now(): m = psutil.Process().memory_info(); return [m.rss / 2**20, (m.rss - m.shared) / 2**20]
for source in sys.argv[1:]: print(json.dumps([sum(p.has_image for p in load_scienceqa(source)), *now()]))
"""

@pytest.mark.parametrize("form", ["own", "parquet"])
def test_memory_does_not_grow_with_the_pictures(form, tmp_path):
    "Loading 600 pictures of 100 KB each, 60 MB in all, must not raise the memory of the process."
    import datasets
    Image.frombytes("RGB", (192, 192), os.urandom(192 * 192 * 3)).save(tmp_path/"image.png")
    picture = (tmp_path/"image.png").read_bytes()
    for n in (0, 600):
        place = tmp_path/str(n)
        if form == "parquet": write_parquet(place/"train.parquet", rows(800, picture, n))
        else:
            write_json(
                place / "problems.json",
                {
                    str(i): r | dict(split="train", image=r["image"] and "image.png")
                    for i, r in enumerate(rows(800, picture, n))
                },
            )
            for i in range(n):
                (place/"images"/"train"/str(i)).mkdir(parents=True)
                (place/"images"/"train"/str(i)/"image.png").write_bytes(picture)
        # `datasets` writes its cache now, not below
        with patch.object(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache")):
            assert len(load_scienceqa(str(place))) == 800
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "0"), str(tmp_path / "600")],
        capture_output=True,
        text=True,
        env=os.environ | dict(HF_DATASETS_CACHE=str(tmp_path / "cache")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    none, many = map(json.loads, done.stdout.splitlines())
    assert (none[0], many[0]) == (0, 600)
    assert many[1] - none[1] < 20 and many[2] - none[2] < 10, done.stdout


@pytest.fixture
def science(tmp_path):
    "A folder of ScienceQA with two problems a split; each has a picture, and the file of the first is there."
    splits = ["train", "train", "val", "val", "test", "test"]
    same = {f: f for f in TEXT_FIELDS} | dict(choices=["a", "b"], answer=0, image="image.png")
    records = {str(i): same | dict(question=f"What is {i}?", split=split) for i, split in enumerate(splits)}
    write_json(tmp_path/"problems.json", records)
    (tmp_path/"images"/"train"/"0").mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 10, 20)).save(tmp_path/"images"/"train"/"0"/"image.png")
    return tmp_path


def settings_for(folder, **changes):
    "The settings of a run on such a folder."
    sizes = dict(train_problems=2, val_problems=2, test_problems=2)
    return load_config(
        SMALL | sizes | dict(problems="scienceqa", teacher="reference", data=str(folder)) | changes
    )


def test_missing_pictures_are_counted_and_a_run_without_any_is_refused(science, capsys):
    splits = load_splits(settings_for(science))
    looked = "images/<split>/<id>/image.png"
    said = f"5 of 6 images missing (looked for {looked}); their problems are taken as text"
    assert capsys.readouterr().out == f"{science.name}: {said}\n"
    assert [p.has_image for p in splits["train"]] == [True, False]
    shutil.rmtree(science/"images")
    with pytest.raises(
        AresError, match="none of the 6 images of its problems was found; put them there, or set"
    ):
        load_splits(settings_for(science))
    capsys.readouterr()
    assert len(load_splits(settings_for(science, use_images=False))["test"]) == 2
    assert capsys.readouterr().out == ""


def test_a_cut_photograph_stops_a_run_when_its_data_are_read(science):
    path = science/"images"/"train"/"0"/"image.png"
    Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AresError, match="problem 0, field `image`: cannot be read"):
        load_splits(settings_for(science))
    assert not load_splits(settings_for(science, use_images=False))["train"][0].has_image


@pytest.mark.parametrize("how", ["file", "folder", "images"])
def test_links_out_of_the_data_folder_are_refused(how, science, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret")
    place = dict(file="images/train/0/image.png", folder="images/train/0", images="images")[how]
    for part in ("train/0", "0", "."): (secret/part).mkdir(parents=True, exist_ok=True)
    for part in ("train/0", "."): Image.new("RGB", (8, 8)).save(secret/part/"image.png")
    (science/place).rename(science/"old")
    (science/place).symlink_to(secret/"image.png" if how == "file" else secret)
    with pytest.raises(AresError, match="problem 0, field `image`: .* leads out of the data folder"):
        load_splits(settings_for(science))


@real("scienceqa")
def test_categories_follow_the_record():
    "Of the 407 test problems 226 have a picture, and 122 neither picture nor hint, with or without files."
    for images, found in (("where there", 161), ("none", 0)):
        problems = [p for p in load_scienceqa(data_folder()/"scienceqa", images=images) if p.split == "test"]
        counts = [sum(map(CATEGORIES[name], problems)) for name in ("IMG", "NO")]
        assert counts == [226, 122] and sum(p.has_image for p in problems) == found


@real("aokvqa")
def test_the_sample_of_aokvqa_says_once_what_is_missing(capsys):
    problems = load_aokvqa(data_folder()/"aokvqa", "sample")
    assert capsys.readouterr().out.count("\n") == 1 and sum(CATEGORIES["IMG"](p) for p in problems) == 588
