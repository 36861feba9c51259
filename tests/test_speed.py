"Sampling and a PPO epoch take no more time than they used to, measured in matrix products of the same size."
import time

import pytest
import torch

from ares.data.own import _fill_splits
from ares.data.problem import Problem
from ares.data.prompts import rationale_prompt
from ares.data.synthetic import make_problems
from ares.students.base import ValueHead
from ares.students.t5 import new_student
from ares.training.ppo import PPOConfig, PPOTrainer
from ares.training.rollouts import add_logprobs, generate_rollouts

SIZE = dict(d_model=64, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=800,
            image_size=32, patch=8, image_heads=2)
TOKENS, SAMPLES, REPEATS = 16, 4, 7
# the time of a phase divided by that of the reference (see `ratios`); four measurements on a core with much
# other work gave 5.5 to 5.9 and 12.4 to 12.6
USUAL = dict(sampling=5.6, ppo=12.5)
ALLOWED = 1.5


def reference():
    "A thousand products of small matrices, as a student of this size computes them."
    a = torch.ones(64, 64)
    for _ in range(1000): a = torch.mm(a, a).clamp_(max=1.0)


class Phases:
    "The phases of a collection, on made-up problems and with made-up scores."
    def __init__(self):
        torch.manual_seed(0)
        self.problems = make_problems(8, seed=0)
        self.prompts = [rationale_prompt(p) for p in self.problems]
        self.student = new_student(SIZE, self.prompts)
        self.student.model.config.eos_token_id = -1  # every response has the same length
        head, config = ValueHead(self.student), PPOConfig(lr=1e-6, ppo_epochs=1, batch_size=16, grad_accum=1)
        self.rollouts, self.trainer = self.sampling(), PPOTrainer(self.student, head, config)
        add_logprobs(self.rollouts, self.student, head)
        for r in self.rollouts: r.scores = [0.1 + 0.8 * (i % 2) for i in range(len(r.sentences))]

    def sampling(self): return generate_rollouts(self.student, self.problems, self.prompts, SAMPLES, TOKENS)
    def ppo(self): self.trainer.update(self.rollouts)


def ratios(**works):
    "The fastest processor time of each work, divided by that of the reference; all are measured in turn."
    works = dict(reference=reference) | works
    seconds = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    best = {name: min(times) for name, times in seconds.items()}
    return {name: best[name] / best["reference"] for name in works if name != "reference"}


def slower(measured):
    "The phases that take more than the allowed multiple of their usual time."
    return {name: round(ratio, 2) for name, ratio in measured.items() if ratio > ALLOWED * USUAL[name]}


@pytest.fixture(scope="module")
def phases():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Phases()
    torch.set_num_threads(threads)


def test_no_phase_is_slower(phases):
    def late(): return slower(ratios(sampling=phases.sampling, ppo=phases.ppo))
    # other work on the machine may disturb one measurement, but hardly three
    assert any(not late() for _ in range(3)), "if this is meant, measure again and change USUAL"


def test_a_phase_of_twice_the_work_is_noticed(phases):
    def twice():
        for _ in range(2): phases.sampling()
    measured = ratios(once=phases.sampling, twice=twice)
    assert measured["twice"] > ALLOWED * measured["once"]
    assert list(slower(USUAL | dict(sampling=2 * USUAL["sampling"]))) == ["sampling"]


def test_the_time_for_making_splits_grows_with_the_questions():
    def seconds(n):
        problems = [Problem(str(i), "Why?", ["a", "b"], 0, split="train") for i in range(n)]
        start = time.process_time()
        _fill_splits(problems, [p.id for p in problems])
        return time.process_time() - start
    few, many = (min(seconds(n) for _ in range(3)) for n in (1000, 16_000))
    assert many < 35 * few, "sixteen times the questions should take about sixteen times as long"
