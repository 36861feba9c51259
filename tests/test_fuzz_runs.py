"Damaged folders of runs: every command gives one sentence that names the file, never a traceback."
import json, shutil

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ares.__main__ import main
from ares.pipeline.folder import check_run, read_config
from ares.pipeline.stages import rl_parts, run_ares, _save_state
from ares.reports.compare import common_values, compared_settings
from ares.core.io import AresError
from ares.teachers.ledger import Ledger
from ares.pipeline.folder import read_results
from ares.reports.report import category_table, results_table
from ares.reports.watch import _watch_text
from conftest import FUZZ_EXAMPLES

FUZZ = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
OTHER = [None, True, 5, -1.5, "text", "", [], [1, "a"], {}, {"a": 1}, float("nan"), 10**400, "\ud800"]


@pytest.fixture(scope="module")
def damaged(smoke_run, tmp_path_factory):
    "A copy of a smoke run, and beside it the whole one; both have a ledger."
    home = tmp_path_factory.mktemp("damaged")
    for name in ("run", "whole"): shutil.copytree(smoke_run, home/"runs"/name)
    ledger = Ledger(home/"runs"/"run"/"ledger.sqlite")
    key = ledger.queue(dict(kind="score", version="1", model="m"), "anthropic", [(0, "item")], stage="rl-1")
    counts = dict(tokens_in=1, tokens_out=1, tokens_cached=0, tokens_written=0)
    ledger.store(key, "{}", "end_turn", counts, 0.1)
    del ledger
    return home


def changed_leaf(value, path, new):
    "JSON with one of its values, found by choosing a branch again and again, replaced."
    if not path or not isinstance(value, (dict, list)) or not value: return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed_leaf(value[key], path[1:], new)
    return copy


def damage(file, how, where, new):
    "Damage a file in one of seven ways."
    content = file.read_bytes()
    at = int(where[0] / 100 * len(content))
    if how == "delete" or how == "folder": file.unlink()
    if how == "folder": file.mkdir()
    if how == "cut": file.write_bytes(content[:at])
    if how == "empty": file.write_bytes(b"")
    if how == "bytes": file.write_bytes(content[:at] + bytes([255, 0, 128]) + content[at + 3:])
    if how == "value": file.write_text(json.dumps(new))
    if how != "leaf" or file.suffix not in (".json", ".jsonl"): return
    lines = content.decode().split("\n") if file.suffix == ".jsonl" else [content.decode()]
    line = where[0] % max(1, len(lines) - 1)
    lines[line] = json.dumps(changed_leaf(json.loads(lines[line]), where, new))
    file.write_text("\n".join(lines))


def restore(file, content):
    "Put a damaged file back."
    if file.is_dir(): shutil.rmtree(file)
    file.write_bytes(content)


def run_again(run):
    "What `ares run` reads before a stage that is missing is made."
    def missing(config, run, stage): raise AresError(f"{run/stage}: made again.")
    def execute(config, run, stage):
        from ares.pipeline.stages import run_stage
        return (run_stage if (run/stage/"result.json").exists() else missing)(config, run, stage)
    run_ares(read_config(run), run, execute=execute)


def report(run):
    "What `ares report` reads."
    read_config(run)
    check_run(run)
    return results_table(read_results(run)).to_string() + category_table(read_results(run)).to_string()


def commands(home):
    "Everything that reads a run, by name."
    run, whole = home/"runs"/"run", home/"runs"/"whole"
    return dict(run=lambda: run_again(run), report=lambda: report(run), watch=lambda: _watch_text(run),
                compare=lambda: (compared_settings([run, whole]), common_values([run, whole])),
                ledger=lambda: main(["ledger", str(run)]), publish=lambda: main(["publish", str(run)]))


mutations = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from("delete folder cut empty bytes value leaf leaf leaf".split()),
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.sampled_from(OTHER),
)


def one_sentence(text, place):
    assert len(text.strip().split("\n")) == 1 and len(text) <= 310, (place, text)


def test_a_damaged_run_is_one_sentence(damaged, monkeypatch, capsys):
    monkeypatch.chdir(damaged)
    run = damaged/"runs"/"run"
    beside = (
        "notebooks", "lock", "lock.json", "report.html", "published", "ledger.sqlite-shm",
        "ledger.sqlite-wal",
    )
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.relative_to(run).parts[0] not in beside)
    whole = report(run)

    @settings(max_examples=FUZZ_EXAMPLES, **FUZZ)
    @given(mutations, st.sampled_from(sorted(commands(damaged))))
    def check(mutation, command):
        number, how, where, new = mutation
        file = files[number % len(files)]
        kept = {p: p.read_bytes() for p in (file, run/"results.json", run/"complete.json", run/"config.json")}
        capsys.readouterr()
        try:
            damage(file, how, where, new)
            told = commands(damaged)[command]()
            said = capsys.readouterr().err
            if said: one_sentence(said, (file.relative_to(run), how, where, new))
            if (
                command == "report"
                and file.name == "result.json"
                and how in ("value", "leaf")
                and told != whole
            ):
                assert isinstance(new, (int, float, type(None))), ("silently wrong", file, where, new)
        except AresError as e: one_sentence(str(e), (command, file.relative_to(run), how, where, new))
        finally:
            for path, content in kept.items(): restore(path, content)

    check()


def test_a_damaged_state_is_one_sentence(damaged):
    run = damaged/"runs"/"run"
    config = read_config(run)
    student, _, value_head, trainer, _ = rl_parts(config, run, "rl-2")
    from ares.core.io import read_jsonl
    _save_state(run/"rl-2", student, value_head, trainer, read_jsonl(run/"rl-2"/"metrics.jsonl")[:1])
    state, = (run/"rl-2").glob("state-*")
    files = sorted(p for p in state.rglob("*") if p.is_file())

    @settings(max_examples=max(20, FUZZ_EXAMPLES // 5), **FUZZ)
    @given(mutations)
    def check(mutation):
        number, how, where, new = mutation
        file = files[number % len(files)]
        content = file.read_bytes()
        try:
            damage(file, how, where, new)
            rl_parts(config, run, "rl-2")
        except AresError as e: one_sentence(str(e), (file.relative_to(state), how, where, new))
        finally: restore(file, content)

    try: check()
    finally: shutil.rmtree(state)
