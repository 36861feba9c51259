"Processes that begin with everything imported, so that no test waits for a start of Python."
import gc, multiprocessing, os, signal, subprocess, sys, tempfile, time
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path

from jupyter_client.provisioning import local_provisioner

from ares.teachers import sender

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload("""ares.pipeline.stages ares.pipeline.sweep ares.teachers.llm ares.reports.report
    ares.teachers.mock_server ares.data.vision ipykernel.kernelapp matplotlib.backends.backend_agg pandas
    pytest jupyter_client.provisioning anthropic openai trl""".split())
start_kernel, start_sender = local_provisioner.launch_kernel, sender._start_process


def server():
    "The address of the server of all forks."
    if forkserver._forkserver._forkserver_address is None: forkserver.ensure_running()
    return forkserver._forkserver._forkserver_address


def use_forks():
    "From now on the kernels and senders that this process starts are forks."
    local_provisioner.launch_kernel, sender._start_process = fork_kernel, fork_sender


def be_fork(address, do, *args):
    "What every fork does: its own forks come from the same server."
    gc.freeze()  # what was imported stays, so the collector need not look at it
    forkserver._forkserver._forkserver_address = address
    # another process started the server, so there is nothing to start here but the tracker
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running
    use_forks()
    do(*args)


def fork(do, *args):
    "Do something in a fork."
    process = FORKS.Process(target=be_fork, args=(server(), do, *args))
    process.start()
    return process


class Fork:
    "A process that is a fork; it answers as a `subprocess.Popen` does."
    stdin = stdout = stderr = None

    def __init__(self, do, *args):
        self.process = fork(do, *args)
        self.pid = self.process.pid

    def poll(self): return self.process.exitcode
    def terminate(self): self.send_signal(signal.SIGTERM)
    def kill(self): self.send_signal(signal.SIGKILL)

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def wait_for_group(self):
        "Wait until it is the first of a group of processes."
        while self.poll() is None and os.getpgid(self.pid) != self.pid: time.sleep(0.005)


def redirect(files):
    "From now on the streams of this process (1 and 2) write to files that exist."
    for stream, file in files.items(): os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)


def settle(folder, environment, files):
    "Give a fork the folder, the environment and the output files of a new process."
    redirect(files)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def be_command(words, folder, environment, files):
    "Become the command `ares`."
    settle(folder, environment, files)
    from ares.__main__ import main
    sys.argv = ["ares", *words]
    sys.exit(main())


def run_command(*words, cwd, env=None, timeout=900):
    "Run the command `ares` in a fork, and give what `subprocess.run` gives."
    with tempfile.TemporaryDirectory() as folder:
        files = {1: Path(folder)/"stdout", 2: Path(folder)/"stderr"}
        for file in files.values(): file.touch()
        environment = dict(os.environ if env is None else env)
        process = fork(be_command, list(map(str, words)), str(cwd), environment, files)
        process.join(timeout)
        late = process.is_alive()
        if late: process.kill()
        assert not late, f"ares {words}: not done in {timeout} seconds"
        texts = [file.read_text() for file in files.values()]
    return subprocess.CompletedProcess(["ares", *words], process.exitcode, *texts)


def be_kernel(words, folder, environment, files):
    "Become the kernel of a notebook, in a group of processes of its own."
    os.setsid()
    settle(folder, environment, files)
    from ipykernel.kernelapp import IPKernelApp
    import matplotlib
    inline = "module://matplotlib_inline.backend_inline"
    matplotlib.rcParams["backend"] = environment.get("MPLBACKEND", inline)
    sys.argv = ["ipykernel_launcher", *words]
    IPKernelApp.launch_instance(words)


def fork_kernel(command, stdout=None, stderr=None, cwd=None, env=None, **other):
    "As `launch_kernel` of jupyter_client; a kernel of Python is a fork."
    if command[1:3] != ["-m", "ipykernel_launcher"]:
        return start_kernel(command, stdout=stdout, stderr=stderr, cwd=cwd, env=env, **other)
    environment = dict(os.environ if env is None else env)
    environment.pop("JPY_PARENT_PID", None)  # a fork's parent is the server of the forks
    given = {1: stdout, 2: stderr}  # open files, or None
    files = {stream: os.path.abspath(file.name) for stream, file in given.items() if file}
    kernel = Fork(be_kernel, command[3:], str(cwd or os.getcwd()), environment, files)
    kernel.wait_for_group()
    return kernel


def be_sender(ledger, environment, files, options):
    "Become a sender, in a group of processes of its own."
    os.setsid()
    settle(os.getcwd(), environment, files)
    os.dup2(options.fileno(), 0)
    sys.stdin = open(0)
    sys.argv = ["-c", ledger]
    sender.run_sender()


def fork_sender(ledger, environment, log):
    "As `_start_process` of the senders; the sender is a fork."
    end, own_end = os.pipe()
    files = {1: os.devnull, 2: os.path.abspath(log.name)}
    with Connection(end, writable=False) as options:
        process = Fork(be_sender, str(ledger), environment, files, options)
    process.stdin = open(own_end, "wb", buffering=0)
    Finalize(process, process.stdin.close, exitpriority=10)  # a sender ends when its input is closed
    return process
