"Parameter files with faults: each gets one sentence, and none is taken for something else."
import io, json, math, typing
from contextlib import redirect_stderr
from dataclasses import asdict, fields

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from ares.core.io import AresError
from ares.pipeline.config import ARESConfig, CHOICES, load_config, notebook_config
from ares.pipeline.build import make_student
from conftest import FUZZ_EXAMPLES

FUZZ = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))
KINDS = typing.get_type_hints(ARESConfig)
NAMES = [f.name for f in fields(ARESConfig)]
BASE = dict(train_problems=24, val_problems=8, test_problems=8, device="cpu", rl_lr=1e-4, rounds=1, seed=3)
WORDS = {False: ("no", "off", "false"), True: ("yes", "on", "true")}

ODD_NUMBERS = st.sampled_from([0, -1, 1, 2, 2**31, 2**32 - 1, 2**32, 2**64, 10**30, 10**400, -10**400, 0.5,
                               1e308, 1e-320, -0.0,
                               math.inf, -math.inf, math.nan, True, False])
ODD_TEXTS = st.sampled_from(["", " ", "no", "yes", "off", "true", "null", ".inf", "nan", "1e999", "2e-5",
                             "1_0", "0x10", "auto", "cpu:x", "cuda:99999",
                             "../..", "/", "/dev/null", "a/b", "x" * 300, "x" * 100_000, "\n", "a\nb", "\t",
                             "é", "答", "\u202e", "{0}", "%s", "$HOME",
                             "<script>", "'", '"', "facts", "claude", "local", "openai", "reference",
                             "scienceqa", "mmmu"])
SCALARS = st.one_of(ODD_NUMBERS, ODD_TEXTS, st.none(), st.text(max_size=12), st.integers(), st.floats(),
                    st.booleans())
KEYS = st.text(max_size=8) | st.integers(-2, 9)
VALUES = st.recursive(SCALARS, max_leaves=6, extend=lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)))
SIZE_NAMES = ("kind d_model d_ff num_layers num_decoder_layers num_heads vocab_size image_heads image_size "
              "patch dropout_rate feed_forward_proj vision_layers d_modle").split()
SIZES = st.dictionaries(st.sampled_from(SIZE_NAMES),
                        st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 24, 32, 64, 300, 600, -1, 0.1, 1.0, 10**9,
                                         True, None, "8", "t5", "decoder", "vlm", "relu",
                                         "gated-gelu", "gated", [], math.nan]), max_size=6)
PRICES = st.dictionaries(st.sampled_from(["claude-haiku-4-5", "gpt-4o", ""]) | st.integers(0, 2),
                         st.lists(SCALARS, max_size=4) | SCALARS, max_size=2)


@st.composite
def changes(draw):
    "A few settings with values that may be odd; sometimes names that are none."
    odd_names = st.sampled_from(["rl_Ir", "need_data", "source", "params", "", "Seed", "x" * 1000, "é"])
    names = st.sampled_from(NAMES) | st.sampled_from(["student", "prices"])
    found = {}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(names) if draw(st.integers(0, 9)) else draw(odd_names | st.text(max_size=6))
        own = dict(student=SIZES, prices=PRICES).get(name, st.sampled_from(CHOICES.get(name, [0, 1])))
        found[name] = draw(VALUES | own | own)
    return found


def may_stand(name, value):
    "Whether a value can be meant for a setting, as far as its type says; shares no code with the reader."
    kind = KINDS.get(name)
    if kind is None: return False
    if kind is bool and isinstance(value, str): return value.lower() in WORDS[False] + WORDS[True]
    if kind is str and isinstance(value, bool): return bool({*WORDS[value]} & {*CHOICES.get(name, ())})
    if kind is int: return type(value) is int and abs(value) < 2**32
    if kind is float:
        try: return not isinstance(value, bool) and math.isfinite(float(value))
        except (TypeError, ValueError, OverflowError): return False
    names = value if isinstance(value, dict) else ()
    return isinstance(value, kind) and all(isinstance(key, str) for key in names)


def outcome(read):
    "What came of reading settings: the settings, or None where they were refused in one sentence."
    with redirect_stderr(io.StringIO()):  # notes
        try: return read()
        except AresError as e:
            assert len(str(e)) <= 300 and "\n" not in str(e), f"not one short sentence: {str(e)[:400]!r}"


def sound(config, given):
    "Raise when settings that were taken are not those that were given."
    for name, value in given.items():
        assert may_stand(name, value), f"{name}: {value!r} was taken for {getattr(config, name, None)!r}"
        found = getattr(config, name)
        if type(found) is type(value): assert found == value
        if isinstance(found, float): assert math.isfinite(found) and found == float(value)
    assert load_config(json.loads(json.dumps(asdict(config)))) == config  # as a run keeps them


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("params")/"x.yaml"


@FUZZ
@given(changed=changes())
def test_odd_values_are_refused_or_meant(place, changed):
    values = BASE | changed
    config = outcome(lambda: load_config(values))
    if config: sound(config, values)


@FUZZ
@given(changed=changes())
def test_odd_values_in_a_file_are_refused_or_meant(place, changed):
    try: place.write_text(yaml.safe_dump(BASE | changed, allow_unicode=True), encoding="utf-8")
    except (UnicodeEncodeError, ValueError): return  # no file can hold them
    config = outcome(lambda: load_config(place))
    if config:
        sound(config, BASE | {k: v for k, v in changed.items() if may_stand(k, v) or not isinstance(v,
                                                                                                    float)})


@FUZZ
@given(changed=changes())
def test_odd_values_in_a_notebook_are_refused_or_meant(changed):
    names = [name for name in changed if name.isidentifier() and not name.startswith("_")]
    values = BASE | {name: changed[name] for name in names}
    config = outcome(lambda: notebook_config(dict(values, run="runs/x", stage="rl-1", st=st, In=[], Out={})))
    if config: sound(config, {name: value for name, value in values.items() if name != "params"})


TEXT = yaml.safe_dump(BASE) + "student: {d_model: 32, num_heads: 2}\nlora: false\nskills: magnets chart\n"
PIECES = ["seed: 5", "rl_lr: 2", "? [1]\n: 2", "1: 2", "null: 3", "~: x", "[a]: 1", "{a: 1}: 2", "a: &x [1]",
          "b: *x", "rounds: &r 2", "sft_epochs: *r",
          "<<: {seed: 7}", "---", "...", "%YAML 1.1", "!!python/object/apply:os.system [echo]",
          "x: !!python/name:os.system", "seed: !!int x",
          "lora: !!bool maybe", "rl_lr: !!float ''", "data: !!timestamp x", "data: !!binary '*'",
          "data: 2024-13-45", "data: 2024", "data: 2024-05-01",
          "seed: 042", "seed: 1:30", "seed: " + "9" * 5000, "mixed_precision: no", "mixed_precision: yes",
          "prices: {a: [1, 2, 3]}", "skills: |\n  magnets\n",
          "student: {d_model: 32, d_model: 64}", "student: " + "[" * 3000, "student: " + "{a: " * 2000, "\t",
          "- 1", "x", ":", "'", '"', "#", "é: 1", "\0",
          "\x1b", "\ufeff", "\u2028", "data: \"\\ud800\"", "data: \"\\0\"", "data: \"\\x1b[31m\"",
          "data: " + "x" * 50_000]


@st.composite
def files(draw):
    "The bytes of a parameter file with something wrong, or nothing."
    lines = TEXT.splitlines()
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.integers(0, len(lines)))
        lines.insert(where, draw(st.sampled_from(PIECES) | st.sampled_from(lines)))
    text = "\n".join(lines) + "\n"
    for _ in range(max(0, draw(st.integers(-2, 2)))):
        start = draw(st.integers(0, min(len(text), 2000)))
        piece = draw(st.text(max_size=3) | st.sampled_from("{}[]:&*!|>%@`'\"#-\t"))
        text = text[:start] + piece + text[start + draw(st.integers(0, 4)):]
    encoding = draw(st.sampled_from(["utf-8"] * 12 + ["latin-1", "utf-16", "utf-16-le", "utf-32",
                                                      "utf-8-sig", "utf-7"]))
    data = text.encode(encoding, "replace")
    for _ in range(max(0, draw(st.integers(-3, 1)))):
        start = draw(st.integers(0, min(len(data), 2000)))
        data = data[:start] + draw(st.binary(max_size=3)) + data[start:]
    return data[:draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def keys_twice(data):
    "Whether plain lines give a setting twice; blocks are left out."
    try: lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError: return False
    names = [line.split(":")[0] for line in lines if ": " in line and line.split(":")[0] in NAMES]
    return len(names) > len(set(names))


@FUZZ
@given(data=files())
def test_faulty_files_are_refused_or_meant(place, data):
    place.write_bytes(data)
    config = outcome(lambda: load_config(place))
    if config is None: return
    plain = yaml.safe_load(data)  # as others read it
    assert isinstance(plain or {}, dict) and not keys_twice(data), "a setting that is given twice was taken"
    for name, value in (plain or {}).items():
        if isinstance(value, (int, float)) and KINDS[name] in (int, float):
            assert getattr(config, name) == value


@settings(FUZZ, max_examples=max(FUZZ_EXAMPLES // 10, 20))
@given(sizes=SIZES, images=st.booleans())
def test_a_student_whose_sizes_are_taken_can_be_made_and_asked(sizes, images):
    import torch
    from ares.data.synthetic import make_problems
    from ares.data.prompts import rationale_prompt
    from ares.training.rollouts import generate_rollouts
    config = outcome(lambda: load_config(BASE | dict(student=sizes, use_images=images, max_new_tokens=2)))
    numbers = {name: value for name, value in sizes.items() if type(value) is int and name != "vocab_size"}
    large = [name for name, value in numbers.items() if value > 64]
    if config is None or large: return
    problems = [p for p in make_problems(24, split="train", seed=0) if p.has_image][:2]
    torch.manual_seed(0)
    student = make_student(config, problems)
    rollouts = generate_rollouts(student, problems, [rationale_prompt(p) for p in problems], num_samples=1,
                                 max_new_tokens=2)
    assert len(rollouts) == 2
