"Features and captions: the run notebooks, a run killed in the middle, published files."
import base64, io, json, time
from dataclasses import replace

import numpy as np
import papermill
import psutil
import pytest
import torch
from PIL import Image
from transformers import (
    GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessorPil,
    ViTModel,
)

from ares.pipeline.stages import run_ares
from ares.core.io import AresError, data_folder
from ares.data.datasets import load_scienceqa
from ares.data.problem import Problem, open_image, problem_html
from ares.data.synthetic import make_problems
from ares.teachers.requests import picture_bytes
from ares.pipeline.config import load_config
from ares.pipeline.build import load_splits, make_student
from ares.students.base import train_tokenizer
from ares.data.vision import import_features, load_features, make_features, _pixel_values, with_features
from conftest import ROOT, end, start

TINY = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=32,
    image_size=128,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A small ViT, and a small ViT that a GPT-2 listens to."
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    processor, tokenizer = (
        ViTImageProcessorPil(size=dict(height=128, width=128)),
        train_tokenizer([p.solution for p in make_problems(30)], 400),
    )
    ids = dict(decoder_start_token_id=1, pad_token_id=0, eos_token_id=1)
    decoder = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, add_cross_attention=True,
        is_decoder=True, bos_token_id=1, eos_token_id=1,
    )
    captioner = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**TINY), decoder, **ids)
    )
    captioner.generation_config.update(**ids)
    for part in (ViTModel(ViTConfig(**TINY), add_pooling_layer=False), processor):
        part.save_pretrained(folder / "vit")
    for part in (captioner, processor, tokenizer): part.save_pretrained(folder/"captioner")
    return folder


@pytest.fixture(scope="module")
def scienceqa():
    folder = data_folder() and data_folder()/"scienceqa"
    if not folder or not folder.exists():
        pytest.skip("no ScienceQA sample here; ARES_DATA may name a folder that holds scienceqa/")
    return folder


def run_notebook(name, out, **parameters):
    "A run notebook by papermill, from the root of the repository; its outputs as text."
    done = papermill.execute_notebook(
        str(ROOT / "nbs" / "runs" / f"{name}.ipynb"), str(out), parameters=parameters, cwd=str(ROOT),
        progress_bar=False, extra_arguments=["--log-level=ERROR"],
    )
    return json.dumps([c.get("outputs", []) for c in done.cells])


def make(model, folder, count):
    "Features for so many problems; the last that is said is what memory was held."
    make_features(make_problems(count, seed=1), model, folder, batch_size=8, device="cpu")
    print(psutil.Process().memory_info().rss)


def start_making(models, folder, count):
    return start(make, models / "vit", folder, count, log=folder.with_suffix(".log"))


def bytes_of(folder): return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".new"}


def test_features_of_real_pictures(models, scienceqa, tmp_path):
    given = dict(data=str(scienceqa), splits_file="image_splits.json", device="cpu")
    said = run_notebook(
        "features", tmp_path / "out.ipynb", model=str(models / "vit"), output=str(tmp_path / "features"),
        **given,
    )
    assert "161 problems with features of shape (17, 32)" in said and "image/png" in said
    config = load_config(
        dict(
            problems="scienceqa", teacher="reference", features=str(tmp_path / "features"),
            student=dict(d_model=32), **given,
        )
    )
    splits = load_splits(config)
    assert {s: {tuple(p.view().shape) for p in found} for s, found in splits.items()} == {
        s: {(17, 32)} for s in ("train", "val", "test")
    }
    student = make_student(config, splits["train"])
    batch = student.inputs([p.question for p in splits["train"][:3]], [p.view() for p in splits["train"][:3]])
    assert (
        batch["patches"].shape == (3, 17, 32)
        and torch.isfinite(student.hidden(batch, torch.tensor([[5, 1]] * 3))).all()
    )


def test_captions_of_real_pictures(models, scienceqa, tmp_path):
    given = dict(
        data=str(scienceqa), splits_file="image_splits.json", device="cpu", train_problems=20, val_problems=5,
        test_problems=5,
    )
    said = run_notebook(
        "captions", tmp_path / "out.ipynb", model=str(models / "captioner"),
        output=str(tmp_path / "said.json"), batch_size=8, **given,
    )
    assert "30 problems with a caption" in said and "<figcaption" in said
    splits = load_splits(
        load_config(
            dict(problems="scienceqa", teacher="reference", captions=str(tmp_path / "said.json"), **given)
        )
    )
    captions = json.loads((tmp_path/"said.json").read_text())["captions"]
    assert len(captions) == 30 and all(
        p.caption == captions[p.id] for found in splits.values() for p in found
    )


def test_published_features_by_notebook(scienceqa, tmp_path):
    problems = load_scienceqa(scienceqa, splits_file="image_splits.json")
    array = torch.randn(200, 5, 7)
    torch.save(array, tmp_path/"vit.pth")
    (tmp_path / "name_map.json").write_text(
        json.dumps({p.id: str(i + 20) for i, p in enumerate(problems)} | {"of another split": "3"})
    )
    run_notebook(
        "features", tmp_path / "out.ipynb", data=str(scienceqa), splits_file="image_splits.json",
        output=str(tmp_path / "features"), source=str(tmp_path / "vit.pth"),
        name_map=str(tmp_path / "name_map.json"),
    )
    found = with_features(problems, tmp_path/"features")
    assert len(found) == 161 and all(p.view().equal(array[i + 20].half()) for i, p in enumerate(found))


def test_a_killed_run_goes_on_to_the_same_bytes(models, tmp_path):
    problems = make_problems(600, seed=1)
    make_features(problems, models/"vit", tmp_path/"whole", batch_size=8, device="cpu")
    killed = start_making(models, tmp_path/"killed", 600)
    end = time.time() + 60
    while len(list((tmp_path / "killed").glob("part-*.safetensors"))) < 4 and time.time() < end:
        time.sleep(0.005)
    killed.kill(); killed.join()
    before = bytes_of(tmp_path/"killed")
    assert 4 <= len(before) < len(bytes_of(tmp_path/"whole")) - 1 and "index.json" not in before
    with pytest.raises(ValueError, match="is unfinished; call make_features again"):
        load_features(tmp_path / "killed")
    stamps = {n: (tmp_path/"killed"/n).stat().st_mtime_ns for n in before}
    make_features(problems, models/"vit", tmp_path/"killed", batch_size=8, device="cpu")
    assert bytes_of(tmp_path/"killed") == bytes_of(tmp_path/"whole")
    assert stamps == {n: (tmp_path / "killed" / n).stat().st_mtime_ns for n in before}, (
        "parts that were there are not made again"
    )
    assert not list((tmp_path/"killed").glob("*.new"))


@pytest.mark.parametrize(
    "name, shape, dtype",
    [
        ("vit.pth", (40, 145, 8), "float32"),
        ("detr.npy", (40, 100, 16), "float16"),
        ("clip.npy", (40, 49, 12), "bfloat16"),
    ],
)
def test_published_features(name, shape, dtype, tmp_path):
    problems, array = make_problems(150, seed=2), torch.randn(*shape)
    torch.save(array, tmp_path/name) if name.endswith("pth") else np.save(tmp_path/name, array.numpy())
    shown = [p for p in problems if p.has_image]
    (tmp_path / "name_map.json").write_text(
        json.dumps({p.id: i % 40 if i % 2 else str(i % 40) for i, p in enumerate(shown)})
    )
    features = import_features(tmp_path/name, tmp_path/"name_map.json", problems, tmp_path/"features", dtype)
    assert features.shape == shape[1:] and len(features) == len(shown)
    for i, p in enumerate(shown): assert features(p.id).equal(array[i % 40].to(getattr(torch, dtype)))
    with pytest.raises(ValueError, match="has another question under problem"):
        with_features(
            [p for p in make_problems(150, seed=2, skills=["magnets"]) if p.id in features], features
        )


def test_memory_is_that_of_a_batch(models, tmp_path):
    "Twenty times the pictures (49 kB each), the same memory."
    making = [start_making(models, tmp_path/str(n), n) for n in (60, 1200)]
    for process in making: end(process, 120)
    few, many = (int(process.log.read_text().split()[-1]) / 1e6 for process in making)
    assert many - few < 25, f"{few:.0f} MB for 60 problems, {many:.0f} MB for 1,200"


def test_the_whole_loop_on_features(models, tmp_path):
    smoke = str(ROOT/"params"/"smoke.yaml")
    make_features(
        [p for found in load_splits(load_config(smoke)).values() for p in found],
        models / "vit",
        tmp_path / "features",
        device="cpu",
    )
    run_ares(load_config(smoke, features=str(tmp_path/"features")), tmp_path/"run")
    results = json.loads((tmp_path/"run"/"results.json").read_text())
    assert {"baseline", "rl-1", "sft-1"} <= set(results)
    widths = [json.loads(p.read_text())["image_dim"] for p in (tmp_path/"run").glob("*/model/config.json")]
    assert len(widths) >= 3 and set(widths) == {32}


def odd_pictures(folder):
    "Files whose pixels are not what a viewer shows: name -> what it should show at its left and right end."
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (20, 0, 40, 20))
    clear.save(folder/"transparent.png")
    palette = Image.new("P", (40, 20))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (20, 0, 40, 20))
    palette.save(folder/"palette.gif", transparency=0)
    deep = np.repeat(np.linspace(0, 65535, 40).astype(np.uint16)[None], 20, 0)
    Image.fromarray(deep).save(folder/"deep.png")
    Image.fromarray(deep.astype(np.float32) / 65535).save(folder/"fractions.tiff")
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    red_left = Image.new("RGB", (40, 20), "white")
    red_left.paste("red", (0, 0, 20, 20))
    red_left.save(folder/"turned.jpg", exif=turned)
    red_left.save(folder/"film.gif", save_all=True, append_images=[red_left.transpose(Image.FLIP_LEFT_RIGHT)])
    white, red, black = (255, 255, 255), (255, 0, 0), (0, 0, 0)
    return {"transparent.png": (white, red), "palette.gif": (white, red), "deep.png": (black, white),
            "fractions.tiff": (black, white), "turned.jpg": (white, red), "film.gif": (red, white)}


def test_student_teacher_and_report_see_the_same_picture(tmp_path):
    for name, (left, right) in odd_pictures(tmp_path).items():
        problem = Problem("1", "Which?", ["a", "b"], 0, image=tmp_path/name)
        student = np.asarray(problem.view()).astype(int)
        for pixel, colour in ((student[10, 2], left), (student[10, 37], right)):
            assert np.abs(pixel - colour).max() < 14, name
        kind, data, size = picture_bytes(problem)
        shown = base64.b64decode(problem_html(problem).partition("base64,")[2].partition('"')[0])
        for encoded in (data, shown):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), student), name
        assert torch.equal(
            vision_pixels(problem), vision_pixels(replace(problem, image=problem.picture()))
        ), name


def vision_pixels(problem):
    "What a vision model is given."
    return _pixel_values(ViTImageProcessorPil(size=dict(height=32, width=32)), [problem])["pixel_values"]


def test_a_large_picture_is_scaled_for_the_teacher_only():
    problem = Problem("1", "Which?", ["a", "b"], 0, image=Image.new("RGB", (3000, 10), "red"))
    assert picture_bytes(problem)[2] == (1568, 5) and problem.view().size == (3000, 10)


def test_pictures_that_failed():
    "Small files that were shown wrongly or found too late."
    home = data_folder() and data_folder().parent/"cases"/"images"
    if not home or not home.exists(): pytest.skip("no folder `cases` beside the data")
    line = open_image(home/"black_line_on_transparent.png", "1")
    assert {colour for _, colour in line.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    assert line.getpixel((0, 0)) == (255, 255, 255)
    turned = open_image(home/"exif_orientation_6.jpg", "1")
    assert turned.size == (40, 60)
    with pytest.raises(AresError, match="problem 1, field `image`: cannot be read"):
        open_image(home/"truncated.jpg", "1")
