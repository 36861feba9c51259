"Run in the kernel of a page before its cells: programs that the page starts become forks of the kernel."
import multiprocessing, runpy, subprocess, sys
from pathlib import Path

FORKS = multiprocessing.get_context("fork")
new_process, started = subprocess.run, []


def be_program(words, log):
    "Become the program, with a namespace of its own."
    sys.stdout = sys.stderr = log.open("w")
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def run(command, **settings):
    "As `subprocess.run`. The first program is a new process; the others have the libraries already."
    started.append(command)
    if command[0] != sys.executable or len(started) == 1: return new_process(command, **settings)
    log = Path(command[-1]).with_suffix(".log")
    process = FORKS.Process(target=be_program, args=(command[1:], log))
    process.start()
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode, "", log.read_text())


subprocess.run = run
