"ARES: reinforcement learning on sentence scores, alternating with fine-tuning on a teacher's corrections."
import sys
from importlib import import_module
from importlib.machinery import PathFinder

__version__ = "0.1.0"

_HOME = { # name -> the module it is imported from when it is first used
    "Problem": "data.problem", "make_problems": "data.synthetic",
    "load_scienceqa": "data.datasets", "load_aokvqa": "data.datasets",
    "rationale_prompt": "data.prompts", "read_answer": "data.prompts", "sentences_of": "data.sentences",
    "load_student": "students.loading", "ValueHead": "students.base",
    "load_teacher": "teachers.llm", "FactTeacher": "teachers.offline", "ReferenceTeacher": "teachers.offline",
    "Rollout": "training.rollouts", "generate_rollouts": "training.rollouts", "score_rollouts": "training.rollouts",
    "sentence_rewards": "training.rewards", "token_rewards": "training.rewards",
    "compute_advantages": "training.ppo", "policy_loss": "training.ppo",
    "PPOConfig": "training.ppo", "PPOTrainer": "training.ppo",
    "SFTConfig": "training.sft", "fit_sft": "training.sft", "fit_answers": "training.answers",
    "accuracy_by_category": "evaluation.metrics", "win_rate": "evaluation.judge",
    "ARESConfig": "pipeline.config", "load_config": "pipeline.config", "load_splits": "pipeline.build",
    "run_ares": "pipeline.stages", "read_results": "pipeline.folder",
    "load_run": "pipeline.answer",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name):
    "Import a public name of the method when it is first used, so that `import ares` takes no time."
    if name not in _HOME: raise AttributeError(f"module 'ares' has no attribute {name!r}")
    return getattr(import_module(f"ares.{_HOME[name]}"), name)


def __dir__(): return sorted({*globals(), *_HOME})


# `transformers` finds our T5 after `import ares`, which must take no time: a small class stands for the
# configuration in `AutoConfig`, and the first `config.json` of our T5 imports the module with the real classes.
_AUTO_MODULE = "transformers.models.auto.configuration_auto"


class _LazyT5Config:
    "Makes the configuration of a T5 when `AutoConfig` reads one."
    model_type = "multimodal_t5"

    def __new__(cls, *args, **settings):
        return import_module("ares.students.t5").MultimodalT5Config(*args, **settings)

    @classmethod
    def from_dict(cls, *args, **settings):
        return import_module("ares.students.t5").MultimodalT5Config.from_dict(*args, **settings)


class _AutoFinder:
    "Registers the class above as soon as the module of `AutoConfig` has been imported."
    def find_spec(self, name, path=None, target=None):
        if name != _AUTO_MODULE: return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def run_and_register(module):
            run(module)
            module.AutoConfig.register("multimodal_t5", _LazyT5Config)

        spec.loader.exec_module = run_and_register
        return spec


if _AUTO_MODULE in sys.modules: sys.modules[_AUTO_MODULE].AutoConfig.register("multimodal_t5", _LazyT5Config)
else: sys.meta_path.insert(0, _AutoFinder())
