"Language models as teachers, with a server that misbehaves: nothing lost or paid twice, no key in a file."
import json, os, random, signal, threading, time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import psutil
import pytest
import yaml

from ares.teachers import sender as sending, mock_server as stand_in
from ares.pipeline.stages import run_ares
from ares.core.io import AresError
from ares.teachers.ledger import Ledger, price_of
from ares.teachers.llm import ClaudeTeacher, OpenAIJudge
from ares.data.synthetic import make_problems
from ares.teachers.requests import make_question, picture_bytes
from ares.data.sentences import split_sentences
from ares.teachers.sender import _note_batch
from ares.pipeline.config import load_config
from ares.teachers.mock_server import LINE_FAULTS, REPLY_FAULTS, MockServer
from ares.teachers.offline import FactTeacher
from conftest import ROOT, end, loop, start, timeless
from forks import run_command, start_sender

KEY = "sk-ant-a-secret-that-must-not-be-found"
FACTS = FactTeacher()
# A fifth of all replies: half of them broken on the line, half of them useless.
FAULTS = (
    {name: 0.1 / len(LINE_FAULTS) for name in LINE_FAULTS}
    | {name: 0.1 / len(REPLY_FAULTS) for name in REPLY_FAULTS}
    | {"endless": 0.002}
)


def four_rationales(problem):
    "A gold rationale and three spoilt ones, all different."
    gold = [s.strip() for s in split_sentences(problem.solution)]
    return [gold, gold[::-1], ["Look at the picture.", *gold[:-1], gold[0]], [*gold[:-1], "So the"]]


PROBLEMS = make_problems(400, seed=7)
ASKED = [(p, r) for p in PROBLEMS for r in four_rationales(p)]


def reached(url): return dict(ANTHROPIC_BASE_URL=url, ANTHROPIC_API_KEY=KEY, OPENAI_API_KEY=KEY)


@pytest.fixture
def reach(monkeypatch):
    "Point the SDKs to a server."
    def to(server):
        for name, value in reached(server.url).items(): monkeypatch.setenv(name, value)
        return server
    return to


def check(values, asked=ASKED):
    "Each rationale has its own scores, or none."
    for (problem, rationale), scores in zip(asked, values, strict=True):
        assert scores is None or scores == FACTS.score(problem, rationale)
    return sum(v is None for v in values)


@pytest.mark.parametrize("seed", range(10))
def test_a_faulty_server_loses_and_swaps_nothing(seed, tmp_path, reach):
    with reach(MockServer(PROBLEMS, FACTS, faults=FAULTS, seed=seed)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", request_timeout=3.0, concurrency=32)
        failed = check(teacher.values("score", ASKED))
        teacher.sender.stop()
        assert set(server.answered.values()) == {1}, "a question that was answered was asked again"
        asked = sum(server.answered.values())
        assert check(ClaudeTeacher(tmp_path/"ledger.sqlite", send="replay").values("score", ASKED)) == failed
        assert sum(server.answered.values()) == asked
    assert sum(server.got[f] for f in FAULTS) > 60 and failed < 80
    assert teacher.ledger.totals()["failed"].sum() == failed


def ask_all(url, ledger):
    os.environ.update(reached(url))
    teacher = ClaudeTeacher(ledger)
    check(teacher.values("score", ASKED))
    teacher.sender.stop()


def start_asking(server, ledger, name="asked"):
    return start(ask_all, server.url, ledger, log=ledger.with_name(f"{name}.log"))


def test_killed_at_random_moments_nothing_is_paid_twice(tmp_path, reach):
    "Twenty kills while replies come in; the sender outlives the run and stores what is under way."
    rng, path, kills = random.Random(0), tmp_path/"ledger.sqlite", 0
    with reach(MockServer(PROBLEMS, FACTS, seconds=0.3, seed=1)) as server:
        while kills < 20:
            process, before = start_asking(server, path), sum(server.answered.values())
            while process.is_alive() and sum(server.answered.values()) == before: time.sleep(0.01)
            if not process.is_alive(): break
            time.sleep(rng.uniform(0, 0.25))
            process.kill(); process.join()
            kills += 1
        end(start_asking(server, path), 300)
    assert kills == 20, f"all was answered after {kills} kills"
    assert set(server.answered.values()) == {1} and sum(server.answered.values()) == 400


def test_when_the_sender_itself_is_killed_only_what_was_under_way_is_asked_again(tmp_path, reach):
    with reach(MockServer(PROBLEMS, FACTS, seconds=0.3)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", concurrency=8)
        teacher.prefetch("score", ASKED)
        teacher.fetch()
        while sum(server.answered.values()) < 40: time.sleep(0.02)
        os.kill(teacher.sender.process.pid, signal.SIGKILL)
        check(teacher.values("score", ASKED))
        teacher.sender.stop()
        assert sum(server.answered.values()) - len(server.answered) <= 8


def test_two_processes_share_a_ledger(tmp_path, reach):
    with reach(MockServer(PROBLEMS, FACTS, seconds=0.05)) as server:
        for process in [start_asking(server, tmp_path / "ledger.sqlite", name) for name in ("one", "other")]:
            end(process, 300)
    assert set(server.answered.values()) == {1} and len(server.answered) == 400


def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path, reach):
    few = ASKED[:40]
    with MockServer(PROBLEMS[:10], FACTS) as server: port = server.server.server_port
    reach(server)
    teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
    teacher.prefetch("score", few)
    teacher.fetch()
    time.sleep(4)
    with MockServer(PROBLEMS[:10], FACTS, port=port): assert check(teacher.values("score", few), few) == 0


def test_batches_expire_are_cancelled_and_err(tmp_path, reach):
    few = ASKED[:160]
    fates = dict(expired=0.3, canceled=0.2, errored=0.4)
    with reach(MockServer(PROBLEMS[:40], FACTS, batch_fates=fates, seed=3)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", send="batch", batch_poll_seconds=0.1)
        assert check(teacher.values("score", few), few) == 0
        teacher.sender.stop()
    assert len(server.batches) > 1 and set(server.answered.values()) == {1}
    live = ClaudeTeacher(tmp_path/"live.sqlite")
    with reach(MockServer(PROBLEMS[:40], FACTS)):
        live.values("score", few)
        live.sender.stop()
    price = lambda t: t.ledger.totals()["dollars"].sum()
    assert price(teacher) == pytest.approx(price(live) / 2, rel=0.05)


@pytest.mark.parametrize("arrived", [True, False])
def test_a_batch_is_found_again_when_its_submission_was_cut_off(arrived, tmp_path, reach):
    "The sender died after the batch went out and before its id was noted; or before it went out at all."
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", send="batch", batch_poll_seconds=0.1)
        ledger = teacher.ledger
        teacher.prefetch("score", few)
        if arrived:
            teacher.fetch()
            while not ledger.rows("select * from batches where remote is not null"): time.sleep(0.02)
            teacher.sender.process.kill(); teacher.sender.process.wait()
            batch = ledger.rows("select * from batches")[0]["batch"]
            _note_batch(ledger, batch, remote=None, state="submitting")
        else:
            with ledger.db:
                ledger.db.execute(
                    "insert into batches values ('b', 'anthropic', null, '1:1.00', 'submitting', 10, ?)",
                    (time.time(),),
                )
            ledger.lease("anthropic", "1:1.00", 100, "b")
        assert check(teacher.values("score", few), few) == 0
        teacher.sender.stop()
        assert len(server.batches) == 1 and set(server.answered.values()) == {1}


def test_a_batch_that_takes_long_is_left_and_fetched_later(tmp_path, reach):
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS, batch_seconds=6)) as server:
        hurried = ClaudeTeacher(
            tmp_path / "ledger.sqlite", send="batch", batch_poll_seconds=0.1, batch_wait_minutes=0.06
        )
        with pytest.raises(AresError, match="nothing is lost: start the run again later"):
            hurried.values("score", few)
        hurried.sender.stop()
        patient = ClaudeTeacher(tmp_path/"ledger.sqlite", send="batch", batch_poll_seconds=0.1)
        assert check(patient.values("score", few), few) == 0
        patient.sender.stop()
        assert len(server.batches) == 1


def test_a_judge_behind_a_chat_completions_endpoint(tmp_path, reach):
    pairs = [(p, [p.solution, "So the"]) for p in PROBLEMS[:12]] + [
        (p, ["So the", p.solution]) for p in PROBLEMS[:12]
    ]
    with reach(MockServer(PROBLEMS[:12], FACTS, faults={"prose": 0.2, "503": 0.1}, seed=2)) as server:
        judge = OpenAIJudge(tmp_path/"ledger.sqlite", base_url=f"{server.url}/v1")
        verdicts = judge.values("compare", pairs)
        judge.sender.stop()
    assert [v in (right, None) for v, right in zip(verdicts, ["a"] * 12 + ["b"] * 12)] == [
        True
    ] * 24 and verdicts.count(None) < 6
    assert judge.ledger.totals()["model"].tolist() == ["gpt-4o"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(ANTHROPIC_API_KEY="", ANTHROPIC_AUTH_TOKEN=""),
            "needs a key in the environment variable ANTHROPIC_API_KEY",
        ),
        (dict(teacher_model="claude-3-haiku-20240307"), "claude-3-haiku-20240307 is retired"),
        (dict(teacher_model="claude-haiku-99"), "is not known to the installed anthropic"),
        (dict(teacher_send="replay"), "no reply is kept"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_sentence(change, message, tmp_path, reach, monkeypatch):
    with reach(MockServer([], FACTS)) as server:
        for name in filter(str.isupper, change): monkeypatch.setenv(name, change[name])
        with pytest.raises(AresError, match=message) as said:
            run_ares(
                load_config(
                    ROOT / "params" / "smoke.yaml",
                    teacher="claude",
                    rounds=1,
                    **{k: v for k, v in change.items() if not k.isupper()},
                ),
                tmp_path / "run",
            )
    assert KEY not in str(said.value) and "\n" not in str(said.value) and not server.answered


PAID = ("requests", "asked_again", "failed_items", "dollars")


def test_a_run_with_claude_ends_in_the_same_table_and_leaves_no_key(tmp_path, reach):
    "The command with papermill, stopped by its budget; the offline teacher answers behind the API."
    student = dict(d_model=48, d_ff=96, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=800)
    small = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text()) | dict(
        rounds=1, train_problems=260, gold_problems=260, baseline_lr=0.005, baseline_epochs=10,
        student=student, answer_model="conclusion",
    )
    (tmp_path/"offline.yaml").write_text(yaml.safe_dump(small))
    (tmp_path/"paid.yaml").write_text(yaml.safe_dump(small | dict(teacher="claude")))
    end(start(loop, tmp_path/"offline.yaml", tmp_path/"offline", log=tmp_path/"offline.log"))
    problems = [
        p
        for split, n in (("train", 260), ("val", 16), ("test", 24))
        for p in make_problems(n, split=split, seed=0)
    ]
    ares = partial(run_command, cwd=tmp_path)
    with reach(MockServer(problems, FACTS)) as server:
        poor = ares("run", "paid.yaml", "-p", "budget_calls", "40")
        assert (
            poor.returncode == 1
            and "budget_calls: 40 calls are used up" in poor.stderr
            and sum(server.answered.values()) == 40
        )
        done = ares("run", "paid", "-p", "budget_calls", "0")
        assert done.returncode == 0, done.stderr[-3000:]
        shown = ares("ledger", "paid")
    assert set(server.answered.values()) == {1}
    assert f"{len(server.answered)} questions" in shown.stdout
    offline, paid = (
        json.loads((folder / "results.json").read_text())
        for folder in (tmp_path / "offline", tmp_path / "runs" / "paid")
    )
    assert sum(record["requests"] for record in paid.values()) == len(server.answered)
    assert timeless({s: {k: v for k, v in r.items() if k not in PAID} for s, r in paid.items()}) == timeless(
        offline
    )
    assert offline["sft-1"]["sentence_score"] > 0.1 and offline["sft-1"]["wins"] > 0, (
        "the comparison says nothing when all scores are zero"
    )
    assert "claude-haiku" in (tmp_path/"runs"/"paid"/"report.html").read_text()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 30 and not [path for path in left if KEY.encode() in path.read_bytes()]
    assert KEY not in poor.stderr + done.stderr + done.stdout + shown.stdout


def test_a_budget_in_dollars_is_never_passed(tmp_path, reach):
    with reach(MockServer(PROBLEMS, FACTS, faults=FAULTS, seed=5)) as server:
        poor = ClaudeTeacher(tmp_path/"ledger.sqlite", budget_usd=0.01)
        refusal = "budget_usd: the next call could pass 0.01 dollars.*raise budget_usd and start"
        with pytest.raises(AresError, match=refusal): poor.values("score", ASKED)
        spent = poor.ledger.spent()["dollars"]
        assert 0.008 < spent <= 0.01
        richer = ClaudeTeacher(tmp_path/"ledger.sqlite")
        check(richer.values("score", ASKED))
        richer.sender.stop()
        assert set(server.answered.values()) == {1}


def test_a_budget_counts_what_is_in_batches(tmp_path, reach):
    "What a batch under way may cost is spoken for, also after a new start."
    few = ASKED[:160]
    with reach(MockServer(PROBLEMS[:40], FACTS, batch_seconds=3)) as server:
        first = ClaudeTeacher(
            tmp_path / "ledger.sqlite", send="batch", batch_poll_seconds=0.1, budget_usd=0.004
        )
        first.prefetch("score", few[:40])
        first.fetch()
        while not server.batches: time.sleep(0.05)
        first.sender.stop()
        second = ClaudeTeacher(
            tmp_path / "ledger.sqlite", send="batch", batch_poll_seconds=0.1, budget_usd=0.004
        )
        with pytest.raises(AresError, match="budget_usd"): second.values("score", few)
        assert 10 <= sum(len(b["requests"]) for b in server.batches.values()) < 40
        richer = ClaudeTeacher(tmp_path/"ledger.sqlite", send="batch", batch_poll_seconds=0.1)
        assert check(richer.values("score", few), few) == 0
        richer.sender.stop()
        assert set(server.answered.values()) == {1}


@pytest.mark.timeout(90)
def test_a_reply_that_was_kept_after_later_ones_is_read(tmp_path, reach):
    "Where many write at once, a reply may come into the ledger seconds after the time it bears."
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS)):
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
        teacher.prefetch("score", few)
        teacher.seen = time.time() + 60
        assert check(teacher.values("score", few), few) == 0
        teacher.sender.stop()


@pytest.mark.timeout(90)
def test_what_another_process_asked_once_more_is_watched(tmp_path, reach):
    "The other sender found the replies bad, asked again, and died; only this one can read the second ones."
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS, faults={"prose": 1.0})) as server:
        first, other = (ClaudeTeacher(tmp_path/"ledger.sqlite") for _ in range(2))
        fetch = first.fetch
        def while_it_waits():
            first.fetch = fetch
            fetch()
            while first.ledger.answered() < 10: time.sleep(0.05)
            server.faults = {}
            other.prefetch("score", few)
        first.fetch = while_it_waits
        assert check(first.values("score", few), few) == 0
        first.sender.stop()


@pytest.mark.timeout(90)
def test_a_sender_that_falls_over_again_and_again_is_not_started_forever(tmp_path, reach, monkeypatch):
    monkeypatch.setattr("ares.teachers.sender.MOST_LOST", 2)
    with reach(MockServer([], FACTS)):
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", concurrency="many")
        with pytest.raises(AresError, match="ledger.log: the sender was lost 2 times"):
            teacher.values("score", ASKED[:4])
    assert "TypeError" in (tmp_path/"ledger.log").read_text()


REFUSED = dict.fromkeys(("400", "413", "422"), 0.1)


def dollars_of(server):
    "What the server would bill."
    t = server.tokens
    bill = dict(tokens_in=t["input_tokens"], tokens_cached=t["cache_read_input_tokens"],
                tokens_written=t["cache_creation_input_tokens"], tokens_out=t["output_tokens"])
    return price_of("claude-haiku-5-5", bill)


@pytest.mark.parametrize("send", ["live", "batch"])
def test_a_refused_question_does_not_end_the_run(send, tmp_path, reach):
    few = ASKED[:160]
    faults = dict(faults=REFUSED) if send == "live" else dict(batch_fates={"refused": 0.2, "too large": 0.1})
    with reach(MockServer(PROBLEMS[:40], FACTS, seed=1, **faults)) as server:
        for _ in range(2):  # also at the next start
            teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", send=send, batch_poll_seconds=0.1)
            failed = check(teacher.values("score", few), few)
            teacher.sender.stop()
        totals = teacher.ledger.totals().iloc[0]
    assert 4 <= totals["refused"] < 25 and totals["refused"] + totals["answered"] == 40
    assert failed == 4 * totals["refused"] and set(server.answered.values()) == {1}


def test_when_all_questions_are_refused_the_run_stops_and_can_go_on_later(tmp_path, reach):
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS, faults={"400": 1.0})) as server:
        for _ in range(2):
            teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
            with pytest.raises(
                AresError, match="refused all `score` questions.*this question cannot be answered"
            ):
                teacher.values("score", few)
            teacher.sender.stop()
        server.faults = {}
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
        assert check(teacher.values("score", few), few) == 0
        teacher.sender.stop()


def test_a_run_is_not_trained_on_refusals(tmp_path, reach):
    problems = [
        p
        for split, n in (("train", 48), ("val", 16), ("test", 24))
        for p in make_problems(n, split=split, seed=0)
    ]
    with reach(MockServer(problems, FACTS, faults={"422": 1.0})):
        with pytest.raises(AresError, match="refused all `score` questions"):
            run_ares(load_config(ROOT/"params"/"smoke.yaml", teacher="claude", rounds=1), tmp_path/"run")
    assert not (tmp_path/"run"/"rl-1"/"trained.json").exists()


def test_a_refused_batch_is_cut_until_the_question_is_found(tmp_path, reach, monkeypatch):
    few = ASKED[:40]
    with reach(MockServer(PROBLEMS[:10], FACTS)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", send="batch", batch_poll_seconds=0.1)
        teacher.prefetch("score", few)
        sizes = [len(r["question"]) for r in teacher.ledger.rows("select question from questions")]
        monkeypatch.setitem(stand_in.MOST_BYTES, "batch", 3 * max(sizes))
        assert check(teacher.values("score", few), few) == 0
        teacher.sender.stop()
    assert len(server.batches) >= 4 and set(server.answered.values()) == {1}


def test_batches_are_cut_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "BATCH_BYTES", 50_000)
    ledger = Ledger(tmp_path/"ledger.sqlite")
    for p in PROBLEMS[:20]:
        ledger.queue(make_question("score", p, [[p.solution]], "claude-haiku-5-5"), "anthropic", [(0, p.id)])
    rows = ledger.rows("select * from questions")
    requests = sending._batch_requests(SimpleNamespace(ledger=ledger), rows)
    assert 1 < len(requests) < 20 and len(json.dumps(requests)) <= 50_000
    monkeypatch.setattr(sending, "BATCH_BYTES", 10)
    # one that is too large goes alone
    assert len(sending._batch_requests(SimpleNamespace(ledger=ledger), rows)) == 1


def test_a_reply_may_have_many_tokens(tmp_path, reach):
    "The SDK refuses calls of more than 21,333 tokens that have no timeout of their own."
    with reach(MockServer(PROBLEMS[:1], FACTS)):
        ledger = Ledger(tmp_path/"ledger.sqlite")
        picture = ledger.add_picture(picture_bytes(PROBLEMS[0]))
        question = make_question(
            "score", PROBLEMS[0], [[PROBLEMS[0].solution]], "claude-haiku-5-5", picture=picture
        )
        key = ledger.queue(question | dict(max_tokens=30_000), "anthropic", [(0, "item")])
        sender = sending.Sender(ledger.path, **sending.DEFAULTS)
        while not ledger.answered():
            sender.start()
            time.sleep(0.05)
        sender.stop()
    assert ledger.rows("select state from questions where key = ?", key) == [dict(state="answered")]


@pytest.mark.parametrize("fault", ["broken off", "endless"])
def test_a_budget_holds_when_replies_break_off_or_time_out(fault, tmp_path, reach):
    with reach(MockServer(PROBLEMS, FACTS, faults={fault: 0.8}, seed=5)) as server:
        poor = ClaudeTeacher(tmp_path/"ledger.sqlite", budget_usd=0.02, request_timeout=1.0)
        with pytest.raises(AresError, match="budget_usd"): poor.values("score", ASKED)
        poor.sender.stop()
    spent = poor.ledger.spent()
    billed = dollars_of(server)
    print(f"{fault}: ledger ${spent['dollars']:.4f}, billed ${billed:.4f}, {server.requests} requests")
    assert dollars_of(server) <= spent["dollars"] <= 0.02 and spent["booked"] == 0
    assert spent["dollars"] > 0.015 and spent["calls"] >= server.requests


def test_a_budget_of_calls_counts_requests(tmp_path, reach):
    with reach(
        MockServer(PROBLEMS, FACTS, faults={"broken off": 0.4, "503": 0.2, "429": 0.2}, seed=5)
    ) as server:
        poor = ClaudeTeacher(tmp_path/"ledger.sqlite", budget_calls=10)
        with pytest.raises(AresError, match="budget_calls: 10 calls are used up"): poor.values("score", ASKED)
        poor.sender.stop()
    print(f"budget_calls 10: {server.requests} requests")
    assert server.requests == 10


def test_a_killed_sender_does_not_make_its_requests_free(tmp_path, reach):
    with reach(MockServer(PROBLEMS[:20], FACTS, seconds=1.0)) as server:
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite", concurrency=8)
        teacher.prefetch("score", ASKED[:80])
        teacher.fetch()
        while server.requests < 8: time.sleep(0.02)
        teacher.sender.process.kill()
        teacher.sender.process.wait()
        time.sleep(1.5)  # the server answers into nothing, and bills
        teacher.ledger.recover_stale("anthropic")
    assert teacher.ledger.spent()["dollars"] >= dollars_of(server) > 0


@pytest.mark.timeout(60)
def test_a_long_retry_after_is_told_and_ends_with_the_run(tmp_path, reach, capfd):
    with reach(MockServer(PROBLEMS[:10], FACTS, faults={"429 retry-after": 1.0}, retry_after="1e9")):
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
        teacher.prefetch("score", ASKED[:40])
        said, until = "", time.monotonic() + 30
        while "note:" not in said and time.monotonic() < until:
            teacher.fetch()
            time.sleep(0.1)
            said += capfd.readouterr().err
        started = time.monotonic()
        teacher.sender.stop()
    assert "anthropic asks to wait 1e+09 seconds; the next request goes out in 300 seconds" in said
    assert time.monotonic() - started < 5


class Spy(BaseHTTPRequestHandler):
    "Keeps the headers of each request, and refuses it."
    seen = []

    def log_message(self, *args): pass

    def do_POST(self):
        "Refuse a request."
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.mark.parametrize("own", ["", "sk-key-of-the-judge"])
def test_a_server_that_a_file_names_gets_no_key_of_openai(own, tmp_path, monkeypatch):
    monkeypatch.setattr(Spy, "seen", [])
    for name, value in dict(OPENAI_API_KEY=KEY, OPENAI_ORG_ID="org-secret", ARES_JUDGE_API_KEY=own).items():
        monkeypatch.setenv(name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Spy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = OpenAIJudge(tmp_path/"ledger.sqlite", base_url=f"http://127.0.0.1:{server.server_port}/v1")
    with pytest.raises(AresError, match="ARES_JUDGE_API_KEY"): judge.compare(PROBLEMS[0], "One.", "Two.")
    server.shutdown()
    assert KEY not in str(Spy.seen) and "org-secret" not in str(Spy.seen)
    assert Spy.seen[0]["authorization"] == f"Bearer {own or 'none'}"


def test_a_password_in_an_address_is_refused_and_kept_nowhere(tmp_path):
    url = "https://me:passw0rd@host/v1"
    (tmp_path/"p.yaml").write_text(yaml.safe_dump(dict(teacher="facts", judge="openai", judge_base_url=url)))
    done = run_command("run", "p.yaml", cwd=tmp_path, timeout=120)
    assert (
        done.returncode == 1
        and "`judge_base_url` must be an address without user name, password" in done.stderr
    )
    assert "passw0rd" not in done.stdout + done.stderr and [p.name for p in tmp_path.iterdir()] == ["p.yaml"]
    with pytest.raises(AresError, match="without user name") as said:
        OpenAIJudge(tmp_path / "l.sqlite", base_url=url)
    assert "passw0rd" not in str(said.value)


def test_the_options_of_a_sender_stand_in_no_list_of_processes(tmp_path, reach, monkeypatch):
    monkeypatch.setattr(sending, "_start_process", start_sender)  # no fork
    with reach(MockServer(PROBLEMS[:1], FACTS)):
        teacher = ClaudeTeacher(tmp_path/"ledger.sqlite")
        teacher.fetch()
        until = time.monotonic() + 20
        while (
            not (shown := psutil.Process(teacher.sender.process.pid).cmdline()) and time.monotonic() < until
        ):
            time.sleep(0.05)
        teacher.sender.stop()
    assert "budget_usd" not in " ".join(shown) and str(tmp_path/"ledger.sqlite") in shown[-1]
