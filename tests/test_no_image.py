"Problems without an image: the fusion is left out, or gets zeros as in the official code."
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from ares.training.answers import add_adapter, fit_answers
from ares.core.io import AresError, read_json, set_seed, write_json
from ares.students.loading import merged
from ares.training.ppo import PPOConfig, PPOTrainer
from ares.data.synthetic import make_problems
from ares.data.prompts import rationale_prompt
from ares.training.rollouts import add_logprobs, generate_rollouts
from ares.pipeline.config import ARESConfig, load_config
from ares.pipeline.build import load_trained, make_student
from ares.training.sft import SFTConfig
from ares.students.base import ValueHead
from ares.students.t5 import fuse, set_no_image
from ares.students.loading import load_student
from test_decoders import plain_t5

PICTURE = Image.new("RGB", (64, 64), "red")
PROMPTS = ["Why is the red ball hot?", "Why?", "The red ball"]
TOKENS = torch.tensor([[5, 6, 7, 1], [7, 8, 1, 0], [9, 5, 8, 1]])


def small_student(how=""):
    "A T5 with fresh weights and biases that are not zero."
    set_seed(0)
    student = load_student(dict(d_model=32, num_layers=1, num_decoder_layers=1), texts=PROMPTS)
    with torch.no_grad():
        for name, p in student.model.named_parameters():
            if name.endswith("bias"): p.normal_()
    return set_no_image(student, how)


def official_states(model, inputs, pictures):
    "The encoder of MM-CoT, written out: text, one attention to a picture for everybody, a gate."
    encoder, words = model.encoder, {k: inputs[k] for k in ("input_ids", "attention_mask")}
    text, image = T5Stack.forward(encoder, **words).last_hidden_state, encoder.image_dense(pictures)
    attention = encoder.mha_layer
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
               for x, w, b in zip((text, image, image), weights, biases))
    seen = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
    seen = attention.out_proj(seen.transpose(1, 2).flatten(2))
    gate = torch.sigmoid(encoder.gate_dense(torch.cat([text, seen], -1)))
    return (1 - gate) * text + gate * seen


def earlier_states(encoder, inputs):
    "The encoder as it was before there was a choice."
    words = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    text = T5Stack.forward(encoder, **words).last_hidden_state
    if "patches" not in inputs: return text
    keys, has_image = encoder.image_dense(inputs["patches"]), inputs["patch_mask"].any(1)
    hidden = ~(inputs["patch_mask"] | ~has_image[:, None])
    seen, _ = encoder.mha_layer(text, keys, keys, key_padding_mask=hidden, need_weights=False)
    return fuse(text, seen, encoder.gate_dense(torch.cat([text, seen], -1)), has_image)


def published(folder):
    "A checkpoint in the published form: its configuration is a plain T5's, its weights have the fusion."
    student = small_student()
    student.save(folder)
    known = T5Config().to_dict()
    config = {k: v for k, v in student.model.config.to_dict().items() if k in known}
    write_json(folder/"config.json", config | dict(model_type="t5", architectures=None))
    return str(folder)


@torch.no_grad()
def passes(student, prompts, pictures, tokens):
    "What sampling, scoring and training make of a batch, a row for each problem."
    inputs = student.inputs(prompts, pictures)
    set_seed(0)
    hidden, head = student.hidden(inputs, tokens), ValueHead(student)
    torch.nn.init.normal_(head.mlp[2].weight)
    written, _ = student.generate(inputs, max_new_tokens=4, sample=False)
    return dict(logprobs=student.token_logprobs(hidden, tokens), values=head.values(inputs, tokens),
                written=F.pad(written, (0, 4 - written.shape[1])))


@pytest.mark.parametrize("pictures", [[None] * 3, [None, PICTURE, None], [PICTURE] * 3])
def test_zeros_are_what_the_official_code_gives(pictures):
    student = small_student("zeros")
    inputs, size = student.inputs(PROMPTS, pictures), student.model.config.image_dim
    shown = inputs.get("patches", torch.zeros(3, 16, size))
    with torch.no_grad():
        ours, theirs = student.prefill(inputs), official_states(student.model, inputs, shown)
    assert (ours - theirs).abs().max() < 1e-5
    with torch.no_grad(): shut = set_no_image(student, "gate").prefill(inputs)
    without = [i for i, p in enumerate(pictures) if p is None]
    assert not without or (shut - theirs)[without].abs().amax((1, 2)).min() > 1e-2


@pytest.mark.parametrize("pictures", [[None] * 3, [None, PICTURE, None], [PICTURE] * 3])
def test_the_gate_computes_what_it_did_before(pictures):
    student = small_student()
    inputs = student.inputs(PROMPTS, pictures)
    with torch.no_grad(): assert student.prefill(inputs).equal(earlier_states(student.model.encoder, inputs))


@pytest.mark.parametrize("how", ["gate", "zeros"])
def test_a_mixed_batch_equals_single_problems(how):
    student, pictures = small_student(how), [None, PICTURE, None]
    together = passes(student, PROMPTS, pictures, TOKENS)
    for i in range(3):
        alone = passes(student, PROMPTS[i:i+1], pictures[i:i+1], TOKENS[i:i+1])
        for name, found in alone.items():
            assert torch.allclose(found[0].float(), together[name][i].float(), atol=1e-5), name


def test_the_supervised_loss_and_the_values_see_the_zeros():
    shut, zeros = small_student("gate"), small_student("zeros")
    examples = [dict(prompt=p, view=None, target="The ball is red.") for p in PROMPTS]
    losses = [s.model(**s.examples_collator()(examples)).loss.item() for s in (shut, zeros)]
    assert abs(losses[0] - losses[1]) > 1e-3
    heads = []
    for student in (shut, zeros):
        set_seed(0)
        head = ValueHead(student)
        torch.nn.init.normal_(head.mlp[2].weight)
        heads.append(head)
    values = [h.values(s.inputs(PROMPTS, [None] * 3), TOKENS) for h, s in zip(heads, (shut, zeros))]
    assert (values[0] - values[1]).abs().max() > 1e-3


@pytest.mark.parametrize("sees", [True, False])
def test_ppo_starts_at_a_ratio_of_one(sees):
    problems = [p for p in make_problems(60, seed=1) if sees or not p.has_image][:6]
    assert {p.has_image for p in problems} == ({True, False} if sees else {False})
    student = small_student("zeros")
    prompts = [rationale_prompt(p) for p in problems]
    rollouts = generate_rollouts(student, problems, prompts, num_samples=2, max_new_tokens=6)
    for i, r in enumerate(rollouts): r.scores = [float(i % 2)] * len(r.spans)
    head = ValueHead(student)
    add_logprobs(rollouts, student.copy(), head)
    for r in rollouts:
        sampled, scored = torch.tensor(r.logprobs), torch.tensor(r.ref_logprobs)
        assert torch.allclose(sampled, scored, atol=1e-4)
    trainer = PPOTrainer(student, head, PPOConfig(ppo_epochs=1, batch_size=12, grad_accum=1))
    before = student.model.encoder.image_dense.bias.detach().clone()
    metrics = trainer.update(rollouts)
    assert abs(metrics["kl"]) < 1e-4 and abs(metrics["approx_kl"]) < 1e-4 and abs(metrics["ratio"] - 1) < 1e-4
    assert not student.model.encoder.image_dense.bias.equal(before), "the zero pictures take part in learning"


def test_a_published_checkpoint_gets_zeros_and_keeps_them(tmp_path):
    (tmp_path/"published").mkdir()
    source = published(tmp_path/"published")
    student = load_student(source)
    inputs = student.inputs(PROMPTS, [None] * 3)
    pictures = torch.zeros(3, 145, student.model.config.image_dim)
    with torch.no_grad(): theirs = official_states(student.model, inputs, pictures)
    def off(one):
        with torch.no_grad(): return (one.prefill(inputs) - theirs).abs().max().item()
    assert off(student) < 1e-5 and off(student.copy()) < 1e-5
    student.save(tmp_path/"saved")
    assert read_json(tmp_path/"saved"/"config.json")["no_image"] == "zeros"
    assert off(load_student(str(tmp_path/"saved"))) < 1e-5
    config = ARESConfig(student=source, no_image="gate", device="cpu")
    chosen = make_student(config, [])
    assert chosen.model.config.no_image == "gate" and off(chosen) > 1e-2
    chosen.save(tmp_path/"shut")
    assert off(load_student(str(tmp_path/"shut"))) == off(chosen)
    assert load_student(plain_t5(tmp_path/"plain")).model.config.no_image == "gate"


def test_old_saved_students_skip_the_fusion(tmp_path):
    student = small_student()
    student.save(tmp_path)
    config = read_json(tmp_path/"config.json")
    assert config.pop("no_image") == "gate"
    write_json(tmp_path/"config.json", config)
    loaded, inputs = load_student(str(tmp_path)), student.inputs(PROMPTS, [None] * 3)
    assert loaded.model.config.no_image == "gate"
    with torch.no_grad(): assert loaded.prefill(inputs).equal(student.prefill(inputs))


@pytest.mark.parametrize("how", ["gate", "zeros"])
def test_an_adapter_remembers_the_choice(how, tmp_path):
    (tmp_path/"published").mkdir()
    source = published(tmp_path/"published")
    student = set_no_image(load_student(source), how)
    add_adapter(student, r=2, alpha=4, dropout=0.0, base=source)
    student.save(tmp_path/"adapter")
    loaded, inputs = load_student(str(tmp_path/"adapter")), student.inputs(PROMPTS, [None] * 3)
    with torch.no_grad():
        assert loaded.prefill(inputs).equal(student.prefill(inputs))
        assert torch.allclose(merged(loaded).prefill(inputs), student.prefill(inputs), atol=1e-5)
    merged(loaded).save(tmp_path/"whole")
    assert load_student(str(tmp_path/"whole")).model.config.no_image == how
    config = ARESConfig(student=source, lora=True, device="cpu")
    assert load_trained(config, tmp_path/"adapter").model.config.no_image == how
    (tmp_path/"adapter"/"fusion.json").unlink()  # as adapters were saved before
    assert load_student(str(tmp_path/"adapter")).model.config.no_image == "gate"


def test_the_answer_model_takes_over_the_choice(tmp_path):
    problems = make_problems(6, seed=1)
    student = small_student("zeros")
    config, lora = SFTConfig(lr=1e-3, epochs=1, batch_size=4), dict(r=2, alpha=4, dropout=0.0)
    answerer = fit_answers(student, problems, ["It is red."] * 6, tmp_path, config, lora=lora, look=False)
    assert answerer.model.config.no_image == "zeros"


def test_wrong_values_have_their_sentence(tmp_path):
    (tmp_path/"x.yaml").write_text("train_problems: 8\nval_problems: 8\ntest_problems: 8\nno_image: black\n")
    said = r"x\.yaml: `no_image` must be one of empty, gate, zeros, not 'black'"
    with pytest.raises(AresError, match=said): load_config(tmp_path/"x.yaml")
    small_student().save(tmp_path/"student")
    path = tmp_path/"student"/"config.json"
    for wrong in ("black", 3, None, ["gate"]):
        write_json(path, read_json(path) | dict(no_image=wrong))
        said = r"config\.json: `no_image` must be one of gate, zeros.*; correct it there"
        with pytest.raises(AresError, match=said): load_student(str(tmp_path/"student"))
    base = plain_t5(tmp_path/"plain")
    student = load_student(base)
    add_adapter(student, r=2, alpha=4, dropout=0.0, base=base)
    student.save(tmp_path/"adapter")
    for wrong in ("[]", "{}", '{"no_image": 1}', "not JSON"):
        (tmp_path/"adapter"/"fusion.json").write_text(wrong)
        with pytest.raises(AresError, match=r"fusion\.json"): load_student(str(tmp_path/"adapter"))


@pytest.mark.parametrize("kind", ["decoder", "vlm"])
def test_students_without_a_fusion_refuse_the_setting(kind):
    config = ARESConfig(student=dict(kind=kind, d_model=32, num_layers=1), no_image="zeros", device="cpu")
    said = "no_image: the student .* has no fusion of text and image"
    with pytest.raises(AresError, match=said): make_student(config, [])
