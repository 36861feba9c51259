"Two processes, with whole and with sharded weights: the same steps as one, the whole loop, and a kill."
import json, os, re, subprocess, sys, time

import psutil
import pytest
import torch
import yaml

from ares.core.distributed import launch
from ares.pipeline.config import load_config
from ares.pipeline.stages import notebook_record
from conftest import ROOT, end, lines, loop, results_of, start_loop
from launches import fork_python, start_with_forks

CPU = torch.device("cpu")

# Thirteen rollouts in steps of eight, forty-three examples in batches of eight: nothing comes out even. Some
# problems have no picture.
UPDATES = '''
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from ares.pipeline.stages import _last_state, _save_state
from ares.core.io import set_seed
from ares.training.ppo import PPOConfig, PPOTrainer
from ares.data.synthetic import make_problems
from ares.core.distributed import run_on_main, init_distributed, process_count, unsharded_weights
from ares.data.prompts import rationale_prompt
from ares.training.rollouts import add_logprobs, make_rollout
from ares.training.sft import SFTConfig, _ShowProgress, fit_sft, gold_examples
from ares.training.answers import add_adapter
from ares.students.base import ValueHead
from ares.students.loading import load_student

out, fsdp = sys.argv[1], len(sys.argv) > 2
n = f"{process_count()}-fsdp" if fsdp else process_count()
init_distributed(torch.device("cpu"))
def weights(student):
    "Copies of all weights but the embeddings and the head."
    shared = ("embed_tokens", "lm_head")
    found = unsharded_weights(student.model).items()
    return {k: w.clone() for k, w in found if not any(name in k for name in shared)}
def keep(name, student):
    path = f"{out}/{name}-{n}.safetensors"
    with student.unsharded(): run_on_main(lambda: save_file(weights(student), path))
def held(tensors): return sum(getattr(t, "to_local", lambda: t)().numel() for t in tensors)

problems = make_problems(43, split="train", seed=1)
set_seed(0)
texts = [rationale_prompt(p) + p.solution for p in problems]
SIZES = dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=2, num_heads=2, vocab_size=600,
             dropout_rate=0.0)
student = load_student(SIZES, texts=texts)
keep("start", student)
learner, examples = student.copy(), gold_examples(problems)
def fit():
    "Two epochs of fine-tuning."
    config = SFTConfig(lr=3e-3, epochs=2, batch_size=8, fsdp=fsdp)
    fit_sft(learner, examples, examples[:9], f"{out}/fit-{n}", config)
if fsdp:  # cut off in the second epoch, and gone on with
    going_on = _ShowProgress.on_step_end
    def cut(self, args, state, control, **kwargs):
        if state.global_step == 8: raise KeyboardInterrupt
    _ShowProgress.on_step_end = cut
    try: fit()
    except KeyboardInterrupt: learner = student.copy()
    _ShowProgress.on_step_end = going_on
fit()
keep("sft", learner)
if not fsdp:
    sizes = dict(kind="decoder", d_model=32, d_ff=64, num_layers=2, num_heads=2, vocab_size=600)
    decoder = load_student(sizes, texts=texts)
    keep("decoder-start", decoder)
    fit_sft(decoder, examples, examples[:9], f"{out}/decoder-{n}", SFTConfig(lr=3e-3, epochs=2, batch_size=8))
    keep("decoder", decoder)
    adapted = student.copy()
    set_seed(1)
    add_adapter(adapted, r=4, alpha=8, dropout=0.0)
    config = SFTConfig(lr=3e-2, epochs=2, batch_size=8, grad_accum=2)
    fit_sft(adapted, examples, examples[:9], f"{out}/lora-{n}", config)
    keep("adapter", adapted)

set_seed(2)
size, rollouts = len(student.tokenizer), []
for i in range(13):
    tokens = torch.randint(3, size, (3 + i,)).tolist()
    problem = problems[i // 2]
    r = make_rollout(student, problem, rationale_prompt(problem), tokens, [0.0] * len(tokens))
    r.scores = torch.rand(len(r.sentences)).tolist()
    rollouts.append(r)
head = ValueHead(student)
def divide():
    for part in (student, head) if fsdp else (): part.shard()
PPO = PPOConfig(lr=3e-4, value_lr=2e-3, ppo_epochs=3, batch_size=4, grad_accum=2, value_warmup=1,
                target_kl=1.0)
def new_trainer(): return PPOTrainer(student, head, PPO)
def read_state(folder):
    global student, head, trainer
    student = load_student(str(folder/"student"))
    head = ValueHead(student)
    head.load(folder/"value")
    divide()
    trainer = new_trainer()
    trainer.load(folder/"trainer")
grouped = student.copy()  # learns without a value head
divide()
add_logprobs(rollouts, student, ValueHead(student, "shared"))
add_logprobs(rollouts, student, head)
for r in rollouts: r.logprobs = [x + 0.05 for x in r.ref_logprobs]
trainer, state = new_trainer(), Path(out, "state")
for _ in range(2): trainer.update(rollouts)
if fsdp:
    stacks = (student.model.encoder, student.model.decoder, head.trunk.encoder, head.trunk.decoder)
    blocks = [p for stack in stacks for p in stack.block.parameters()]
    averages = [trainer.optimizer.state[p]["exp_avg"] for p in blocks if p in trainer.optimizer.state]
    sizes = dict(all_weights=sum(p.numel() for p in blocks), all_averages=sum(a.numel() for a in averages))
    print(dict(weights=held(blocks), averages=held(averages)) | sizes)
    _save_state(state, student, head, trainer, [0, 0])
    dice = torch.get_rng_state()
    read_state(_last_state(state))
    torch.set_rng_state(dice)
dice = torch.get_rng_state()
metrics = [trainer.update(rollouts)]
keep("ppo", student)
if n == 1:  # goes on with what the two processes with divided weights have left
    read_state(_last_state(state))
    torch.set_rng_state(dice)
    trainer.update(rollouts)
    keep("taken-over", student)
if fsdp: grouped.shard()
GROUP = PPOConfig(advantage="group", lr=3e-4, ppo_epochs=3, batch_size=4, grad_accum=2)
PPOTrainer(grouped, None, GROUP).update(rollouts)
keep("group", grouped)
shown = "policy_loss value_loss approx_kl ratio clip_fraction grad_norm steps".split()
run_on_main(lambda: print({k: round(v, 5) for k, v in metrics[-1].items() if k in shown}))
'''


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    "The same updates by one process and by two."
    out = tmp_path_factory.mktemp("updates")
    (out/"updates.py").write_text(UPDATES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{out}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(subprocess, "Popen", fork_python)
        launch(["updates", out, "fsdp"], 2, CPU, out/"2-fsdp.log")
        for n in (1, 2): launch(["updates", out], n, CPU, out/f"{n}.log")
    return out


@pytest.mark.parametrize(
    "name, other",
    [
        ("sft", "sft-2"),
        ("decoder", "decoder-2"),
        ("adapter", "adapter-2"),
        ("ppo", "ppo-2"),
        ("group", "group-2"),
        ("sft", "sft-2-fsdp"),
        ("ppo", "ppo-2-fsdp"),
        ("group", "group-2-fsdp"),
        ("ppo", "taken-over-1"),
    ],
)
def test_two_processes_take_the_steps_of_one(updates, name, other):
    from safetensors.torch import load_file

    start, one, two = (
        load_file(updates / f"{n}.safetensors")
        for n in ("decoder-start-1" if name == "decoder" else "start-1", f"{name}-1", other)
    )
    assert one.keys() == two.keys()
    moved = (
        max((one[k] - start[k]).abs().max() for k in one if k in start)
        if name != "adapter"
        else max(p.abs().max() for k, p in one.items() if "lora_B" in k)
    )
    assert moved > 1e-3  # there was something to agree on
    # a bias of all keys moves no attention: its gradient is rounding alone, which Adam makes a step of
    for weights in (one, two):
        for k in weights:
            if k.endswith("mha_layer.in_proj_bias"): weights[k].view(3, -1)[1] = 0
    for k in one: assert (one[k] - two[k]).abs().max() <= 1e-5, (k, (one[k] - two[k]).abs().max())


@pytest.mark.parametrize("n", ["2", "2-fsdp"])
def test_two_processes_report_the_numbers_of_one(updates, n):
    one, two = (eval((updates/f"{n}.log").read_text().strip().split("\n")[-1]) for n in (1, n))
    assert one["steps"] == two["steps"] and all(abs(one[k] - two[k]) <= 2e-5 for k in one), (one, two)


PAIRS = [("fit-1", "fit-2"), ("fit-1", "fit-2-fsdp"), ("decoder-1", "decoder-2"), ("lora-1", "lora-2")]


@pytest.mark.parametrize("one, other", PAIRS)
def test_the_validation_loss_does_not_depend_on_the_number_of_processes(updates, one, other):
    def losses(name):
        records = map(json.loads, (updates/name/"metrics.jsonl").read_text().splitlines())
        return [r["eval_loss"] for r in records if "eval_loss" in r]
    assert len(losses(one)) == len(losses(other)) == 2
    for a, b in zip(losses(one), losses(other)): assert abs(a - b) < 1e-4, (losses(one), losses(other))


# The gradient of one process alone is infinite: both stop, and neither keeps anything.
DIVERGED = '''
import sys, torch
from pathlib import Path
from ares.core.io import AresError, set_seed
from ares.training.ppo import PPOConfig, PPOTrainer
from ares.data.synthetic import make_problems
from ares.core.distributed import init_distributed, process_index
from ares.data.prompts import rationale_prompt
from ares.training.rollouts import add_logprobs, generate_rollouts
from ares.training.sft import SFTConfig, fit_sft, gold_examples
from ares.students.loading import load_student

out = Path(sys.argv[1])
init_distributed(torch.device("cpu"))
problems = make_problems(8, split="train", seed=1)
prompts = [rationale_prompt(p) for p in problems]
set_seed(0)
sizes = dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=600)
student = load_student(sizes, texts=[q + p.solution for p, q in zip(problems, prompts)])
rollouts = generate_rollouts(student, problems, prompts, num_samples=2, max_new_tokens=12)
add_logprobs(rollouts, student)
for number, r in enumerate(rollouts): r.scores = [number / 16] * len(r.sentences)

def learner():
    "A copy of the student; in one process its gradients are infinite."
    one = student.copy()
    first = next(one.model.parameters())
    if process_index() == 1: first.register_hook(lambda gradient: gradient * float("inf"))
    return one

def sft():
    examples = gold_examples(problems)
    fit_sft(learner(), examples, examples, out/"fit", SFTConfig(batch_size=4, setting="sft_lr"))
def ppo(): PPOTrainer(learner(), None, PPOConfig(advantage="group", batch_size=4)).update(rollouts)

for stage in (sft, ppo):
    try: stage()
    except AresError as e: (out/f"{stage.__name__}-{process_index()}.txt").write_text(str(e))
'''


def test_a_training_that_diverges_stops_in_all_processes(tmp_path, monkeypatch):
    (tmp_path/"diverged.py").write_text(DIVERGED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(subprocess, "Popen", fork_python)
    launch(["diverged", tmp_path], 2, CPU, tmp_path/"log")
    for stage, setting in (("sft", "sft_lr"), ("ppo", "rl_lr")):
        for rank in (0, 1):
            said = (tmp_path/f"{stage}-{rank}.txt").read_text()
            assert "training has diverged" in said and f"a lower `{setting}`" in said and len(said) <= 300
    assert not list((tmp_path/"fit").glob("checkpoint-*"))


def test_divided_weights_are_held_once(updates):
    held = [eval(said) for said in re.findall(r"\{'weights'.*?\}", (updates/"2-fsdp.log").read_text())]
    assert len(held) == 2
    for k in ("weights", "averages"):
        assert (
            held[0][k] + held[1][k] == held[0][f"all_{k}"] > 0
            and 0.45 < held[0][k] / held[0][f"all_{k}"] < 0.55
        )


def test_a_compiled_student_says_the_same(monkeypatch):
    from functools import partial
    from ares.students.base import set_ways
    from ares.students.loading import load_student

    student = load_student(
        dict(d_model=32, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=300),
        texts=["The red ball is hot."],
    )
    # the tracing; what a backend makes of it takes a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = set_ways(student.copy(), compile=True)
    for prompts, length in ((["The red ball"], 5), (["ball", "The red ball is hot."], 9)):
        inputs, tokens = (
            student.inputs(prompts, [None] * len(prompts)),
            torch.randint(3, 200, (len(prompts), length)),
        )
        one, two = (s.token_logprobs(s.hidden(inputs, tokens), tokens) for s in (student, compiled))
        assert torch.allclose(one, two, atol=1e-5)
    assert compiled.model.encoder._compiled_call_impl is not None


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    "A smoke run of one round in two processes, in mixed precision and with checkpointing."
    path = tmp_path_factory.mktemp("params")/"two.yaml"
    path.write_text(
        yaml.safe_dump(
            yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text())
            | dict(rounds=1, num_processes=2, mixed_precision="bf16", gradient_checkpointing=True)
        )
    )
    return path


@pytest.fixture(scope="module")
def two(params, tmp_path_factory):
    "An uninterrupted run in two processes."
    run = tmp_path_factory.mktemp("two")/"run"
    end(start_with_forks(loop, params, run, log=run.with_suffix(".log")))
    return run


def worker(run, rank, stage):
    "The process of a rank that is at work on a stage."
    for p in psutil.process_iter(["cmdline"]):
        words = p.info["cmdline"] or []
        try:
            if (
                "stage" in words
                and words[-1] == stage
                and str(run) in words
                and p.environ().get("RANK") == str(rank)
            ):
                return p
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass


def test_a_killed_process_ends_the_run_with_one_line_and_it_goes_on(two, params, tmp_path):
    # with divided weights, whose kept state is put together from all processes; the numbers are those of
    # whole ones
    run = tmp_path/"killed"
    (tmp_path/"params.yaml").write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | dict(fsdp=True)))
    params, log = tmp_path/"params.yaml", tmp_path/"killed.log"
    end(start_with_forks(notebook_record, load_config(params), run, "baseline", log=log))
    process = start_loop(run, params)  # no forks, so that the process of a rank is found by its command
    while process.is_alive() and lines(run/"rl-1"/"metrics.jsonl") < 3: time.sleep(0.02)
    victim = worker(run, 1, "rl-1")
    assert victim, "the stage was over before it could be killed"
    victim.kill()
    process.join(120)
    assert process.exitcode == 1
    said = process.log.read_text().strip().split("\n")[-1]
    assert "process 1 was ended by signal 9" in said and "rl-1" in said
    end(start_with_forks(loop, params, run, log=log))
    assert results_of(run) == results_of(two)
    assert [
        json.loads(l)["collection"] for l in (run / "rl-1" / "metrics.jsonl").read_text().split("\n") if l
    ] == [1, 2, 3, 4]


def test_the_command_under_a_launcher(two, params, tmp_path):
    words = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file",
        str(ROOT / "params" / "fsdp.yaml"), "--num_processes", "2", "-m", "ares", "run", str(params),
        "--name", "launched",
    ]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | dict(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path/"runs"/"launched"
    assert results_of(run) == results_of(two)
    assert json.loads((run/"config.json").read_text())["fsdp"]
    assert done.stdout.count("report:") == 1 and (run/"report.html").exists()
    assert {p.stem for p in (run/"notebooks").glob("*.ipynb")} == {"baseline", "rl-1", "sft-1", "report"}
    with open(tmp_path/"fault.txt", "w") as said:
        fault = fork_python(words[:-2] + ["-p", "rl_Ir", "1"], cwd=tmp_path, stdout=said, stderr=said,
                            env=os.environ | dict(ACCELERATE_USE_CPU="true"))
        assert fault.wait(120)
    assert (tmp_path/"fault.txt").read_text().count("did you mean `rl_lr`") == 1
