"Hostile replies and files of replies: no traceback, no score that the reply does not hold."
import asyncio, json, math, sys
from collections import Counter

import anthropic
import openai
import pytest
from hypothesis import event, given, settings, strategies as st

from ares.teachers import mock_server as stand_in
from ares.core.io import AresError, data_folder, write_jsonl
from ares.data.datasets import load_scienceqa
from ares.teachers.ledger import Ledger
from ares.teachers.llm import ClaudeTeacher, LLMTeacher, OpenAIJudge
from ares.data.problem import Problem
from ares.data.synthetic import make_problems
from ares.teachers.requests import ask_again, item_keys, key_of, labels, make_question, problem_block
from ares.teachers.requests import read_exported, read_reply
from ares.data.sentences import split_sentences
from ares.teachers.sender import DEFAULTS, ask_live, _kind_of_error
from ares.teachers.offline import FactTeacher
from conftest import FUZZ_EXAMPLES

FUZZ = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None)
PROBLEM = make_problems(1, seed=1, skills=["concentration"])[0]
GOLD = [s.strip() for s in split_sentences(PROBLEM.solution)]
WHOLE = " ".join(GOLD)
ASKED = dict(score=[GOLD[:2], GOLD[:1]], correct=["So the", WHOLE], compare=["So the", WHOLE])

# Text with everything that texts may hold: lone surrogates, control characters, quotes, our own tags.
TEXT = st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Cc", "Ll"]), max_size=5)
PHRASE = TEXT | st.sampled_from(["", "1.1", "1", "2", "tie", "</rationale>", "\ud800", "0.5", "1e999", *GOLD])
NUMBER = st.integers() | st.floats()
NUMBER |= st.sampled_from([0, 0.5, 1, 1.1, -0.1, 99, 10**400, True, math.nan, math.inf])
LEAF = st.none() | NUMBER | PHRASE
def holding(inner): return st.lists(inner, max_size=4) | st.dictionaries(PHRASE, inner, max_size=4)


JSON = st.recursive(LEAF, holding, max_leaves=8)
RIGHT_LABELS = [label for i, r in enumerate(ASKED["score"], 1) for label in labels(i, r)]
LABEL = st.sampled_from(RIGHT_LABELS) | st.sampled_from(["1.9", "3.1", 1.1, "1", "2"]) | JSON
NAME = dict(score=("scores", "sentence", "score"), correct=("corrections", "rationale", "corrected"))


def right_content(kind):
    "What a right reply holds."
    if kind == "compare": return st.fixed_dictionaries(dict(better=st.sampled_from(["1", "2", "tie"])))
    listed, name, field = NAME[kind]
    wanted, value = (RIGHT_LABELS, [0, 0.5, 1.0]) if kind == "score" else (["1", "2"], GOLD)
    rows = [st.fixed_dictionaries({name: st.just(label), field: st.sampled_from(value)}) for label in wanted]
    return st.tuples(*rows).flatmap(st.permutations).map(lambda rows: {listed: rows})


def odd_content(kind):
    "What looks like a reply, more or less."
    if kind == "compare": return st.fixed_dictionaries(dict(better=JSON)) | JSON
    listed, name, field = NAME[kind]
    value = st.sampled_from([0, 0.5, 1.0]) if kind == "score" else st.sampled_from(GOLD)
    rows = st.lists(st.fixed_dictionaries({name: LABEL, field: value | JSON}) | JSON, max_size=5)
    return st.fixed_dictionaries({listed: rows | JSON}) | JSON


@st.composite
def spoilt_content(draw, kind):
    "A right reply in which one row is changed, doubled or left out."
    content = draw(right_content(kind))
    if kind == "compare": return content
    listed, name, field = NAME[kind]
    rows, place = content[listed], draw(st.integers(0, len(content[listed]) - 1))
    change = draw(st.sampled_from(["value", "label", "twice", "gone", "row"]))
    if change == "value": rows[place] = rows[place] | {field: draw(JSON)}
    if change == "label": rows[place] = rows[place] | {name: draw(LABEL)}
    if change == "twice": rows.append(rows[place])
    if change == "gone": rows.pop(place)
    if change == "row": rows[place] = draw(JSON)
    return content


WRAPS = ["@", "@", "@", "@", "<think>{@} 1.1</think>\n@",
         "```json\n@\n```", "hm</think>```\n@```", "Sure! @", "@ @", "[@]", "\ufeff@", " @ "]


@st.composite
def replies(draw):
    "A kind of question, the text of a reply, and what it holds (None where the text was damaged)."
    kind = draw(st.sampled_from(sorted(ASKED)))
    content = draw(right_content(kind) | spoilt_content(kind) | odd_content(kind))
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    whole = draw(st.sampled_from(WRAPS)).replace("@", text)
    damage = draw(st.sampled_from(["", "", "", "", "cut", "nested", "other"]))
    if damage == "cut": return kind, whole[:draw(st.integers(0, len(whole)))], content
    if damage == "nested": return kind, "[" * draw(st.sampled_from([100, 1000, 100_000])) + whole, None
    return (kind, draw(TEXT), None) if damage else (kind, whole, content)


def check(kind, values, fault, content):
    "The values have the right form, and are what the reply holds."
    assert len(values) == (1 if kind == "compare" else len(ASKED[kind]))
    assert bool(fault) == (None in values) and len(fault) <= 300 and fault.isprintable()
    if kind == "compare": return values == [None] or assert_verdict(values[0], content)
    listed, name, field = NAME[kind]
    for i, value in enumerate(values, 1):
        if value is None: continue
        own = labels(i, ASKED[kind][i - 1]) if kind == "score" else [str(i)]
        rows = [[row[field] for row in content[listed] if str(row[name]) == label] for label in own]
        given = [row for row, in rows]  # each label once
        if kind == "score": assert value == given and all(0 <= v <= 1 for v in value)
        else: assert [value] == [" ".join(text.split()) for text in given] and value.encode()


def assert_verdict(value, content):
    assert {"1": "a", "2": "b", "tie": "tie"}[content["better"]] == value


@FUZZ
@given(replies())
def test_a_reply_is_read_or_has_a_fault(asked):
    kind, text, content = asked
    values, fault = read_reply(kind, PROBLEM, ASKED[kind], text)
    event(f"{kind}: {sum(v is not None for v in values)} values")
    check(kind, values, fault, content)
    stored = text.encode("utf-8", "backslashreplace").decode()  # as the sender stores it
    question = make_question(kind, PROBLEM, ASKED[kind], "some-model")
    assert key_of(ask_again(question, stored, fault)) != key_of(question)


COUNTS = ["input_tokens", "output_tokens", "cache_read_input_tokens", "prompt_tokens", "completion_tokens"]
USAGE = st.dictionaries(st.sampled_from(COUNTS), JSON | st.integers(0, 500)) | JSON
KIND = st.sampled_from(["text", "thinking", "tool_use"])
PART = st.fixed_dictionaries(dict(type=KIND | JSON, text=PHRASE | JSON)) | JSON
CONTENT = st.lists(PART, max_size=4) | PHRASE | JSON


@st.composite
def messages(draw):
    "A body as the Messages API might send it."
    body = dict(id="msg_1", type="message", role="assistant", model="m", content=draw(CONTENT),
                stop_reason=draw(PHRASE | JSON), usage=draw(USAGE))
    left = draw(st.sampled_from([None, None, "id", "type", "content", "stop_reason", "usage"]))
    return {k: v for k, v in body.items() if k != left}


@st.composite
def completions(draw):
    "A body as a server of chat completions might send it."
    said = dict(role=st.just("assistant"), content=CONTENT, refusal=st.none() | JSON)
    message, reason = draw(st.fixed_dictionaries(said) | JSON), draw(st.just("stop") | JSON)
    choice = dict(index=0, finish_reason=reason, message=message)
    choices = draw(st.just([choice]) | JSON)
    body = dict(id="1", object="chat.completion", created=1, model="m", choices=choices, usage=draw(USAGE))
    left = draw(st.sampled_from([None, None, "id", "choices", "usage"]))
    return {k: v for k, v in body.items() if k != left}


def answered(provider, body):
    "What the sender makes of a body that a server sends."
    sdk = openai if provider == "openai" else anthropic
    make = openai.AsyncOpenAI if provider == "openai" else anthropic.AsyncAnthropic
    http = sys.modules[sdk.DefaultAsyncHttpxClient.__mro__[1].__module__]  # the HTTP library of this SDK
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    reply = http.Response(200, content=data, headers=headers)
    web = http.AsyncClient(transport=http.MockTransport(lambda request: reply))
    client = make(api_key="none", base_url="http://localhost", max_retries=0, http_client=web)
    question = make_question("score", PROBLEM, ASKED["score"], "claude-haiku-5-5")
    options = DEFAULTS | dict(provider=provider, base_url="http://localhost")
    return asyncio.run(ask_live(client, question, None, options))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory): return Ledger(tmp_path_factory.mktemp("fuzz")/"ledger.sqlite")


@FUZZ
@given(st.tuples(st.just("anthropic"), messages() | JSON) |
       st.tuples(st.just("openai"), completions() | JSON))
def test_whatever_a_server_sends_can_be_kept_and_read(ledger, sent):
    provider, body = sent
    try: text, stop, tokens, _ = answered(provider, body)
    except Exception as error:
        event(f"{provider}: {type(error).__name__}")
        assert _kind_of_error(error) == "passing" and not isinstance(body, dict), error
        return
    event(f"{provider}: answered")
    assert set(tokens) == {"tokens_in", "tokens_cached", "tokens_written", "tokens_out"}
    assert all(type(n) is int and 0 <= n < 1e9 for n in tokens.values())
    key = ledger.queue(make_question("score", PROBLEM, ASKED["score"], "some-model"), provider, [])
    ledger.store(key, text, stop, tokens, 0.0)
    row = ledger.rows("select * from questions")[0]
    assert (row["reply"], row["stop"]) == (text, stop)
    values, fault = read_reply("score", PROBLEM, ASKED["score"], row["reply"], row["stop"])
    assert bool(fault) == (None in values)


PROBLEMS = {problem_block(p, "answer"): p for p in make_problems(30, seed=3)}  # no two with the same text
PROBLEMS = list(PROBLEMS.values())
RATIONALES = [[s.strip() for s in split_sentences(p.solution)] for p in PROBLEMS]
PAIRS = list(zip(PROBLEMS, RATIONALES))


@pytest.fixture
def reach(monkeypatch):
    "Point the SDKs to a server."
    def to(server):
        for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"): monkeypatch.setenv(name, "none")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        return server
    return to


ODD_BODIES = [dict(content=5), dict(content=None), dict(content="text"), dict(content=[5, None]),
              dict(content=[dict(type="text", text=[])]),
              dict(content=[dict(type="text", text="[" * 100_000)]),
              dict(content=[dict(type="text", text="\ud800")]), dict(content={}),
              dict(content=[dict(type="text", text='{"scores": [{"sentence": [], "score": 1}]}')]),
              dict(stop_reason=[])]
GOOD_BODIES = [dict(usage=None), dict(usage="free"), dict(usage=dict(input_tokens="12", output_tokens=-3)),
               dict(usage=dict(input_tokens=1e300))]


def thoughtful(body):
    "A reply with thoughts before it, in two parts."
    text = body["content"][0]["text"]
    return [dict(type="text", text="<think>{So}</think>" + text[:10]), dict(type="text", text=text[10:])]


@pytest.mark.timeout(120)
def test_a_run_outlives_odd_replies(tmp_path, reach, monkeypatch):
    "Odd replies are asked once more; odd usage, parts and thoughts do no harm; a new start reads the same."
    blocks, seen = [problem_block(p, "answer") for p in PROBLEMS], Counter()
    odd_of = dict(zip(blocks, [*ODD_BODIES, *GOOD_BODIES]))
    real = stand_in._as_message
    def _as_message(body, reply):
        good, text = real(body, reply), body["messages"][0]["content"][-1]["text"]
        odd = next((odd for start, odd in odd_of.items() if text.startswith(start)), None)
        seen[text] += 1
        if odd is None: return good | dict(content=thoughtful(good))
        return good | (odd if seen[text] == 1 or odd in GOOD_BODIES else {})
    monkeypatch.setattr(stand_in, "_as_message", _as_message)
    with reach(stand_in.MockServer(PROBLEMS, FactTeacher())):
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
        values = teacher.values("score", PAIRS)
        teacher.sender.stop()
    assert values == [FactTeacher().score(p, r) for p, r in PAIRS]
    again = ClaudeTeacher(tmp_path/"ledger.sqlite", send="replay")
    assert again.values("score", PAIRS) == values
    assert again.ledger.totals()["asked again"].sum() == len(ODD_BODIES) - 1  # an odd reason to stop is none


@pytest.mark.timeout(120)
@pytest.mark.parametrize("takes", [["json_object", "text"], ["text"]])
def test_a_server_without_json_schema_is_asked_in_another_form(takes, tmp_path, reach, monkeypatch):
    forms = Counter()
    def _refusal(body, key):
        form = body["response_format"]["type"]
        forms[form] += 1
        return None if form in takes else (400, "invalid_request_error", f"{form} is not available")
    monkeypatch.setattr(stand_in, "_refusal", _refusal)
    with reach(stand_in.MockServer(PROBLEMS, FactTeacher())) as server:
        judge = OpenAIJudge(tmp_path/"ledger.sqlite", base_url=f"{server.url}/v1", concurrency=1)
        values = judge.values("score", PAIRS)
        judge.sender.stop()
    assert values == [FactTeacher().score(p, r) for p, r in PAIRS]
    assert forms == {form: 1 for form in ("json_schema", "json_object")} | {takes[0]: len(PAIRS)}


QUESTIONS = [make_question(kind, PROBLEM, rationales, "some-model") for kind, rationales in ASKED.items()]
REPLIES = [dict(scores=[dict(sentence=label, score=0.5) for label in RIGHT_LABELS]),
           dict(corrections=[dict(rationale=n, corrected=GOLD[0]) for n in "12"]), dict(better="tie")]


def exported(question, reply):
    "A line of an exported ledger."
    values, _ = read_reply(question["kind"], PROBLEM, question["rationales"], json.dumps(reply))
    keys = item_keys(question)
    items = [[key, place, json.dumps(value), 1] for place, (key, value) in enumerate(zip(keys, values))]
    names = ("kind", "version", "model")
    counts = dict.fromkeys(["tokens_in", "tokens_cached", "tokens_written", "tokens_out"], 1)
    return dict(key=key_of(question), provider="anthropic", stage="rl-1", about="1", question=question,
                attempt=1, stop="end_turn", reply=json.dumps(reply), price=0.01, answered_at=1.0, seconds=1.0,
                fault="", items=items, **counts,
                **{name: question[name] for name in names})


LINES = [exported(question, reply) for question, reply in zip(QUESTIONS, REPLIES)]


@st.composite
def files(draw):
    "The bytes of an exported file in which one thing is changed."
    lines = json.loads(json.dumps(LINES))
    line = lines[draw(st.integers(0, 2))]
    inner = draw(st.sampled_from([line["question"], line["items"][0], line["items"]]))
    place = line if draw(st.booleans()) else inner
    name = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    change = draw(st.sampled_from(["value", "value", "gone", "line", "cut", "text", "bytes"]))
    odd = JSON | st.sampled_from([99, -1, "[99]", "[NaN]", "[0.5]", "null", '"b"', 2])
    if change == "value": place[name] = draw(odd)
    if change == "gone": place.pop(name)
    if change == "line": lines[draw(st.integers(0, 2))] = draw(JSON)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    marks = st.sampled_from(["0.5", "tie", "1.1", "}", '"', "neither"])
    if change == "text": text = text.replace(draw(marks), draw(TEXT), 1)
    data = text.encode("utf-8", "replace")
    if change == "bytes": data = data.replace(b"0", draw(st.binary(max_size=2)), 1)
    return data[:draw(st.integers(0, len(data)))] if change == "cut" else data


@FUZZ
@given(files())
def test_a_file_of_replies_is_taken_whole_or_not_at_all(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp()/"fuzzed.jsonl"
    path.write_bytes(data)
    try: records = read_exported(path)
    except AresError as error:
        assert len(str(error)) <= 300 and str(error).isprintable()
        return event("refused")
    event("taken")
    for record in records:
        rationales = record["question"]["rationales"]
        values, _ = read_reply(record["kind"], None, rationales, record["reply"], record["stop"])
        assert record["key"] == key_of(record["question"]) and record["price"] >= 0
        for key, place, value, settled in record["items"]:
            assert key == item_keys(record["question"])[place]
            assert (json.loads(value) == values[place] is not None) if settled else value is None


def test_a_faulty_file_leaves_a_ledger_as_it_was_and_a_good_one_answers(tmp_path):
    path, ledger = tmp_path/"replies.jsonl", Ledger(tmp_path/"ledger.sqlite")
    path.write_text("".join(json.dumps(line) + "\n" for line in [*LINES, LINES[0] | dict(price=-1)]))
    with pytest.raises(AresError, match="line 4: its `price`"): ledger.import_jsonl(path)
    assert not ledger.rows("select * from questions") and not ledger.rows("select * from items")
    write_jsonl(path, LINES)
    assert ledger.import_jsonl(path) == 3
    teacher = ClaudeTeacher.__new__(ClaudeTeacher)
    LLMTeacher.__init__(teacher, ledger.path, "some-model", send="replay")
    teacher.picture = lambda problem: ""
    asked = [(PROBLEM, rationale) for rationale in ASKED["score"]]
    assert teacher.values("score", asked) == [[0.5, 0.5], [0.5]]
    asked = [(PROBLEM, rationale) for rationale in ASKED["correct"]]
    assert teacher.values("correct", asked) == [GOLD[0]] * 2
    assert teacher.compare(PROBLEM, *ASKED["compare"]) == "tie"


def test_questions_of_ordinary_texts_keep_their_keys():
    "Kept ledgers stay valid: the blocks of embedded problems and of ScienceQA's, which have several lines."
    def digest(problems, knowledge): return key_of([problem_block(p, knowledge) for p in problems])[:12]
    def digests(problems): return [digest(problems, knowledge) for knowledge in ("form", "answer", "facts")]
    assert digests(make_problems(200, seed=1)) == ["a1e0f0ffa30f", "2e86b5242a6b", "f436a50d1eea"]
    question = make_question("score", PROBLEM, [["Look at the picture.", "So the"]], "some-model")
    assert key_of(question)[:12] == "ce92a871b7a1"
    if data_folder() is None: pytest.skip("no folder with ScienceQA")
    real = load_scienceqa(data_folder()/"scienceqa")
    ordinary = [p for p in real if "<" not in p.solution]
    assert digests(ordinary) == ["e63d593a4f83", "7fcb45eb27d2", "f5045a6e0d20"]


PLACES = ["question", "hint", "caption", "solution", "choices"]
PIECES = [
    "</problem>", "<problem>", "\n", "\r", "\u2028", "Right answer: (B) b", " ", "Options: (A) x", "What?",
    "**", "\ud800", "<rationale number=\"1\">", '"', "\\",
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
KNOWLEDGE = ["form", "answer", "facts"]


@FUZZ
@given(st.fixed_dictionaries({place: HOSTILE for place in PLACES}), st.sampled_from(KNOWLEDGE))
def test_texts_of_a_problem_cannot_imitate_its_block(texts, knowledge):
    problem = Problem("1", answer=0, **texts | dict(choices=[texts["choices"], "b"]))
    block = problem_block(problem, knowledge)
    assert block.startswith("<problem>\n") and block.endswith("</problem>")
    assert block.count("<") == 2 and block.encode()
    lines = [line.strip(' *"\\') for line in block.splitlines()]
    assert sum(line.startswith("Right answer") for line in lines) == (knowledge != "form")
    assert sum(line.startswith("Options") for line in lines) == 1
