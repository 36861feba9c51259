"""Walk the sixty-minute path with one clock: clone, set up, read, run, write a reward, compare.

    .venv/bin/python tests/walk.py FOLDER

makes a fresh clone in FOLDER and takes a browser through the pages as a reader would: open a page, run all
cells, read for as long as `learn/teaching` computes, and go on when both are done. It takes about an hour.
Without the reading, add `--fast`. Needs Chromium. (Not a test: pytest does not collect it.)
"""
import argparse, contextlib, io, json, subprocess, time
from pathlib import Path

import pandas as pd
from playwright.sync_api import sync_playwright
from test_lab import CHROMIUM, PATIENCE, run_all, start_lab, stop_lab

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["00_tour", "learn/01_feedback", "learn/04_sentence_credit", "learn/lesson",
         "learn/07_your_experiment"]
COMPARE = [".venv/bin/ares", "compare", "runs/my-reward/facts", "runs/my-reward/short"]
COMPARE_READING = 2  # minutes to read two tables


def reading_minutes():
    "Minutes to read each page, as the cells of `learn/teaching` compute them."
    notebook = json.loads((ROOT/"nbs"/"learn"/"teaching.ipynb").read_text(encoding="utf-8"))
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names = {}
    with contextlib.chdir(ROOT/"nbs"/"learn"), contextlib.redirect_stdout(io.StringIO()):
        for source in code[:3]: exec(source, names)
    return names["path"]["minutes"].to_dict()


class Clock:
    "Steps of the walk: when each began, when its work and its reading ended."

    def __init__(self, fast):
        self.fast, self.begin, self.rows = fast, time.time(), []

    def now(self): return (time.time() - self.begin) / 60

    def step(self, name, work, reading):
        "Do the work, read on until the reading time is over, and write down both."
        start = self.now()
        result = work()
        worked = self.now() - start
        if not self.fast: time.sleep(60 * max(0, reading - worked))
        row = dict(step=name, starts=start, machine=worked, reading=reading, clock=self.now() - start)
        self.rows.append(row)
        print({k: v if k == "step" else round(v, 1) for k, v in row.items()}, flush=True)
        return result


def walk(folder, fast):
    "The whole path; returns the table of its steps, in minutes."
    minutes, clone = reading_minutes(), folder/"ares"
    clock = Clock(fast)

    def set_up():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        return start_lab(clone, folder)

    server, address = clock.step("clone and make lab", set_up, minutes["index"])
    try:
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=dict(width=1366, height=768))
            page.set_default_timeout(PATIENCE)
            for name in PAGES:
                def open_and_run():
                    path = f"workspaces/{name.replace('/', '-')}/tree/{name}.ipynb?token=t"
                    page.goto(f"{address}/lab/{path}")
                    page.wait_for_selector(".jp-Notebook .jp-Cell")
                    run_all(page, clone/"nbs"/f"{name}.ipynb")
                clock.step(name, open_and_run, minutes[name])
            browser.close()

        def compare(): subprocess.run(COMPARE, cwd=clone, check=True, stdout=subprocess.DEVNULL)

        clock.step("compare two runs", compare, COMPARE_READING)
    finally: stop_lab(server, address)
    return pd.DataFrame(clock.rows).set_index("step")


if __name__ == "__main__":
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--fast", action="store_true", help="do not read: only the machine's part")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    table = walk(args.folder.resolve(), args.fast)
    print(table.round(1).to_string())
    clock, machine = table["clock"].sum(), table["machine"].sum()
    print(f"all: {clock:.0f} minutes on the clock, {machine:.0f} of the machine")
