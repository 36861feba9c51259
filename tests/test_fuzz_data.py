"Whatever a data set's files hold, a loader returns what they say or gives one sentence."

import contextlib, copy, io, json, shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow, pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save_file

from ares.core.io import AresError
from ares.data.datasets import load_aokvqa, load_mmbench, load_mmmu, load_scienceqa, read_captions
from ares.data.datasets import read_published
from ares.data.own import load_own
from ares.data.problem import open_image, problem_html
from ares.data.prompts import question_text, rationale_target
from ares.data.vision import load_features, _named_rows
from ares.evaluation.benchmarks import _predicted_answer, _read_predictions
from conftest import FUZZ_EXAMPLES

datasets.disable_progress_bars()
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def fuzz(examples=FUZZ_EXAMPLES):
    "Settings of a fuzz test: the same cases in every run."
    return settings(
        max_examples=max(20, examples),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def attempt(load):
    "What is loaded, or None where it is refused in one short line. Anything else that is raised is a defect."
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return load()
    except AresError as e:
        assert "\n" not in str(e) and len(str(e)) <= 300, str(e)
        str(e).encode()


# ---- values that JSON can hold, and files with some of them in the wrong place

TEXTS = [
    "",
    " ",
    "nan",
    "A",
    "B",
    "Z",
    "1",
    "0",
    "train",
    "test",
    "../../../../secret",
    "/etc/passwd",
    "a\x00b",
    "\ud800",
    "é ش 日本",
    "x\ny",
    "['a', 'b']",
    "[1, 2]",
    "[" * 200,
    "<image 1>",
    "x" * 5000,
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
)
VALUES = st.one_of(
    LEAVES,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    st.integers(1, 400).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)


def places(value, path=()):
    "The paths of all parts of a JSON value."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


@st.composite
def changed(draw, value):
    "A JSON value with one to three changes."
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            return draw(VALUES)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        last, how = path[-1], draw(
            st.sampled_from(["replace", "replace", "replace", "remove", "double", "rename"])
        )
        if how == "remove":
            del parent[last]
        elif how == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(TEXTS))] = parent.pop(last)
        else:
            parent[last] = draw(VALUES)
        if not value:
            return value
    return value


def damaged_text(text):
    "The bytes of a JSON text, most of them untouched."
    data = text.encode()
    return st.one_of(
        st.just(data),
        st.just(data),
        st.just(data),
        st.integers(0, len(data)).map(lambda n: data[:n]),
        st.just(b"\xef\xbb\xbf" + data),
        st.just(text.encode("utf-16")),
        st.just(data.replace(b'"', b"'")),
        st.just(data + data),
        st.just(b"\xff" + data),
        st.just(data.replace(b"1", b"9" * 5000, 1)),
    )


# ---- what a loaded problem must be


def check_problem(p):
    "A problem that can be shown, asked and written."
    assert all(
        isinstance(t, str)
        for t in (
            p.id,
            p.question,
            p.hint,
            p.lecture,
            p.solution,
            p.subject,
            p.skill,
            p.grade,
            p.caption,
            *p.choices,
        )
    )
    assert (
        p.id.strip()
        and p.question.strip()
        and type(p.answer) is int
        and 0 <= p.answer < len(p.choices) <= 26
        and p.choices[p.answer].strip()
    )
    for text in (
        question_text(p),
        problem_html(p),
        rationale_target(p),
        json.dumps(vars(p), default=str, ensure_ascii=False),
    ):
        text.encode()
    for picture in p.pictures():
        assert picture.mode == "RGB"


def same_texts(p, record, **names):
    "Fields that are the record's own, letter by letter."
    for field, name in names.items():
        assert getattr(p, field) == (record.get(name) or ""), (field, record.get(name))


def draw_png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# ---- ScienceQA

SCIENCE = {
    str(i): dict(
        question=f"What is {i}?",
        choices=["ice", "lava", "tea"],
        answer=i % 3,
        hint="h" * (i % 2),
        image="image.png" if i < 4 else None,
        task="closed choice",
        grade="grade2",
        subject="natural science",
        topic="t",
        category="c",
        skill="s",
        lecture="l",
        solution="It is.",
        split=("train", "val", "test")[i % 3],
    )
    for i in range(6)
}
SCIENCE_SPLITS = dict(train=["0", "1", 2], val=["3"], test=["4", "5"], minival=["3"])


def science_folder(home):
    folder = home / "scienceqa"
    if not folder.exists():
        for i in range(3):
            draw_png(folder / "images" / SCIENCE[str(i)]["split"] / str(i) / "image.png")
    return folder


def check_scienceqa(folder, records, splits, problems):
    "The problems are what records and splits say."
    assert len({p.id for p in problems}) == len(problems)
    chosen = (
        {str(id): s for s in ("train", "val", "test") for id in splits.get(s, [])}
        if splits is not None
        else {id: r["split"] for id, r in records.items()}
    )
    assert {p.id: p.split for p in problems} == {id: s for id, s in chosen.items() if id in records}
    for p in problems:
        record = records[p.id]
        assert (
            p.choices == record["choices"]
            and p.answer == record["answer"]
            and p.with_picture == bool(record.get("image"))
        )
        same_texts(
            p,
            record,
            **{
                f: f
                for f in (
                    "question",
                    "hint",
                    "lecture",
                    "solution",
                    "subject",
                    "topic",
                    "category",
                    "skill",
                    "grade",
                )
            },
        )
        if p.image:
            assert Path(p.image).resolve().is_relative_to(folder.resolve()) and record["image"]
        check_problem(p)


def try_scienceqa(home, records, splits, captions, original, how):
    "Write such a folder, and read it."
    folder = science_folder(home)
    for name, value in dict(
        problems=records, given=splits, captions=captions, original_text=original
    ).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "pid_splits.json").unlink(missing_ok=True)
    if how == "pid":
        (folder / "given.json").rename(folder / "pid_splits.json")
    problems = attempt(lambda: load_scienceqa(folder, splits_file="given.json" if how == "file" else None))
    if problems is not None:
        check_scienceqa(folder, records, splits if how else None, problems)


SCIENCE_CASES = st.one_of(
    st.tuples(changed(SCIENCE), st.just(SCIENCE_SPLITS), st.just({"0": "a dog"}), st.just(["1"])),
    st.tuples(changed(SCIENCE), st.just(SCIENCE_SPLITS), st.just({"0": "a dog"}), st.just(["1"])),
    st.tuples(st.just(SCIENCE), changed(SCIENCE_SPLITS), st.just({}), st.just([])),
    st.tuples(
        st.just(SCIENCE),
        st.just(SCIENCE_SPLITS),
        changed(dict(model="m", captions={"0": "a dog", "1": "a cat"})),
        changed(["1", "2"]),
    ),
)


@fuzz()
@given(case=SCIENCE_CASES, how=st.sampled_from(["", "pid", "file"]))
def test_scienceqa(home, case, how):
    try_scienceqa(home, *case, how)


@fuzz(FUZZ_EXAMPLES // 2)
@given(records=changed(SCIENCE))
def test_scienceqa_without_its_faulty_records(home, records):
    "With `strict=False` what is left is right, and only a file that is no data set at all is refused."
    folder = science_folder(home)
    for name in ("pid_splits", "captions", "original_text"):
        (folder / f"{name}.json").unlink(missing_ok=True)
    (folder / "problems.json").write_text(json.dumps(records))
    problems = attempt(lambda: load_scienceqa(folder, strict=False))
    assert (problems is None) == (not isinstance(records, dict))
    if problems:
        check_scienceqa(folder, {p.id: records[p.id] for p in problems}, None, problems)


@fuzz(FUZZ_EXAMPLES // 2)
@given(data=damaged_text(json.dumps(SCIENCE)))
def test_files_that_are_no_json(home, data):
    folder = science_folder(home)
    for name in ("pid_splits", "captions", "original_text"):
        (folder / f"{name}.json").unlink(missing_ok=True)
    (folder / "problems.json").write_bytes(data)
    for p in attempt(lambda: load_scienceqa(folder)) or []:
        check_problem(p)


# ---- A-OKVQA


def asked(i, split):
    return dict(
        split=split,
        image_id=i,
        question_id=f"{split}{i}",
        question=f"What is {i}?",
        choices=["cat", "dog", "cow", "pig"],
        correct_choice_idx=i % 4,
        direct_answers=["dog"] * 10,
        difficult_direct_answer=i == 2,
        rationales=["It barks", "It has a collar.", "A dog!"],
    )


AOKVQA = dict(train=[asked(i, "train") for i in range(3)], val=[asked(i, "val") for i in range(4)])


def try_aokvqa(home, files, division, answers, rationale):
    folder = home / "aokvqa"
    if not folder.exists():
        draw_png(folder / "images" / "val2017" / f"{1:012d}.jpg")
    files = files if isinstance(files, dict) else dict(val=files)
    for name in ("train", "val"):
        (folder / f"aokvqa_v1p0_{name}.json").write_text(json.dumps(files.get(name)))
    problems = attempt(lambda: load_aokvqa(folder, division, rationale, answers))
    if problems is None:
        return
    read = ("val",) if division == "sample" else ("train", "val")
    records = {str(r["question_id"]): r for name in read for r in files[name]}
    assert len(records) == sum(len(files[name]) for name in read)  # no two with one id
    for p in problems:
        record = records[p.id]
        assert (
            p.choices == record["choices"]
            and p.answer == record["correct_choice_idx"]
            and p.question == record["question"]
        )
        said = record.get("rationales") or []
        if isinstance(said, str):
            said = json.loads(said.replace("'", '"'))
        assert all(isinstance(s, str) for s in said) and (
            rationale != "join" or all(s.strip() in p.solution for s in said)
        )
        if answers == "direct":
            assert p.direct_answers and not record.get("difficult_direct_answer")
        check_problem(p)
    kept = [r for r in records.values() if not (answers == "direct" and r.get("difficult_direct_answer"))]
    assert {p.id for p in problems} == {str(r["question_id"]) for r in kept}


@fuzz()
@given(
    files=changed(AOKVQA),
    division=st.sampled_from(["halves", "same", "sample"]),
    answers=st.sampled_from(["choice", "direct"]),
    rationale=st.sampled_from(["join", "longest", "first"]),
)
def test_aokvqa(home, files, division, answers, rationale):
    try_aokvqa(home, files, division, answers, rationale)


# ---- MMMU and MMBench

EXAMS = [
    dict(
        id=f"m{i}",
        question="Which is <image 1>?",
        options="['ice', 'lava', 'tea']" if i else ["ice", "lava", "tea"],
        answer="B",
        question_type="multiple-choice",
        image_1="images/1.png",
        image_2="images/1.png" if i == 1 else None,
    )
    for i in range(3)
]
ITEMS = [
    dict(
        index=1,
        question="Which?",
        hint="h",
        choices=["ice", "lava", "tea"],
        answer="C",
        ability="ocr",
        image="images/1.png",
    ),
    dict(
        index=2,
        question="Which?",
        hint="nan",
        A="ice",
        B="",
        C="tea",
        D="nan",
        answer="C",
        category="ocr",
        image="images/1.png",
    ),
    dict(question="Which?", hint=None, choices=["ice", "lava"], answer="A", ability=None, image=None),
]


def lines_folder(home, name, records, data=None):
    folder = home / name
    if not folder.exists():
        draw_png(folder / "images" / "1.png")
    text = "\n".join(map(json.dumps, records)) if isinstance(records, list) else json.dumps(records)
    (folder / dict(mmmu="data.jsonl", mmbench="items.jsonl")[name]).write_bytes(
        text.encode() if data is None else data
    )
    return folder


def check_lines(folder, records, problems):
    assert len({p.id for p in problems}) == len(problems)
    for p in problems:
        check_problem(p)
        for image in p.images or [p.image] * bool(p.image):
            assert Path(image).resolve().is_relative_to(folder.resolve())


def try_mmmu(home, records):
    folder = lines_folder(home, "mmmu", records)
    problems = attempt(lambda: load_mmmu(folder))
    if problems is None:
        return
    check_lines(folder, records, problems)
    records = (
        [r for r in records if r.get("question_type") != "open"] if isinstance(records, list) else [records]
    )
    assert [p.question for p in problems] == [r["question"] for r in records]
    assert [p.answer for p in problems] == ["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(r["answer"]) for r in records]


def try_mmbench(home, records):
    folder = lines_folder(home, "mmbench", records)
    problems = attempt(lambda: load_mmbench(folder))
    if problems is None:
        return
    check_lines(folder, records, problems)
    for p, record in zip(problems, records if isinstance(records, list) else [records], strict=True):
        choices = record.get("choices")
        assert p.answer_text == (
            record[record["answer"]]
            if choices is None
            else choices["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(record["answer"])]
        )


@fuzz()
@given(records=changed(EXAMS))
def test_mmmu(home, records):
    try_mmmu(home, records)


@fuzz()
@given(records=changed(ITEMS))
def test_mmbench(home, records):
    try_mmbench(home, records)


@fuzz(FUZZ_EXAMPLES // 2)
@given(data=damaged_text("\n".join(map(json.dumps, EXAMS))))
def test_lines_that_are_no_json(home, data):
    problems = attempt(lambda: load_mmmu(lines_folder(home, "mmmu", [], data)))
    whole = ["m0", "m1", "m2"]
    if problems is not None:
        assert [p.id for p in problems] == whole[: len(problems)] and len(data.splitlines()) == len(problems)


# ---- Parquet files, as a hub has them

ROWS = [
    dict(
        image=None,
        question="Which?",
        choices=["ice", "lava"],
        answer=1,
        hint="",
        task="",
        grade="grade2",
        subject="natural science",
        topic="",
        category="",
        skill="",
        lecture="",
        solution="It is.",
    )
    for _ in range(3)
]


def try_parquet(home, rows, cell):
    "Columns of any type, and any bytes or path as a picture."
    place = home / "parquet"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    records = (
        [r | dict(image=cell) if isinstance(r, dict) and "image" in r else r for r in rows]
        if isinstance(rows, list)
        else []
    )
    try:
        table = pyarrow.Table.from_pylist(records)
    except Exception:
        return  # no table can hold that
    pyarrow.parquet.write_table(table, place / "train.parquet")
    from unittest.mock import patch

    with patch.object(datasets.config, "HF_DATASETS_CACHE", str(home / "cache")), contextlib.redirect_stderr(
        io.StringIO()
    ):
        problems = attempt(lambda: load_scienceqa(str(place)))
        if problems is None:
            return
        for p, record in zip(problems, table.to_pylist(), strict=True):
            assert p.choices == record["choices"] and p.answer == record["answer"]
            same_texts(p, record, question="question", hint="hint", solution="solution", grade="grade")
            check_problem(p)


def png_bytes():
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, "PNG")
    return data.getvalue()


CELLS = st.one_of(
    st.none(),
    st.just(dict(bytes=png_bytes(), path="1.png")),
    st.just(dict(bytes=None, path="/etc/hostname")),
    st.just(dict(bytes=None, path="../secret.png")),
    st.just(dict(bytes=b"nothing", path=None)),
    st.just(dict(bytes=None, path=None)),
    st.just("1.png"),
    st.just(5),
    st.just(png_bytes()),
    st.just([1]),
    st.just(dict(x=1)),
)


@fuzz(FUZZ_EXAMPLES // 8)
@given(rows=st.one_of(st.just(ROWS), changed(ROWS)), cell=CELLS)
def test_parquet(home, rows, cell):
    try_parquet(home, rows, cell)


# ---- captions, published outputs, features, names of rows


def try_small_files(home, captions, published, index, names):
    from ares.data.problem import Problem

    file = home / "small.json"

    def read(reader, value):
        file.write_text(json.dumps(value))
        return attempt(lambda: reader(file))

    said = read(lambda f: read_captions(home, f), captions)
    if said is not None:
        assert all(isinstance(c, str) for c in said.values()) and said == captions.get("captions", captions)
    outputs = read(read_published, published)
    for record in (outputs or {}).values():
        assert isinstance(record["output"], str) and type(record["choice"]) is int and record["choice"] >= 0
    folder = home / "features"
    folder.mkdir(exist_ok=True)
    for n in (0, 1):
        if not (folder / f"part-{n:05d}.safetensors").exists():
            save_file(dict(features=torch.full((2, 3, 4), float(n))), folder / f"part-{n:05d}.safetensors")
    (folder / "index.json").write_text(json.dumps(index))
    features = attempt(lambda: load_features(folder))
    for id, (part, row, *_) in (features.index["problems"] if features else {}).items():
        assert features(id).shape == features.shape == (3, 4) and features(id)[0, 0] == part and row in (0, 1)
    problems = [Problem(i, "?", ["a", "b"], 0) for i in "abc"]
    rows = read(lambda f: _named_rows(f, problems, 9), names)
    if rows is not None:
        assert rows == {i: int(names[i]) for i in "abc" if i in names} and all(
            0 <= r < 9 for r in rows.values()
        )


SMALL = dict(
    captions=dict(model="m", captions={"1": "a dog", "2": "a cat"}),
    published={"4": dict(output="So B.", choice=1), "5": dict(output="", choice=0)},
    index=dict(
        model="m",
        dtype="float32",
        shape=[3, 4],
        problems={"a": [0, 0, "x", "y"], "b": [0, 1, "x", ""], "c": [1, 0, "", ""]},
    ),
    names=dict(a=0, b="1", c=8),
)


@fuzz()
@given(**{name: changed(value) for name, value in SMALL.items()})
def test_captions_published_outputs_and_features(home, **given_files):
    try_small_files(home, **given_files)


# ---- pictures


def picture(mode, width, height, seed):
    "Random pixels in a mode of Pillow."
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    return (
        image
        if mode == "RGBA"
        else (
            image.convert("RGB").quantize(16)
            if mode == "P"
            else image.convert("RGB").convert(mode) if mode != "LA" else image.convert("LA")
        )
    )


KINDS = dict(
    PNG=["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    JPEG=["L", "RGB", "CMYK"],
    GIF=["1", "L", "P"],
    WEBP=["RGB", "RGBA"],
    BMP=["1", "L", "P", "RGB"],
    TIFF=["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"],
)
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def seen(image, mode):
    "What a person should see of a picture, computed by hand."
    if mode in ("I", "I;16"):
        return np.repeat(np.round(np.asarray(image).astype(float) / 257)[:, :, None], 3, 2)
    if mode == "F":
        return np.repeat(np.round(np.asarray(image).astype(float) * 255)[:, :, None], 3, 2)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    return rgba[:, :, :3] * rgba[:, :, 3:] / 255 + 255 - rgba[:, :, 3:]


@st.composite
def pictures(draw):
    kind = draw(st.sampled_from(list(KINDS)))
    mode = draw(st.sampled_from(KINDS[kind]))
    turn = draw(st.sampled_from([1, 1, *TURNS])) if kind != "GIF" and kind != "BMP" else 1
    image = picture(mode, draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(0, 99)))
    options = dict(
        clear=draw(st.booleans()) and mode == "P" and kind in ("PNG", "GIF"),
        film=draw(st.booleans()) and kind in ("GIF", "WEBP", "TIFF"),
    )
    damage = draw(st.sampled_from(["none", "none", "cut", "flip", "zeros", "drop", "double", "noise"]))
    return kind, mode, turn, image, options, damage, draw(st.floats(0, 1)), draw(st.integers(0, 7))


def damaged(data, how, where, bit):
    "The bytes of a file with a fault at some place."
    at = int(where * (len(data) - 1))
    data = bytearray(data)
    if how == "cut":
        return bytes(data[:at])
    if how == "flip":
        data[at] ^= 1 << bit
    if how == "zeros":
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    if how == "drop":
        del data[at : at + 5]
    if how == "double":
        data[at:at] = data[at : at + 20]
    if how == "noise":
        data[at : at + 16] = bytes((7 * at + 31 * i) % 256 for i in range(len(data[at : at + 16])))
    return bytes(data)


def try_picture(home, kind, mode, turn, image, options, damage, where, bit):
    path, settings = home / f"picture.{kind.lower()}", {}
    if turn > 1:
        settings["exif"] = Image.Exif()
        settings["exif"][0x0112] = turn
    if options["clear"]:
        settings["transparency"] = 0
    if options["film"]:
        settings |= dict(save_all=True, append_images=[image.transpose(Image.FLIP_LEFT_RIGHT)])
    if kind == "WEBP":
        settings["lossless"] = True
    image.save(path, kind, **settings)
    whole = np.asarray(open_image(path, "1")).astype(float)
    if kind != "JPEG":
        want = TURNS[turn](seen(Image.open(path) if options["clear"] else image, mode))
        assert whole.shape == want.shape and (
            options["film"] and kind == "WEBP" or np.abs(whole - want).max() <= 1.01
        ), (kind, mode)
    else:
        assert whole.shape == TURNS[turn](seen(image, mode)).shape
    if damage == "none":
        return
    path.write_bytes(damaged(path.read_bytes(), damage, where, bit))
    found = attempt(lambda: open_image(path, "1"))
    if found is None:
        return
    assert found.mode == "RGB"
    if kind == "PNG" or damage == "cut":
        assert np.array_equal(np.asarray(found), whole), (kind, mode, damage, where)


@fuzz()
@given(case=pictures())
def test_pictures(home, case):
    try_picture(home, *case)


@fuzz()
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [
                b"%!PS-Adobe-3.0 EPSF-3.0\n",
                b"%PDF-1.4\n",
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                b"P6\n1 1\n255\nabc",
            ]
        ),
        st.sampled_from(
            [
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff",
                b"GIF89a",
                b"RIFF\x10\0\0\0WEBP",
                b"BM",
                b"II*\0",
                b"MM\0*",
            ]
        ).flatmap(lambda head: st.binary(max_size=200).map(lambda rest: head + rest)),
    )
)
def test_bytes_that_are_no_picture(home, data):
    (home / "nothing.png").write_bytes(data)
    found = attempt(lambda: open_image(home / "nothing.png", "1"))
    assert found is None or found.mode == "RGB"


# ---- your own data, and the predictions of other models

OWN = [
    dict(
        id=f"q{i}", question=f"What is {i}?", choices=["ice", "lava", "tea"], answer=("B", 2, "tea")[i % 3],
        hint="h", image="0.png" if i < 2 else None, rationale="It is.", grade=2,
        split=("train", "dev", "test")[i % 3],
    )
    for i in range(6)
]
OWN_CSV = "id,question,A,B,C,answer,rationale\nq1,What?,ice,lava,tea,B,It is.\nq2,\"Who, me?\",1,2,,A,So.\n"
SAID = dict(acc=50.0, results={r["id"]: 1 for r in OWN}, outputs={r["id"]: "The answer is B." for r in OWN})


def own_file(home, name, data):
    "A file in a folder with a picture."
    if not (home/"own"/"0.png").exists(): draw_png(home/"own"/"0.png")
    (home/"own"/name).write_bytes(data)
    return home/"own"/name


@fuzz()
@given(records=changed(OWN), columns=st.just({}) | changed(dict(answer="answer", choices=["hint", "id"])))
def test_own_records(home, records, columns):
    path = own_file(home, "own.json", json.dumps(records).encode())
    if not isinstance(columns, dict): columns = {}
    for p in attempt(lambda: load_own(path, columns)) or []: check_problem(p)


@fuzz(FUZZ_EXAMPLES // 2)
@given(data=damaged_text(OWN_CSV))
def test_own_tables(home, data):
    path = own_file(home, "own.csv", data)
    for p in attempt(lambda: load_own(path, divide=False)) or []: check_problem(p)


@fuzz()
@given(said=changed(SAID) | changed(SAID["outputs"]) | changed([dict(id=r["id"], text="B") for r in OWN]))
def test_predictions(home, said):
    problems = load_own(own_file(home, "whole.json", json.dumps(OWN).encode()), divide=False)
    path = own_file(home, "said.json", json.dumps(said).encode())
    read = attempt(lambda: _read_predictions(path, problems))
    for p in problems if read else []:
        answer = _predicted_answer(read[p.id], p)
        assert answer is None or 0 <= answer < len(p.choices)
