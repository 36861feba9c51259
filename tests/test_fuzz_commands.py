"Command lines with faults: each gets one sentence before anything expensive starts; only runs/ is written."
import io, json, os, re, shlex, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ares.__main__ import main
from ares.pipeline.stages import run_stage
from ares.core.io import AresError
from ares.pipeline.config import load_config
from conftest import FUZZ_EXAMPLES, ROOT

FUZZ = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))
SMALL = dict(train_problems=24, val_problems=8, test_problems=8, device="cpu", rounds=1, collections=2)
STARTED = [] # folders that a command would have worked in


def stands_in(result=None):
    "Something that notes which folder it is called for instead of working."
    def work(*given, **named):
        STARTED.extend(x for x in given if isinstance(x, Path))
        return result
    return work


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with parameter files, two runs and a few odd things; what is expensive does nothing."
    home = tmp_path_factory.mktemp("commands")
    text = "".join(f"{name}: {value}\n" for name, value in SMALL.items())
    for name in ("x.yaml", "lr{1}.yaml", "...yaml", "with space.yaml"): (home/name).write_text(text)
    (home/"twice.yaml").write_text(text + "rounds: 2\n")
    (home/"latin.yaml").write_bytes("data: é".encode("latin-1"))
    (home/"folder.yaml").mkdir()
    for run in ("mine", "other"):
        (home/"runs"/run).mkdir(parents=True)
        (home/"runs"/run/"config.json").write_text(json.dumps(asdict(load_config(SMALL))))
    (home/"runs"/"broken").mkdir()
    (home/"runs"/"broken"/"config.json").write_text("{")
    (home/"runs"/"file").write_text("in the way")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name in (
            "pipeline.notebooks.complete_run", "pipeline.notebooks.make_report", "pipeline.stages.run_stage",
            "reports.publish.publish", "reports.compare.compare_page", "reports.plan.plan_run",
            "reports.watch.watch", "pipeline.sweep.report_sweep",
        ):
            patch.setattr(f"ares.{name}", stands_in(Path("page.html")))
        failed = dict(run="a", stage="rl-1", state="failed", reason="")
        patch.setattr("ares.pipeline.sweep.run_sweep", stands_in(pd.DataFrame([failed])))
        patch.setattr("ares.reports.plan.plan_text", stands_in(""))
        record = dict(stage="rl-1", on="own", n=1, judge="", folder="", categories={})
        patch.setattr("ares.pipeline.evaluate_on.evaluate_on", stands_in(record))
        patch.setattr("ares.evaluation.benchmarks.score_predictions", stands_in((pd.DataFrame(), [])))
        patch.setattr("ares.pipeline.folder.read_results", stands_in({}))
        patch.setattr("ares.reports.report.results_table", stands_in(pd.DataFrame()))
        patch.setattr("ares.reports.compare.common_values", stands_in({}))
        patch.setattr("ares.reports.compare.compare_table", stands_in(pd.DataFrame()))
        yield home


ODD = st.sampled_from(["", " ", ".", "..", "../x", "/", "/dev/null", "-", "--", "-x", "a\0b", "a\nb",
                       "\udcff", "é", "{0}", "lr{1e-4}", "$HOME", "*", "~", "x" * 300,
                       "x" * 5000, "[", "{", "'", "&a", "*a", "!!python/name:os.system", "[" * 2000, "nan",
                       "inf", "-1", "0", "2024", "1e999", "9" * 5000,
                       "%s", "a=b", "=", "a/b/c", "None", "no", "rl-1", "rl1", "baseline", "sft-99"])
TEXT = ODD | st.text(max_size=8)
TARGETS = st.sampled_from(["x.yaml", "x.yaml", "x.yaml", "mine", "runs/mine", "other", "broken", "file",
                           "lr{1}.yaml", "...yaml", "with space.yaml", "twice.yaml",
                           "latin.yaml", "folder.yaml", "none.yaml", "../x.yaml", "runs"]) | TEXT
NAMES = st.sampled_from("seed rounds data student mixed_precision rl_lr prices budget_usd num_processes "
                        "lora skills need_data source seeed".split()) | TEXT
VALUES = st.sampled_from(["1", "2e-5", "no", "yes", "2024", "4294967296", ".inf", "{d_model: 64}",
                          "{d_model: 0}", "cpu", "bf16", "042"]) | TEXT
PAIRS = st.tuples(st.just("-p"), NAMES, VALUES)


def options(*found):
    "Some of these options, each a tuple of words."
    return st.lists(st.one_of(*found), max_size=3)


def option(word, values=TEXT): return st.tuples(st.just(word), values)


COMMANDS = dict(
    run=(st.tuples(TARGETS), [PAIRS, PAIRS, option("--name"), st.just(("--rehearse",))]),
    cost=(st.tuples(TARGETS), [PAIRS]),
    plan=(st.tuples(TARGETS), [PAIRS, option("--tflops", VALUES), option("--gigabytes-per-second", VALUES)]),
    stage=(st.tuples(st.sampled_from(["runs/mine", "runs/broken", "runs"]) | TEXT,
                     st.sampled_from(["baseline", "rl-1"]) | TEXT), []),
    ledger=(st.tuples(TARGETS), [option("--export"), option("--import")]),
    report=(st.tuples(TARGETS), []),
    publish=(st.tuples(TARGETS), [option("--stage"), st.just(("--public",)), option("--license")]),
    sweep=(st.tuples(TARGETS), [PAIRS, option("--set"),
                                option("--set", st.builds("{}={},{}".format, NAMES, VALUES, VALUES)),
                                option("--parallel", VALUES),
                                option("--job"), option("--job", st.builds("{}={}".format, TEXT, VALUES)),
                                option("--home")]),
    compare=(st.tuples(TARGETS, TARGETS), [option("--stage"), option("--to")]),
    watch=(st.tuples(TARGETS), [option("--seconds", VALUES)]),
    evaluate=(st.tuples(TARGETS, st.just("--on"), st.sampled_from(["own", "mmmu"]) | TEXT,
                        st.just("--data"), st.sampled_from(["x.yaml", "owner/name"]) | TEXT),
              [option("--stage"), option("--judge"), option("--predictions"), option("--column")]))


@st.composite
def lines(draw):
    "The words of a command line."
    if draw(st.integers(0, 19)) == 0:
        return draw(st.lists(TEXT | st.sampled_from(list(COMMANDS)), max_size=4))
    command = draw(st.sampled_from(list(COMMANDS)))
    first, more = COMMANDS[command]
    words = [command, *draw(first)]
    for some in draw(options(*more)) if more else (): words.extend(some)
    if draw(st.integers(0, 9)) == 0: words.pop(draw(st.integers(0, len(words) - 1)))
    return words


def carried_out(words):
    "The exit code of a command, and what it says on stderr besides notes."
    STARTED.clear()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        try: code = main(words)
        except SystemExit as end: code = end.code or 0
    lines = said.getvalue().splitlines(keepends=True)
    return code, "".join(line for line in lines if not line.startswith("note: "))


def check_carried_out(place, words):
    "Raise when a command does not end well or in a sentence, or would work where it must not."
    around = set(os.listdir(place.parent))
    code, said = carried_out(words)
    assert code in (0, 1, 2)
    failed_runs = words[:1] == ["sweep"] and STARTED  # what a sweep did not finish is in its table
    if code and not failed_runs:
        assert said.count("\n") == 1 and said.endswith("\n") and len(said.strip()) <= 300, said[:400]
    if not code: assert not said, said
    assert set(os.listdir(place.parent)) == around, "something was written beside the folder"
    if words[:1] == ["run"]:
        for folder in STARTED:
            assert (place/"runs") in (place/folder).resolve().parents, f"{folder} is not in runs/"


@FUZZ
@given(words=lines())
def test_odd_commands_get_a_sentence(place, words):
    check_carried_out(place, words)


@pytest.mark.parametrize("words, message", [
    (["run", "x.yaml", "-p", "x", "["], "-p x: not valid YAML"),
    (["run", "x.yaml", "-p", "data", "2024"], "`data` must be str, not 2024; write it in quotes"),
    (["run", "x.yaml", "-p", "seed", "4294967296"], "`seed` must be below 4,294,967,296"),
    (["run", "x.yaml", "-p", "data", "x" * 10**7], "`data` must be at most 4,096 characters"),
    (["run", "x.yaml", "-p", "rl_lr", ".inf"], "`rl_lr` must be a finite number"),
    (["run", "x.yaml", "-p", "student", "{d_modle: 8}"], "did you mean `d_model`"),
    (["run", "x.yaml", "-p", "student", "{num_heads: 128}"], "at least `num_heads`"),
    (["run", "x.yaml", "-p", "prices", "{m: [1]}"], "`prices` must be"),
    (["run", "x.yaml", "-p", "need_data", "no"], "`need_data` is not a setting"),
    (["run", "x.yaml", "-p", "seed", "1", "-p", "seed", "2"], "-p seed: is given twice"),
    (["run", "x.yaml", "--name", "lr{1e-4}"], "cannot be the name of a run"),
    (["run", "x.yaml", "--name", "../x"], "cannot be the name of a run"),
    (["run", "x.yaml", "--name", "/x"], "cannot be the name of a run"),
    (["run", "lr{1}.yaml"], "cannot be the name of a run"),
    (["run", "twice.yaml"], "`rounds` is given twice"),
    (["run", "latin.yaml"], "not UTF-8 text"),
    (["run", "folder.yaml"], "a folder, not a parameter file"),
    (["report", "broken"], "not valid JSON"),
    (["stage", "runs/mine", "rl1"], "'rl1' is no stage"),
    (["sweep", "x.yaml", "--set", "seed=[" + "[" * 5000], "expected `setting=value,value`"),
    (["sweep", "x.yaml", "--set", "seed=0,1", "-p", "need_data", "no"], "`need_data` is not a setting"),
    (["sweep", "x.yaml", "--set", "seed=0,1", "--parallel", "-1"], "--parallel"),
    (["sweep", "x.yaml", "--set", "seed=0,1", "--job", "mem_gb=["], "--job mem_gb=[: not valid YAML"),
    (["watch", "mine", "--seconds", "nan"], "must be a number above 0"),
    (["compare", "mine", "other", "--to", "/"], "expected the name of a page"),
    (["evaluate", "mine", "--on", "vqa", "--data", "x.yaml"], "invalid choice: 'vqa'"),
    (["evaluate", "mine", "--on", "own", "--data", "none.csv"], "no such file or folder"),
    (["evaluate", "--on", "own", "--data", "x.yaml"], "--predictions FILE, and not both"),
    (["rnu", "x.yaml"], "invalid choice"),
])
def test_each_fault_has_its_sentence(place, words, message):
    code, said = carried_out(words)
    assert code and not STARTED and message in said, said[:400]
    assert said.count("\n") == 1 and len(said.strip()) <= 300, said[:400]


def test_yaml_words_are_meant(place):
    for words in (["run", "x.yaml", "-p", "mixed_precision", "no"],
                  ["run", "x.yaml", "--name", "rates/lr=1e-4"], ["run", "x.yaml", "-p", "features", ""]):
        assert carried_out(words) == (0, ""), words


HEAVY = """
import sys
from ares.__main__ import main
try: main(sys.argv[1:])
except SystemExit: pass
print(sorted({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["sweep", "--help"], ["rnu"],
                                   ["run", "none.yaml"], ["run", "twice.yaml"],
                                   ["run", "x.yaml", "-p", "x", "["],
                                   ["run", "x.yaml", "--name", "lr{1}"], ["report", "nothing"],
                                   ["watch", "nothing"], ["compare", "a", "b"],
                                   ["stage", "runs/mine", "rl1"]], ids=" ".join)
def test_help_and_refusals_import_nothing_heavy(place, words):
    done = subprocess.run([sys.executable, "-c", HEAVY, *words], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr[-300:]


@pytest.mark.parametrize("words", [["settings"], ["cost", "x.yaml"], ["ledger", "mine"],
                                   ["run", "x.yaml", "-p", "rl_lr", "-1"]], ids=" ".join)
def test_commands_that_only_read_do_not_import_pytorch(place, words):
    done = subprocess.run([sys.executable, "-c", HEAVY, *words], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    assert not {"torch", "transformers"} & set(re.findall(r"\w+", done.stdout.splitlines()[-1])), done.stdout


def test_papermill_has_nothing_to_warn_of_in_the_readme(tmp_path):
    lines = re.findall(r"^papermill nbs/runs/rl.*", (ROOT/"README.md").read_text(), re.M)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert commands
    for program, notebook, _, *words in commands:
        done = subprocess.run([Path(sys.executable).parent/program, notebook, tmp_path/"out.ipynb", *words,
                               "--prepare-only"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "unknown parameter" not in done.stderr, done.stderr


def test_a_stage_whose_turn_has_not_come_is_refused(tmp_path):
    config = load_config(SMALL)
    for stage, message in (("rl1", "no stage 'rl1'; its stages are baseline, rl-1, sft-1"),
                           ("rl-1", "baseline is not done"), ("sft-1", "rl-1 is not done")):
        with pytest.raises(AresError, match=re.escape(message)): run_stage(config, tmp_path/"run", stage)
    assert not (tmp_path/"run").exists()
