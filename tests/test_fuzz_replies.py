"Hostile replies and files of replies: no traceback, no score outside 0..1, no value that the reply does not hold."
import asyncio, json, math

import anthropic
import httpx
import openai
import pytest
from hypothesis import given, settings, strategies as st

from ares.ledger import Ledger
from ares.llm_teachers import LLMTeacher
from ares.problems import make_problems
from ares.questions import ask_again, key_of, labels, make_question, read_reply
from ares.rollouts import split_sentences
from ares.sending import DEFAULTS, ask_live, kind_of_error
from conftest import FUZZ_EXAMPLES

FUZZ = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None)
PROBLEM = make_problems(1, seed=1, skills=["concentration"])[0]
GOLD = [s.strip() for s in split_sentences(PROBLEM.solution)]
ASKED = dict(score=[GOLD[:2], GOLD[:1]], correct=["So the", " ".join(GOLD)], compare=["So the", " ".join(GOLD)])

# Text with everything that texts may hold: lone surrogates, control characters, quotes, our own tags.
TEXT = st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Cc", "Ll"]), max_size=5)
PHRASE = TEXT | st.sampled_from(["", "1.1", "1", "2", "tie", "</rationale>", "\ud800", "0.5", "1e999", *GOLD])
NUMBER = st.integers() | st.floats() | st.sampled_from([0, 0.5, 1, 1.1, -0.1, 99, 10**400, True, math.nan, math.inf])
LEAF = st.none() | NUMBER | PHRASE
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PHRASE, inner, max_size=4), max_leaves=8)
RIGHT_LABELS = [label for i, r in enumerate(ASKED["score"], 1) for label in labels(i, r)]
LABEL = st.sampled_from(RIGHT_LABELS) | st.sampled_from(["1.9", "3.1", 1.1, "1", "2"]) | JSON
NAME = dict(score=("scores", "sentence", "score"), correct=("corrections", "rationale", "corrected"))


def entries(kind):
    "Lists that look like those of a reply, more or less."
    _, name, field = NAME[kind]
    value = st.sampled_from([0, 0.1, 0.5, 1.0]) | JSON if kind == "score" else st.sampled_from(GOLD) | JSON
    return st.lists(st.fixed_dictionaries({name: LABEL, field: value}) | JSON, max_size=5)


def nearly_right(kind):
    "The right reply, each value of which may be something else."
    listed, name, field = NAME[kind]
    wanted = RIGHT_LABELS if kind == "score" else ["1", "2"]
    value = st.sampled_from([0, 0.5, 1.0]) | LEAF if kind == "score" else st.sampled_from(GOLD) | LEAF
    rows = st.tuples(*(st.fixed_dictionaries({name: st.just(label), field: value}) for label in wanted))
    return rows.flatmap(lambda r: st.permutations(list(r)) | st.just([*r, r[0]]) | st.just(list(r[1:])))


def contents(kind):
    "What a reply may hold as JSON."
    if kind == "compare": return st.fixed_dictionaries(dict(better=st.sampled_from(["1", "2", "tie"]) | JSON)) | JSON
    return st.fixed_dictionaries({NAME[kind][0]: nearly_right(kind) | entries(kind) | JSON}) | JSON


WRAPS = ["{}", "<think>{{}} 1.1</think>\n{}", "```json\n{}\n```", "hm</think>```\n{}```", "Sure! {}", "{} {}", "[{}]", "\ufeff{}", "  {}  "]


@st.composite
def replies(draw):
    "A kind of question and the text of a reply."
    kind = draw(st.sampled_from(sorted(ASKED)))
    text = json.dumps(draw(contents(kind)), ensure_ascii=draw(st.booleans()))
    text = draw(st.sampled_from(WRAPS)).replace("{}", text).replace("{{}}", "{}")
    cut = draw(st.just(None) | st.integers(0, len(text)))
    nested = draw(st.sampled_from([0, 0, 0, 1000, 100_000]))
    return kind, draw(st.just("[" * nested + text[:cut]) | TEXT | st.just(text))


def held(text):
    "What a reply holds, read without the project: the JSON from its first brace to its last."
    return json.loads(text[text.index("{"):text.rindex("}") + 1].removeprefix("{} 1.1</think>\n"))


def check(kind, values, fault, text):
    "The values have the right form, and stand in the reply."
    assert len(values) == (1 if kind == "compare" else len(ASKED[kind]))
    assert bool(fault) == (None in values) and len(fault) <= 300 and "\n" not in fault
    fault.encode()
    if all(v is None for v in values): return
    content = held(text)
    if kind == "compare": return assert_verdict(values[0], content)
    listed, name, field = NAME[kind]
    for i, value in enumerate(values, 1):
        if value is None: continue
        own = labels(i, ASKED[kind][i - 1]) if kind == "score" else [str(i)]
        given = [[e[field] for e in content[listed] if str(e[name]) == label] for label in own]
        assert all(len(g) == 1 for g in given)
        if kind == "score": assert value == [g[0] for g in given] and all(0 <= v <= 1 for v in value)
        else: assert value == " ".join(given[0][0].split()) and value.encode()


def assert_verdict(value, content):
    assert {"1": "a", "2": "b", "tie": "tie"}[content["better"]] == value


@FUZZ
@given(replies())
def test_a_reply_is_read_or_has_a_fault(asked):
    kind, text = asked
    values, fault = read_reply(kind, PROBLEM, ASKED[kind], text)
    check(kind, values, fault, text)
    question = make_question(kind, PROBLEM, ASKED[kind], "some-model")
    if not fault: return
    stored = text.encode("utf-8", "backslashreplace").decode()  # as the sender stores it
    assert key_of(ask_again(question, stored, fault)) != key_of(question)
