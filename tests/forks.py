"""Commands and kernels as forks of one process that has everything imported, so that they begin at once.

`serve` forks for each call. This file, started as a program, calls it and stands for the fork: it passes on
signals, ends as the fork ends, and takes the fork with it when it is killed.
"""
import json, os, signal, socket, sys, threading, time

COMMAND = [sys.executable, "-IS", os.path.abspath(__file__)]  # the words that follow are run by a fork
HEAVY = """ares.pipeline.stages ares.pipeline.notebooks ares.data.vision ares.teachers.llm
    ares.teachers.mock_server ares.reports.report ares.reports.compare
    ipykernel.kernelapp ipykernel.zmqshell matplotlib.pyplot""".split()


def announce(place):
    "Let Jupyter start its kernels as forks of what serves in a folder; gives the environment variables."
    kernel = place/"kernels"/"python3"/"kernel.json"
    kernel.parent.mkdir(parents=True)
    words = [*COMMAND, "ipykernel", "-f", "{connection_file}"]
    kernel.write_text(json.dumps(dict(argv=words, display_name="Python 3 (ipykernel)", language="python")))
    return dict(ARES_FORKS=str(place/"forks"), JUPYTER_PATH=str(place))


def run(words):
    "What a fork does: `ares ...`, or a kernel of Jupyter."
    sys.argv = words
    if words[0] == "ares":
        from ares.__main__ import main
        return main(words[1:])
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp
    # what a kernel says in its environment before matplotlib is imported
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    return IPKernelApp.launch_instance(parent_handle=int(os.environ["JPY_PARENT_PID"]))


def work(words, folder, environment, streams):
    "Be the process that was asked for, from its streams to its exit code."
    os.setsid()
    for place, stream in enumerate(streams): os.dup2(stream, place)
    sys.stdin, sys.stdout, sys.stderr = (open(i, mode, closefd=False) for i, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD): signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try: sys.exit(run(words))
    except SystemExit as end:
        code = end.code
        if isinstance(code, str): print(code, file=sys.stderr)
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 1
    leave(code if isinstance(code, int) else int(bool(code)))


def leave(code):
    "End as an interpreter ends: wait for threads, then clean up."
    import atexit
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code)


def pass_on(caller, process):
    "Send the caller's signals to a process, and end it when the caller is gone."
    try:
        while number := caller.recv(1): os.kill(process, number[0])
        os.kill(process, signal.SIGKILL)
    except (ConnectionError, ProcessLookupError): pass  # both have ended


def answer(caller):
    "Fork for one caller, and tell it how the fork ended."
    _, streams, *_ = socket.recv_fds(caller, 1, 3)
    words, folder, environment = json.loads(caller.makefile("rb").readline())
    process = os.fork()
    if not process:
        caller.close()
        work(words, folder, environment, streams)
    for stream in streams: os.close(stream)
    threading.Thread(target=pass_on, args=(caller, process), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try: caller.sendall(b"%d" % code)
    except ConnectionError: pass  # the caller was ended before
    os._exit(0)


def serve(path):
    "Answer callers until this process is ended."
    for stream in (sys.stdout, sys.stderr): stream.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for those that answer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        while True:
            caller, _ = server.accept()
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                answer(caller)
            caller.close()


def connected(path, seconds=120):
    "A socket that leads to `serve`, which may still be importing."
    begun, caller = time.time(), socket.socket(socket.AF_UNIX)
    while True:
        try: caller.connect(path)
        except OSError:
            if time.time() > begun + seconds: raise
            time.sleep(0.1)
        else: return caller


def call(path, words):
    "Let a fork run some words, and end as it ends."
    caller = connected(path)
    def send(number, frame): caller.sendall(bytes([number]))
    for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, send)
    socket.send_fds(caller, [b"."], [0, 1, 2])
    caller.sendall(json.dumps([words, os.getcwd(), dict(os.environ)]).encode() + b"\n")
    code = int(caller.recv(16) or 1)
    if code >= 0: sys.exit(code)
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


if __name__ == "__main__": call(os.environ["ARES_FORKS"], sys.argv[1:])
