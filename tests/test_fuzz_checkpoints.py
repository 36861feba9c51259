"Damaged checkpoints and adapters: each is refused in one sentence, or it is whole enough to be read."
import json, shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ares.training.answers import add_adapter
from ares.core.io import AresError, set_seed
from ares.students.loading import load_student
from conftest import FUZZ_EXAMPLES
from test_decoders import plain_t5

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 3, 7, 1.5, "", "x", "llama", "t5", [], [1], ["x"], {}, {"a": 1}]),
)
WAYS = st.sampled_from(
    ["field", "field", "field", "lost field", "cut", "lost", "empty", "bytes", "text", "list"]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Folders with a saved decoder, T5, model that sees, and an adapter on each of two."
    home, texts = tmp_path_factory.mktemp("whole"), ["The red ball is hot. Why? user assistant"]
    set_seed(0)
    small = dict(d_model=32, num_layers=1, vocab_size=300)
    for kind, sizes in (("t5", dict(num_decoder_layers=1)), ("decoder", {}), ("vlm", {})):
        load_student(small | sizes | dict(kind=kind), texts=texts).save(home/kind)
    for kind, base in (("adapter", str(home/"decoder")), ("fused", plain_t5(home/"plain"))):
        student = load_student(base)
        add_adapter(student, r=2, alpha=4, dropout=0.0, base=base)
        student.save(home/kind)
    return home


def damage(path, way, place, key, value):
    "Spoil a file."
    data = path.read_bytes()
    if way == "lost": return path.unlink()
    if way == "empty": return path.write_bytes(b"")
    if way == "cut": return path.write_bytes(data[:place % max(1, len(data))])
    if way == "text": return path.write_text("not what it should be\n")
    if way == "list": return path.write_text("[]")
    if path.suffix == ".json" and way != "bytes":
        found = json.loads(data)
        name = sorted(found)[key % len(found)]
        if way == "field": found[name] = value
        else: found.pop(name)
        return path.write_text(json.dumps(found))
    start = place % max(1, min(len(data), 2000))  # the head of weights; a number among them could be any
    path.write_bytes(data[:start] + b"\xff\x00{" + data[start + 3:])


@settings(
    max_examples=FUZZ_EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(["t5", "decoder", "vlm", "adapter", "fused", "plain"]), st.integers(0, 30), WAYS,
       st.integers(0, 10**6), st.integers(0, 200), VALUES)
def test_a_damaged_checkpoint_has_its_sentence(whole, kind, file, way, place, key, value):
    there = whole/"damaged"
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(whole/kind, there)
    files = sorted(p for p in there.iterdir() if p.is_file())
    damage(files[file % len(files)], way, place, key, value)
    try: student = load_student(str(there))
    except AresError as refused:
        assert len(str(refused)) <= 300 and "\n" not in str(refused), str(refused)
        return
    try: inputs = student.inputs(["Why?"], [None])
    except AresError: return
    assert torch.isfinite(student.generate(inputs, max_new_tokens=2)[1]).all()


def test_a_t5_without_its_tokenizer_config_is_refused(whole, tmp_path):
    shutil.copytree(whole/"t5", tmp_path/"t5")
    (tmp_path/"t5"/"tokenizer_config.json").unlink()
    with pytest.raises(AresError, match="tokenizer_config.json or config.json is missing or damaged"):
        load_student(str(tmp_path/"t5"))


@pytest.mark.parametrize("start", [None, -1, 3, False])
def test_a_t5_that_does_not_start_from_padding_is_refused(whole, tmp_path, start):
    shutil.copytree(whole/"t5", tmp_path/"t5")
    config = json.loads((tmp_path/"t5"/"config.json").read_text())
    (tmp_path/"t5"/"config.json").write_text(json.dumps(config | dict(decoder_start_token_id=start)))
    with pytest.raises(AresError, match="decoder_start_token_id"):
        load_student(str(tmp_path/"t5"))
