"The commands on the page on several machines, and of the batch script, are understood by their tools."
import json, os, re, shlex, subprocess

import pytest

from conftest import ROOT

PAGE = ROOT/"nbs"/"explanations"/"scale.ipynb"


def commands():
    "The lines of the page's shell blocks that start something."
    text = "\n".join("".join(c["source"]) for c in json.loads(PAGE.read_text())["cells"])
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


def understood(words):
    "The words that a launcher leaves to what it starts."
    if words[:2] == ["accelerate", "launch"]:
        from accelerate.commands.config.config_args import load_config_from_file
        from accelerate.commands.launch import launch_command_parser
        args = launch_command_parser().parse_args(words[2:])
        assert args.module
        if args.config_file: assert load_config_from_file(str(ROOT/args.config_file)).num_processes
        else: assert args.num_processes % (args.num_machines or 1) == 0
        return [args.training_script, *args.training_script_args]
    from torch.distributed.run import get_args_parser
    args = get_args_parser().parse_args(words[1:])
    assert args.module
    return [args.training_script, *args.training_script_args]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_page_is_one(words):
    from ares.__main__ import parser
    from ares.pipeline.config import refuse_unknown
    if words[0] == "papermill":
        from papermill.__main__ import papermill
        given = papermill.make_context("papermill", words[1:]).params["parameters"]
        assert (ROOT/words[1]).exists()
        return refuse_unknown([k for k, _ in given if k not in ("run", "stage", "params")], "the page")
    if words[0] == "sbatch":
        script = words.index("params/slurm.sh")
        assert (ROOT/words[script]).exists()
        words = ["ares", "run", *words[script + 1:]]
    elif words[0] != "ares": words = understood(words)
    assert words[0] == "ares"
    args = parser().parse_args(words[1:])
    refuse_unknown([k for k, _ in args.p], "the page")


def test_the_batch_script_starts_a_launcher_on_each_machine(tmp_path):
    # a machine after the other
    tools = dict(scontrol='echo "one\ntwo"', torchrun='echo "$SLURM_NODEID|$OMP_NUM_THREADS|$*" >> "$SAID"',
                 srun='shift 2; for n in 0 1; do SLURM_NODEID=$n "$@"; done')
    for name, text in tools.items():
        (tmp_path/name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path/name).chmod(0o755)
    env = os.environ | dict(
        PATH=f"{tmp_path}:{os.environ['PATH']}", SAID=str(tmp_path / "said"), TORCHRUN="torchrun",
        SLURM_JOB_NODELIST="one,two", SLURM_JOB_ID="12034", SLURM_NNODES="2", SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="16",
    )
    script = ["bash", str(ROOT/"params"/"slurm.sh")]
    done = subprocess.run(
        [*script, "params/smoke.yaml", "--name", "mine", "-p", "data", "a path"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [line.split("|") for line in (tmp_path/"said").read_text().splitlines()]
    assert [(node, threads) for node, threads, _ in said] == [("0", "4"), ("1", "4")]
    for node, _, words in said:
        launcher = f"--nnodes 2 --node-rank {node} --nproc-per-node 4 --master-addr one --master-port 29534"
        assert words == f"{launcher} -m ares run params/smoke.yaml --name mine -p data a path"
        assert understood(["torchrun", *words.split()])[:3] == ["ares", "run", "params/smoke.yaml"]
    assert subprocess.run(script, env=env, capture_output=True).returncode == 2
