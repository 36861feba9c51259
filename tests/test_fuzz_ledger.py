"Damaged ledgers and files of other programs: one sentence, no traceback, no value that no reply can have."
import itertools, json, sqlite3, tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ares.core.io import AresError
from ares.reports.costs import failures
from ares.teachers.ledger import SCHEMA, Ledger
from ares.teachers.llm import ClaudeTeacher
from ares.data.synthetic import make_problems
from ares.data.sentences import split_sentences
from ares.teachers.offline import FactTeacher
from conftest import FUZZ_EXAMPLES

PROBLEMS = make_problems(6, seed=2)
ASKED = [(p, [s.strip() for s in split_sentences(p.solution)]) for p in PROBLEMS]
FACTS, NUMBERS = FactTeacher(), itertools.count()
MODEL = "claude-haiku-5-5"


def answer(ledger, row, problems):
    "Reply as the teacher that knows the facts."
    question = json.loads(row["question"])
    problem = problems[row["about"]]
    right = FACTS.score(problem, question["rationales"][0])
    reply = json.dumps(dict(scores=[dict(sentence=f"1.{i}", score=s) for i, s in enumerate(right, 1)]))
    ledger.store(row["key"], reply, "end_turn", dict(tokens_in=9, tokens_out=3), 0.01)


def make_ledger(path):
    "A ledger in which some questions are answered, and others queued, refused, sent or in a batch."
    teacher = ClaudeTeacher(path, MODEL, stage="rl-1")
    teacher.prefetch("score", ASKED)
    rows = teacher.ledger.rows("select * from questions order by about")
    for row in rows[:3]: answer(teacher.ledger, row, {p.id: p for p in PROBLEMS})
    teacher._read([row["key"] for row in rows[:2]])
    teacher.ledger.store(rows[3]["key"], "too large", "refusal", {}, 0.0, state="refused")
    teacher.ledger.lease("anthropic", "1:1.00", 1)
    teacher.ledger.write("insert into batches values ('b', 'anthropic', 'x', '1:1.00', 'submitted', 1, 1.0)")
    teacher.ledger.lease("anthropic", "1:1.00", 1, "b")
    teacher.ledger.write("insert into stops values ('1', 'why')")
    teacher.ledger.db.execute("pragma wal_checkpoint(truncate)")
    teacher.ledger.db.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name: yield Path(name)


class Sound(bytes):
    "The bytes of a ledger without damage; hypothesis need not print them."
    def __repr__(self): return "sound"


@pytest.fixture(scope="module")
def sound(folder): return Sound(make_ledger(folder/"sound.sqlite"))


def use(path):
    "Everything that is done with a ledger without a network; returns the values found."
    ledger = Ledger(path)
    ledger.totals(), ledger.spent(), ledger.answered(), failures(ledger)
    for row in ledger.rows("select hash from pictures"): ledger.picture(row["hash"])
    teacher = ClaudeTeacher(path, MODEL, send="replay", stage="rl-1")
    items = teacher.prefetch("score", ASKED[:3])
    teacher._read(list(teacher.open))
    teacher.prefetch("score", ASKED[:3])
    ledger.recover_stale("anthropic")
    keys = [row["key"] for row in ledger.lease("anthropic", "1:1.00", 10)]
    ledger.book(dict.fromkeys(keys, 0.1), budget_usd=1.0, budget_calls=50)
    ledger.put_back(keys)
    ledger.export_jsonl(path.with_suffix(".jsonl"))
    return [teacher.known.get(item) for item in items]


def check(path):
    "Use a ledger; whatever is wrong is one short sentence. Returns it, or the values."
    try: values = use(path)
    except AresError as e:
        assert 0 < len(str(e)) <= 300 and "\n" not in str(e), str(e)
        return str(e)
    for value, (_, sentences) in zip(values, ASKED):
        assert value is None or len(value) == len(sentences) and all(0 <= x <= 1 for x in value)
    return values


def fuzz(**strategies):
    "A fuzz test of the size that the environment asks for."
    size = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None)
    def both(test): return size(given(**strategies)(test))
    return both


def write(folder, data):
    path = folder/f"{next(NUMBERS)}.sqlite"
    path.write_bytes(data)
    return path


def test_a_sound_ledger_is_used(folder, sound):
    values = check(write(folder, sound))
    assert values == [FACTS.score(*asked) for asked in ASKED[:3]]


@fuzz(share=st.floats(0, 1), junk=st.binary(max_size=64))
def test_truncated_files(folder, sound, share, junk):
    check(write(folder, sound[:int(share * len(sound))] + junk))


@fuzz(places=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=40))
def test_flipped_bytes(folder, sound, places):
    data = bytearray(sound)
    for share, bits in places: data[int(share * len(data))] ^= bits
    check(write(folder, bytes(data)))


COLUMNS = [(table, column) for table, columns in dict(
    questions="key provider kind version model stage about question state owner batch attempt sends "
              "reply stop fault tokens_in tokens_out price asked_at answered_at seconds booked",
    items="item key place value settled",
    pictures="hash media_type data width height", batches="batch remote owner state size created_at",
    stops="owner message").items() for column in columns.split()]
LIKELY = ["sent", "answered", "[9.5]", "[[1]]", "{}", "null", "1:1.00", 10**18, -1, 1e308]
ODD = st.one_of(st.none(), st.text(max_size=20), st.integers(-2**63, 2**63 - 1), st.floats(),
                st.binary(max_size=20), st.sampled_from(LIKELY))


@fuzz(where=st.sampled_from(COLUMNS), value=ODD, few=st.booleans())
def test_odd_values_in_columns(folder, sound, where, value, few):
    path, (table, column) = write(folder, sound), where
    db = sqlite3.connect(path)
    some = f"where rowid = (select min(rowid) from {table})" if few else ""
    db.execute("pragma synchronous=off")
    try:
        with db: db.execute(f"update {table} set {column} = ? {some}", (value,))
    except (sqlite3.IntegrityError, UnicodeEncodeError): return  # SQLite does not take it itself
    finally: db.close()
    check(path)


KEYS = "key", "hash", "batch", "item", "owner" # SQLite drops none of these


@fuzz(drop=st.sampled_from([(table, column) for table, column in COLUMNS if column not in KEYS]),
      mark=st.sampled_from([0, 1, 0x41524553, -5]), extra=st.booleans())
def test_other_layouts_stay_as_they_are(folder, drop, mark, extra):
    path, (table, column) = folder/f"{next(NUMBERS)}.sqlite", drop
    db = sqlite3.connect(path)
    db.executescript("pragma synchronous=off;" + SCHEMA)
    for index in ("by_turn", "by_answer", "by_cost", "by_question"): db.execute(f"drop index {index}")
    db.execute(f"alter table {table} drop column {column}")
    if extra: db.execute("create table mine (a)")
    db.execute(f"pragma application_id={mark}")
    db.commit()
    db.close()
    before, said = path.read_bytes(), check(path)
    old = column == "booked" and mark in (0, 0x41524553)  # a ledger of an earlier version
    assert old or ("not a ledger of ARES" in said and path.read_bytes() == before)


@fuzz(data=st.binary(max_size=300), head=st.booleans())
def test_files_that_are_no_database(folder, sound, data, head):
    check(write(folder, (sound[:100] if head else b"") + data))
