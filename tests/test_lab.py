"A reader in a real JupyterLab runs the tour, then changes the reward of the lesson and sees another curve."
import base64, json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest
import yaml

from test_repository import copied

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not CHROMIUM: pytest.skip("needs Chromium", allow_module_level=True)
PATIENCE = 600_000  # milliseconds, for a machine with other work
# the lesson and the tour as small as they can be: the path is tested, not what is learned
SMALLER = dict(train_problems=48, val_problems=8, test_problems=8, gold_problems=32, baseline_epochs=1,
               collections=3, collect_problems=4, sft_skip=32, max_new_tokens=24)
TOUR = {"make_problems(400,": "make_problems(48,", "make_problems(96,": "make_problems(8,", "[:300]": "[:32]",
        "epochs=10,": "epochs=1,", "[300:400]": "[32:48]", "range(30)": "range(5)",
        "range(1, 31)": "range(1, 6)", "number / 30": "number / 5"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_smaller(copy):
    "Smaller sizes for the tour and the lesson of a copy; nothing else changes."
    path = copy/"params"/"lesson.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | SMALLER))
    path = copy/"nbs"/"00_tour.ipynb"
    text = path.read_text(encoding="utf-8")
    for old, new in TOUR.items():
        assert old in text, old
        text = text.replace(old, new)
    notebook = json.loads(text)
    last = [c for c in notebook["cells"] if "assert sum(scores" in "".join(c["source"])]
    assert len(last) == 1
    last[0]["source"] = ["print('the end')"]  # so small a student need not gain
    path.write_text(json.dumps(notebook), encoding="utf-8")


def start_lab(copy, folder, *options, **environment):
    "What `make lab` starts in a copy of the repository: the process and its address, as soon as it answers."
    port = free_port()
    config = dict(ServerApp=dict(open_browser=False, port=port, allow_root=True),
                  IdentityProvider=dict(token="t"))
    (folder/"config").mkdir()
    (folder/"config"/"jupyter_server_config.json").write_text(json.dumps(config))
    env = os.environ | dict(JUPYTER_CONFIG_DIR=str(folder/"config"), OMP_NUM_THREADS="1",
                            JUPYTERLAB_SETTINGS_DIR=str(folder/"settings"), **environment)
    with open(folder/"log.txt", "w") as log:
        server = subprocess.Popen(["make", "-s", "lab", *options], cwd=copy, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    while server.poll() is None:
        try: urllib.request.urlopen(f"{address}/api?token=t", timeout=5)
        except OSError: time.sleep(1)
        else: return server, address
    raise RuntimeError((folder/"log.txt").read_text()[-2000:])


def stop_lab(server, address):
    "Shut the server down by its own interface, kernels included."
    stop = urllib.request.Request(f"{address}/api/shutdown?token=t", method="POST")
    urllib.request.urlopen(stop, timeout=30)
    server.wait(60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab in a copy of the repository, and the copy."
    folder = tmp_path_factory.mktemp("lab")
    copy = copied(folder)
    make_smaller(copy)
    server, address = start_lab(copy, folder, "-o", ".venv/.dev", f"BIN={BIN}", HOME=str(folder),
                                PYTHONPATH=str(copy))
    yield address, copy
    stop_lab(server, address)


@pytest.fixture
def page():
    "A page of a new browser."
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=1366, height=768))
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def run_all(page, path):
    "Run all cells by the menu, wait for the end, save, and return the notebook as it is on the disk."
    # in the status bar
    status = {word: page.get_by_text(f"(ipykernel) | {word}") for word in ("Idle", "Busy")}
    status["Idle"].wait_for()  # before its kernel is there, a notebook cannot run
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    status["Busy"].wait_for()
    quiet = 0
    while quiet < 10:  # between two cells a kernel is idle for a moment
        quiet = quiet + 1 if status["Idle"].is_visible() else 0
        page.wait_for_timeout(300)
    before = path.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    while path.stat().st_mtime_ns == before: page.wait_for_timeout(200)
    page.wait_for_timeout(500)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []): assert output["output_type"] != "error", output["evalue"]
    return notebook


def pictures(notebook):
    "The pictures among a notebook's outputs."
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_make_lab_opens_the_tour_and_all_of_it_runs(lab, page):
    address, copy = lab
    with urllib.request.urlopen(f"{address}/?token=t") as reply: first = reply.geturl()
    assert "/lab/tree/00_tour.ipynb" in first
    page.goto(f"{address}/lab/tree/00_tour.ipynb?token=t")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    notebook = run_all(page, copy/"nbs"/"00_tour.ipynb")
    assert "the end" in json.dumps(notebook) and len(pictures(notebook)) == 2


def test_another_reward_in_the_lesson_gives_another_curve(lab, page):
    address, copy = lab
    path = copy/"nbs"/"learn"/"lesson.ipynb"
    page.goto(f"{address}/lab/workspaces/lesson/tree/learn/lesson.ipynb?token=t")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    first = pictures(run_all(page, path))
    cell = page.locator(".jp-CodeCell .cm-content", has_text="# settings to change")
    cell.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(
        'params, home = "../../params/lesson.yaml", "../../runs"\n'
        'name, overrides, seeds = "other", dict(neutral=-0.5, rl_lr=3e-3), [0]'
    )
    second = pictures(run_all(page, path))
    assert len(first) == len(second) == 1 and base64.b64decode(first[0])[:4] == b"\x89PNG"
    assert first != second
    assert (copy/"runs"/"lesson-0"/"complete.json").exists()
    assert (copy/"runs"/"other-0"/"complete.json").exists()
