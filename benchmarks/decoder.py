"""Seconds of each stage of a pretrained decoder (params/smollm2_scienceqa.yaml), with and without padding.

    OMP_NUM_THREADS=1 python benchmarks/decoder.py path/to/scienceqa --dtype float32 --repeats 3

CPU seconds, one thread. Both ways take turns in one process; medians. Responses are the data set's own
solutions, cut to 1/2, 2/3, 5/6 and all of their tokens, so that no training run is needed. The stages
"sampling" and "greedy" write texts. Beside a stage: the products of its tokens with the weights, in GFLOP, and
the seconds that they alone would take.
"""
import argparse, json, statistics, time
from collections import Counter
from unittest.mock import patch

import torch
from torch.nn.functional import linear

from ares.core.io import set_seed
from ares.data.prompts import rationale_prompt
from ares.pipeline.build import load_splits, make_student, ppo_config
from ares.pipeline.config import load_config
from ares.students.decoder import _SlicedDecoder
from ares.training.ppo import _shuffled_batches, batch_losses
from ares.training.rollouts import add_logprobs, generate_rollouts, make_rollout
from ares.training.sft import gold_examples

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("data", help="folder that holds problems.json")
arguments.add_argument("--dtype", default="float32")
arguments.add_argument("--repeats", type=int, default=3)
arguments.add_argument("--steps", type=int, default=24, help="new tokens when sampling")
arguments.add_argument("--rows", type=int, default=0, help="rollouts of a pass; 0 for the setting")
arguments.add_argument("--stages", default="sft reference training sampling greedy")
arguments.add_argument("--ways", default="padded packed")
asked = arguments.parse_args()
torch.set_num_threads(1)
set_seed(0)
config = load_config("params/smollm2_scienceqa.yaml", data=asked.data, dtype=asked.dtype,
                     similarity="lexical")
splits = load_splits(config)
student = make_student(config, splits["train"])
for name, weights in student.model.named_parameters():  # an adapter that has learned something
    if "lora_B" in name: torch.nn.init.normal_(weights, std=0.01)
products = Counter()  # (rows, inputs, outputs) of each product with weights, forward
def count_product(module, inputs, output):
    products[inputs[0].numel() // module.in_features, module.in_features, module.out_features] += 1
for module in student.model.modules():
    if isinstance(module, torch.nn.Linear): module.register_forward_hook(count_product)
reference, packs = student.copy(), _SlicedDecoder.packs
gold = [p for p in splits["train"] if p.solution]
problems = gold[:config.collect_problems]

def sample_of(problem, part):
    "A rollout with a part of the problem's solution as its response."
    ids = student.tokenizer(problem.solution, add_special_tokens=False).input_ids
    tokens = ids[:min(config.max_new_tokens, len(ids)) * part // 6 or 1] + [student.tokenizer.eos_token_id]
    return make_rollout(student, problem, rationale_prompt(problem), tokens, [-1.0] * len(tokens))

rollouts = [sample_of(p, part) for p in problems for part in (3, 4, 5, 6)]
lengths, owners = [len(r.tokens) for r in rollouts], [r.problem.id for r in rollouts]
size = asked.rows or config.rl_batch_size
batches = _shuffled_batches(lengths, owners, size)
batch = sorted(batches, key=lambda b: sum(lengths[i] for i in b))[len(batches) // 2]
chosen = [rollouts[i] for i in batch]
print(f"{len(chosen)} rollouts with {sum(len(r.tokens) for r in chosen)} tokens")
examples = gold_examples(gold[:3 * config.baseline_batch_size], config.gold_conclusion)
collate, size = student.examples_collator(), config.baseline_batch_size
sft_batches = [collate(examples[i:i + size]) for i in range(0, len(examples), size)]

def sft():
    "Three steps, forward and backward."
    losses = []
    for one in sft_batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=asked.dtype == "bfloat16"):
            loss = student.model(**one).loss
        loss.backward()
        losses.append(loss.item())
    student.model.zero_grad()
    return losses

def reference_pass():
    add_logprobs(chosen, reference, batch_size=len(chosen))
    return [sum(r.ref_logprobs) for r in chosen]

def training():
    "One batch, forward and backward; the step is not taken."
    advantages = torch.randn(len(chosen), max(lengths), generator=torch.Generator().manual_seed(0))
    loss, *_ = batch_losses(student, None, chosen, advantages, advantages, ppo_config(config))
    loss.backward()
    norm = sum(p.grad.pow(2).sum() for p in student.model.parameters() if p.grad is not None).sqrt().item()
    student.model.zero_grad()
    return [loss.item(), norm]

def sampling(num_samples=config.num_samples, sample=True):
    set_seed(0)
    found = generate_rollouts(
        student, problems, [rationale_prompt(p) for p in problems], num_samples=num_samples, top_k=50 * sample,
        max_new_tokens=asked.steps, batch_size=config.rollout_batch_size, temperature=0.8, sample=sample)
    print(f"{len(found)} texts with {sum(len(r.tokens) for r in found)} tokens")
    return [logprob for r in found for logprob in r.logprobs]

def greedy(): return sampling(1, False)

def seconds_alone(rows, inputs, outputs):
    "The best time of one product of this shape."
    states, weights, best = torch.randn(rows, inputs), torch.randn(outputs, inputs), float("inf")
    for _ in range(4):
        started = time.process_time()
        linear(states, weights)
        best = min(best, time.process_time() - started)
    return best

def work_of(shapes, seconds, peak):
    "How the time of a stage compares with that of its products."
    work = sum(2 * m * k * n * count for (m, k, n), count in shapes.items()) / 1e9
    alone = sum(seconds_alone(*shape) * count for shape, count in shapes.items())
    share = round(work / seconds / peak, 2)
    return dict(GFLOP=round(work), share_of_peak=share, products_alone=round(alone, 2))

peak = 2 * 2.048 ** 3 / seconds_alone(2048, 2048, 2048)
print(f"matrix peak of one thread: {peak:.0f} GFLOP/s")
works = dict(sft=sft, reference=reference_pass, training=training, sampling=sampling, greedy=greedy)
for stage in asked.stages.split():
    spent, results, shapes = {}, {}, {}
    for _ in range(asked.repeats):
        for way in asked.ways.split():
            allowed = packs if way == "packed" else lambda *_: False
            with patch.object(_SlicedDecoder, "packs", allowed):
                products.clear()
                started = time.process_time()
                results[way] = works[stage]()
                spent.setdefault(way, []).append(round(time.process_time() - started, 2))
                shapes[way] = Counter(products)
    medians = {way: statistics.median(times) for way, times in spent.items()}
    print(json.dumps(dict(stage=stage, medians=medians, all=spent)), flush=True)
    if stage in ("reference", "sampling", "greedy"):  # forward only
        for way in shapes: print(way, work_of(shapes[way], medians[way], peak), flush=True)
    if len(results) == 2: print("largest difference", max(map(abs, map(float.__sub__, *results.values()))))
