"What a command starts (the processes of a launcher, the jobs of a sweep, the kernels of notebooks) as forks."
import atexit, multiprocessing, os, runpy, signal, subprocess, sys, time
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from unittest.mock import patch

import psutil
import torch
from jupyter_client.provisioning import local_provisioner
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import forks
from conftest import start
from forks import FORKS, ForkedKernel, fork_kernel, settle

start_process = subprocess.Popen
own_files = {}  # stream (1 or 2) -> file, of a fork


def send_signal(fork, number):
    "As a `subprocess.Popen` does, which leaves a process alone that has ended."
    if fork.poll() is None: os.kill(fork.pid, number)


ForkedKernel.send_signal = send_signal


def server():
    "The address of the server of all forks."
    if forkserver._forkserver._forkserver_address is None: forkserver.ensure_running()
    return forkserver._forkserver._forkserver_address


def start_forks(address):
    "From now on what this process, a fork itself, starts are forks of the same server."
    multiprocessing.current_process().daemon = False  # so that it may start others
    forkserver._forkserver._forkserver_address = address
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running  # its parent looks after it
    subprocess.Popen = subprocess_handler.Popen = fork_python
    local_provisioner.launch_kernel = fork_kernel


def be_python(module, words, folder, environment, files, session, address):
    "Become `python -m module`."
    if session: os.setsid()
    settle(folder, environment, files)
    own_files.update(files)
    start_forks(address)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore Ctrl-C
    if "OMP_NUM_THREADS" in environment: torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = [module, *words]
    try: runpy.run_module(module, run_name="__main__")
    finally: atexit._run_exitfuncs()  # forks leave them out


class ForkedPython(ForkedKernel):
    "A module in a fork; it answers as a `subprocess.Popen` does."
    def __init__(self, module, words, folder, environment, files, session):
        self.args = [sys.executable, "-m", module, *words]
        settings = (module, words, folder, environment, files, session, server())
        self.process = FORKS.Process(target=be_python, args=settings, daemon=True)
        self.process.start()
        self.pid = self.process.pid
        while session and self.poll() is None and os.getpgid(self.pid) != self.pid: time.sleep(0.005)

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


def with_forks(address, do, *args):
    "Do something in a fork; what it starts are forks too."
    start_forks(address)
    do(*args)


def start_with_forks(do, *args, log):
    "As `start` of conftest; what the process starts are forks."
    return start(with_forks, server(), do, *args, log=log)


def be_command(address, *settings):
    "Become the command `ares`; what it starts are forks."
    start_forks(address)
    forks.be_command(*settings)


def run_command(*words, **options):
    "As `run_command` of forks; the kernels that the command starts are forks."
    with patch.object(forks, "be_command", partial(be_command, server())):
        return forks.run_command(*words, **options)


def processes_of(run):
    "The process that holds the lock of a run, and the kernel of its notebooks: they have these files open."
    files = {Path(run)/"lock", Path(run)/"notebooks"/"kernel.log"}
    def works_on_it(process):
        try: return not files.isdisjoint(Path(file.path) for file in process.open_files())
        except psutil.NoSuchProcess: return False
    return list(filter(works_on_it, psutil.Process().children(recursive=True)))
