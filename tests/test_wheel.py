"The wheel alone is enough: parameter files and notebooks travel with it."
import json, os, shutil, subprocess, sys, sysconfig, venv

import pytest

from conftest import ROOT

LEFT = ".venv .git __pycache__ _docs _proc .ipynb_checkpoints runs build dist".split()


# the data files of the packages that are shared with the fresh environment
SHARED = dict(JUPYTER_PATH=f"{sys.prefix}/share/jupyter", OMP_NUM_THREADS="1")


def call(*words, cwd):
    return subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True, timeout=900,
                          env=os.environ | SHARED)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A fresh environment with the wheel; the packages that it needs are those of this environment."
    home = tmp_path_factory.mktemp("wheel")
    def left(folder, names): return [n for n in names if n in LEFT and not (n == "runs" and "nbs" in folder)]
    shutil.copytree(ROOT, home/"source", ignore=left)
    pip = (sys.executable, "-m", "pip")
    built = call(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", home, cwd=home/"source")
    if built.returncode: pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")
    shutil.rmtree(home/"source")
    venv.create(home/"env")
    python, wheel = home/"env"/"bin"/"python", next(home.glob("*.whl"))
    done = call(*pip, "--python", python, "install", "--no-deps", "-q", wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    site = next((home/"env"/"lib").glob("python*"))/"site-packages"
    (site/"needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home/"env"/"bin"


def test_a_run_needs_only_the_wheel_and_an_empty_folder(installed, tmp_path):
    where = call(installed/"python", "-c", "import ares, ares_runs; print(ares.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), where.stdout + where.stderr
    done = call(installed/"ares", "run", "smoke", "-p", "rounds", 1, "-p", "collections", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path/"runs"/"smoke"/"results.json").read_text())
    assert set(results) == {"baseline", "rl-1", "sft-1"}
    assert (tmp_path/"runs"/"smoke"/"report.html").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    done = call(installed/"ares", "init", cwd=tmp_path)
    assert done.returncode == 0 and "next: `ares run demo`" in done.stdout, done.stderr
    for path in (ROOT/"params").iterdir():
        assert (tmp_path/"params"/path.name).read_bytes() == path.read_bytes()
    done = call(installed/"ares", "init", cwd=tmp_path)
    assert done.stdout.count("left as it is") == len(list((ROOT/"params").iterdir()))
