"ARES: reinforcement learning on sentence scores, alternating with fine-tuning on a teacher's corrections."
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
    from importlib import import_module
    return getattr(import_module(f"ares.{_HOME[name]}"), name)


def __dir__(): return sorted({*globals(), *_HOME})
