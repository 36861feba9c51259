"Forks in place of `python -m module`: the processes of a launcher, the jobs of a sweep, papermill."
import atexit, os, runpy, signal, subprocess, sys
from pathlib import Path

import psutil
import torch
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from conftest import start
from forks import Fork, settle

start_process = subprocess.Popen
own_files = {}  # stream (1 or 2) -> file, of a fork


def fork_modules():
    "From now on each `python -m module` that this process starts is a fork."
    subprocess.Popen = subprocess_handler.Popen = fork_python


def be_python(module, words, folder, environment, files, session):
    "Become `python -m module`."
    if session: os.setsid()
    settle(folder, environment, files)
    own_files.update(files)
    fork_modules()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore Ctrl-C
    if "OMP_NUM_THREADS" in environment: torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = [module, *words]
    try: runpy.run_module(module, run_name="__main__")
    finally: atexit._run_exitfuncs()  # forks leave them out


class ForkedPython(Fork):
    "A module in a fork; it answers as a `subprocess.Popen` does."
    def __init__(self, module, words, folder, environment, files, session):
        super().__init__(be_python, module, words, folder, environment, files, session)
        self.args = [sys.executable, "-m", module, *words]
        if session: self.wait_for_group()

    def __enter__(self): return self
    def __exit__(self, *error): self.wait()

    @property
    def returncode(self): return self.poll()

    def communicate(self, input=None, timeout=None):
        self.wait(timeout)
        return None, None


def fork_python(args, stdout=None, stderr=None, cwd=None, env=None, start_new_session=False, **other):
    "As `subprocess.Popen`; `python -m module` whose output nobody reads from a pipe is a fork."
    words = [str(word) for word in args if word != "-u"] if isinstance(args, (list, tuple)) else [args]
    given = {1: stdout, 2: stdout if stderr == subprocess.STDOUT else stderr}  # open files, or None
    if words[:2] != [sys.executable, "-m"] or subprocess.PIPE in given.values():
        options = dict(stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=start_new_session)
        return start_process(args, **options, **other)
    files = {stream: os.path.abspath(file.name) for stream, file in given.items() if file}
    environment = dict(os.environ if env is None else env)
    return ForkedPython(words[2], words[3:], str(cwd or os.getcwd()), environment, own_files | files,
                        start_new_session)


def with_forks(do, *args):
    "Do something in a fork; the modules that it starts are forks too."
    fork_modules()
    do(*args)


def start_with_forks(do, *args, log):
    "As `start` of conftest; the modules that the process starts are forks."
    return start(with_forks, do, *args, log=log)


def processes_of(run):
    "The process that holds the lock of a run, and the kernel of its notebooks: they have these files open."
    files = {Path(run)/"lock", Path(run)/"notebooks"/"kernel.log"}
    def works_on_it(process):
        try: return not files.isdisjoint(Path(file.path) for file in process.open_files())
        except psutil.NoSuchProcess: return False
    return list(filter(works_on_it, psutil.Process().children(recursive=True)))
