"The repository keeps its own rules: clean notebooks in sync with the package, readable, self-contained."
import ast, json, re, shutil, subprocess, sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LIBRARY = sorted(p for p in NOTEBOOKS if re.match(r"\d\d_", p.name)
                 and p.name != "00_tour.ipynb" and p.parent.name != "learn")


def name(path): return str(path.relative_to(ROOT/"nbs"))
def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])


def words(path):
    "The words of a notebook's text and how often each occurs."
    texts = [source(c) for c in cells(path) if c["cell_type"] == "markdown"]
    heads = [source(c).strip("-\n ") for c in cells(path) if c["cell_type"] == "raw"]
    texts += [str(yaml.safe_load(head)) for head in heads]  # title and description, as nbdev keeps them
    return Counter(word for text in texts for word in re.findall(r"\w+", text))


def copied(tmp_path):
    "The repository in another place, without what runs and tools leave in it."
    left = ".venv .git __pycache__ _docs _proc .ipynb_checkpoints".split()
    shutil.copytree(
        ROOT,
        tmp_path / "copy",
        ignore=lambda folder, names: [
            n for n in names if n in left or (n == "runs" and Path(folder) == ROOT)
        ],
    )
    return tmp_path/"copy"


def test_notebooks_are_clean_and_in_sync(tmp_path):
    copy = copied(tmp_path)
    for command in ("nbdev_clean", "nbdev_export"):
        done = subprocess.run([str(BIN/command)], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for folder, pattern in (("nbs", "*.ipynb"), ("ares", "*.py")):
        files = {
            p.relative_to(ROOT) for p in (ROOT / folder).rglob(pattern) if ".ipynb_checkpoints" not in p.parts
        }
        assert files == {p.relative_to(copy) for p in (copy/folder).rglob(pattern)}
        for path in files:
            assert (ROOT / path).read_bytes() == (copy / path).read_bytes(), (
                f"{path}: run nbdev_clean, then nbdev_export"
            )


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_library_notebooks_keep_to_the_bar(path):
    code = [source(c) for c in cells(path) if c["cell_type"] == "code"]
    exported = [len(s.split("\n")) - 1 for s in code if s.startswith("#| export")]
    assert len(cells(path)) <= 110
    assert path.stat().st_size <= 300_000
    assert sum(exported) / len(exported) <= 15 and max(exported) <= 50
    assert any(re.search(r"\btest_\w+\(|\bassert\b", s) for s in code)


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_a_cell_that_imports_does_nothing_else(path):
    "When nbdev makes the site, it executes each cell that imports something, and the examples in it."
    for code in (source(c) for c in cells(path) if c["cell_type"] == "code"):
        if "#| export" in code or "#| eval: false" in code: continue
        nodes = list(ast.walk(ast.parse(code)))
        imports = any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)
        assert not imports or not any(isinstance(node, (ast.Expr, ast.Assign)) for node in nodes), code[:300]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_hold_nothing_foreign(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(work|root|tmp|home|Users)/\w", text), "a path of somebody's machine"
    assert not re.search(r"sk-(ant|proj)-\w", text), "something like a key"
    assert '"output_type": "error"' not in text and '"name": "stderr"' not in text, (
        "an error or a warning among the outputs"
    )
    assert "jupyter.widget-view" not in text, "a widget, such as a progress bar, that shows nothing"


@pytest.mark.parametrize("path", sorted((ROOT/"nbs"/"runs").glob("*.ipynb")), ids=name)
def test_run_notebooks_are_thin(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    code = [c for c in cells(path) if c["cell_type"] == "code"]
    assert len(tagged) == 1 and len(source(tagged[0]).split("\n")) <= 10
    assert not re.search(r"^\w+, ", source(tagged[0]), re.M), "papermill knows parameters one a line"
    assert len(code) <= 10 and all(len(source(c).split("\n")) <= 8 for c in code if c not in tagged)
    assert not any(source(c).startswith("#| export") for c in code)


def test_every_public_name_is_documented_and_shown():
    import ast
    for path in sorted((ROOT/"ares").rglob("*.py")):
        if path.stem.startswith("_"): continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                doc = ast.get_docstring(node)
                assert doc and "\n" not in doc.strip(), (
                    f"{path.relative_to(ROOT)}: {node.name} needs a one-line docstring"
                )


def test_the_site_lists_every_page_and_no_other(tmp_path):
    site = yaml.safe_load((ROOT/"_quarto.yml").read_text())
    def pages(node):
        if isinstance(node, str) and node.endswith(".ipynb"): yield node
        for child in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
            yield from pages(child)

    assert sorted(pages(site["website"]["sidebar"])) == sorted(map(name, NOTEBOOKS))


def make(target, folder):
    "Call a target of the Makefile with this environment."
    command = ["make", "-s", target, "-o", ".venv/.dev", f"BIN={BIN}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "A copy of the repository with the site's pages in `_proc`."
    copy = copied(tmp_path_factory.mktemp("pages"))
    done = make("pages", copy)
    assert done.returncode == 0, done.stderr[-3000:]
    return copy


def test_the_notebooks_can_be_made_into_pages(pages):
    found = {p.relative_to(pages/"_proc") for p in (pages/"_proc").rglob("*.ipynb")}
    assert found == {p.relative_to(ROOT/"nbs") for p in NOTEBOOKS}
    for page in found:  # nbdev makes a page's title of the first cell and drops what else stands in it
        missing = words(ROOT/"nbs"/page) - words(pages/"_proc"/page)
        assert not missing, (
            f"{page}: the site loses {missing}; keep title and description alone in the first cell"
        )


def page_faults(site, path):
    "What is wrong with a page of the built site: emptiness, raw marks, missing pictures and link targets."
    from bs4 import BeautifulSoup
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find("main")
    for picture in page.find_all("img"):
        name = picture["src"]
        if not name.startswith(("data:", "https:")) and not (path.parent/name).exists():
            yield f"no picture {name}"
    for link in page.find_all("a", href=True):
        name, _, anchor = link["href"].partition("#")
        if re.match(r"\w+:", name): continue
        target = path.parent/name if name else path
        if not (target/"index.html" if target.is_dir() else target).exists(): yield f"no page {name}"
        elif anchor and f'id="{anchor}"' not in target.read_text(encoding="utf-8"):
            yield f"no place {link['href']}"
    if len(page.get_text().split()) < 40: yield "hardly a word"
    for code in page.find_all(["pre", "code", "script", "style"]): code.decompose()
    marks = re.search(r":::|^#\||```|\]\([\w/]+\.ipynb", page.get_text(), re.M)
    if marks: yield f"raw marks {marks.group()}"


def test_the_site_can_be_looked_at_without_quarto(pages):
    pytest.importorskip("smalldocs", reason="make preview needs the package smalldocs")
    done = make("preview", pages)
    assert done.returncode == 0 and "_proc/_docs/index.html" in done.stdout, done.stdout + done.stderr
    site = pages/"_proc"/"_docs"
    built = {str(p.relative_to(site).with_suffix("")) for p in site.rglob("*.html")}
    assert built == {str(p.relative_to(ROOT/"nbs").with_suffix("")) for p in NOTEBOOKS}
    for path in sorted(site.rglob("*.html")):
        faults = list(page_faults(site, path))
        assert not faults, f"{path.relative_to(site)}: {'; '.join(faults)}"
    bad = '<main>:::<img src="no.png"><a href="no.html">x</a><a href="#no">y</a></main>'
    (site/"bad.html").write_text(bad)
    assert len(list(page_faults(site, site/"bad.html"))) == 5  # and each fault is found


def shown(path):
    "The text that a notebook's outputs hold: printed text and Markdown."
    for cell in cells(path):
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", output.get("data", {}).get("text/markdown", "")))


def test_the_architecture_page_shows_the_repository_as_it_is(tmp_path):
    page, again = ROOT/"nbs"/"explanations"/"architecture.ipynb", tmp_path/"again.ipynb"
    command = [str(BIN/"papermill"), "--no-progress-bar", "--cwd", str(page.parent), str(page), str(again)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(shown(page)) and list(shown(page)) == list(shown(again)), (
        "run papermill architecture.ipynb architecture.ipynb in nbs/explanations"
    )


def test_a_notebook_saved_in_jupyterlab_stays_clean(tmp_path):
    from jupyter_server.services.contents.filemanager import FileContentsManager
    copy = copied(tmp_path)
    hook = re.search(r"pre_save_hook=(\S+)", (ROOT/"Makefile").read_text()).group(1)
    manager = FileContentsManager(root_dir=str(copy/"nbs"), pre_save_hook=hook)
    for page in ("training/02_rewards.ipynb", "runs/rl.ipynb", "experiments/demo.ipynb"):
        model = manager.get(page)
        model["content"]["metadata"]["language_info"] = {"name": "python", "version": "3.11.0"}
        for number, cell in enumerate(model["content"]["cells"]):
            if cell["cell_type"] == "code": cell["execution_count"] = number
        manager.save(model, page)
        assert (copy/"nbs"/page).read_bytes() == (ROOT/"nbs"/page).read_bytes(), page


def test_make_docs_says_what_is_missing():
    if shutil.which("quarto"): pytest.skip("Quarto is here; make docs builds the site")
    done = subprocess.run(
        ["make", "-s", "docs", "-o", ".venv/.dev"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Quarto is missing" in done.stdout


def test_the_readme_is_the_front_page(tmp_path):
    done = subprocess.run(
        ["make", "-s", "readme", f"README={tmp_path}/README.md", "-o", ".venv/.dev", f"BIN={BIN}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path/"README.md").read_text() == (ROOT/"README.md").read_text(), "run make readme"
    assert (ROOT/"nbs"/"images"/"demo.md").read_text() in (ROOT/"README.md").read_text(), "run make figures"


# attributes and keys that tell models apart
ASKS = {"is_encoder_decoder", "model_type", "architectures", "__class__"}
PARTS = {"encoder", "decoder", "shared", "vision_tower", "processor", "image_dense"}  # of some models only


def asks_for_kind(code, names):
    "Where a module asks what kind of student it holds; `names` are those of students' and models' classes."
    import ast
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            said = [a.name for a in node.names if a.name in names]
        elif isinstance(node, ast.Attribute):
            said = (
                [node.attr]
                if node.attr in ASKS
                or node.attr in PARTS
                and re.search(r"(student|reference|model)$", ast.unparse(node.value))
                else []
            )
        elif isinstance(node, ast.Constant):
            said = [node.value] if node.value in ASKS or node.value in names else []
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") in ("isinstance", "issubclass", "hasattr", "getattr", "type")
            and node.args
        ):
            said = (
                [ast.unparse(node)]
                if re.search(
                    r"(?<!config\.)\b(student|reference|policy|answerer|trunk)\b", ast.unparse(node.args[0])
                )
                else []
            )
        else: said = []
        found += [f"line {node.lineno}: {s}" for s in said]
    return found


def test_no_module_asks_what_kind_of_student_it_holds():
    import ast
    makers = [p for p in (ROOT/"ares"/"students").glob("[a-z]*.py") if p.stem != "vllm"]
    names = {
        node.name for m in makers for node in ast.parse(m.read_text()).body if isinstance(node, ast.ClassDef)
    } - {"ValueHead"}
    assert {"T5Student", "CausalStudent", "VisionStudent", "MultimodalT5", "DecoderCache"} <= names
    for asked in (
        "isinstance(student, str)",
        "from ares.students.t5 import T5Student",
        "student.model.config.is_encoder_decoder",
        "type(student).__name__ == 'CausalStudent'",
        "hasattr(student, 'processor')",
        "student.model.encoder(x)",
        "read_json(path)['model_type']",
        "isinstance(value_head.student.model, torch.nn.Module)",
    ):
        assert asks_for_kind(asked, names), asked
    for fine in (
        "isinstance(config.student, str)",
        "student.width",
        "from ares.students.loading import load_student",
        "student.hidden(inputs, responses)",
    ):
        assert not asks_for_kind(fine, names), fine
    # whether there is an adapter, of whatever kind
    fair = {"answers": ("hasattr(student.model, 'peft_config')",),
            # the setting; and a card tells its readers what the model is
            "publish": ("isinstance(student, str)", "model_type")}
    for path in sorted((ROOT/"ares").rglob("[a-z]*.py")):
        if path in makers: continue
        found = [
            f
            for f in asks_for_kind(path.read_text(), names)
            if not f.endswith(fair.get(path.stem, ("(none)",)))
        ]
        assert not found, f"{path.name} asks what kind of student it holds: {'; '.join(found)}"


CHAPTERS = "core data students teachers training evaluation pipeline reports".split()


def places():
    "Module -> where it is in the book: (chapter, number)."
    found = {}
    for path in LIBRARY:
        if path.parent.name not in CHAPTERS: continue
        number, _, stem = path.stem.partition("_")
        found[f"{path.parent.name}.{stem}"] = (CHAPTERS.index(path.parent.name), int(number))
    return found


def arrows():
    "(module, module that it imports) for everything the package exports, imports inside functions included."
    import ast
    for path in sorted((ROOT/"ares").rglob("*.py")):
        here = ".".join(path.relative_to(ROOT/"ares").with_suffix("").parts)
        if path.stem.startswith("_"): continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom): continue
            if node.level:
                yield here, ".".join([*here.split(".")[: -node.level], *filter(None, [node.module])])
            elif (node.module or "").startswith("ares."): yield here, node.module[5:]


def test_imports_follow_the_order_of_the_book():
    known, found = places(), {(a, b) for a, b in arrows() if a != b}
    modules = {
        ".".join(p.relative_to(ROOT / "ares").with_suffix("").parts)
        for p in (ROOT / "ares").rglob("[a-z]*.py")
    }
    assert modules == set(known), "each module has one numbered notebook"
    assert all(p.parent.name in CHAPTERS or p.parent == ROOT/"nbs" for p in LIBRARY)
    assert len(found) > 50 and ("training.rewards", "training.rollouts") in found
    between = sorted(
        {(a.split(".")[0], b.split(".")[0]) for a, b in found if a.split(".")[0] != b.split(".")[0]}
    )
    book = f"the chapters' {len(between)} arrows: " + ", ".join(f"{a} -> {b}" for a, b in between)
    back = [f"{a} imports {b}" for a, b in sorted(found) if b not in known or known[b] >= known[a]]
    assert not back, f"{'; '.join(back)}, which comes later ({book})"  # and so there is no cycle


def test_the_package_offers_its_names_at_once():
    import time
    code = "import ares, sys; print(ares.__version__, 'torch' in sys.modules, len(ares.__all__))"
    seconds = []
    for _ in range(3):  # the first may read from the disk
        started = time.time()
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        seconds.append(time.time() - started)
    assert said[1] == "False" and 20 <= int(said[2]) <= 40 and min(seconds) < 0.3, seconds
    import ares
    for offered in ares.__all__: assert getattr(ares, offered) is not None
    assert ares.PPOTrainer.__module__ == "ares.training.ppo" and "PPOTrainer" in dir(ares)
    with pytest.raises(AttributeError): ares.nothing_of_this_name


def test_the_python_of_the_readme_prints_what_the_readme_says():
    code = re.search(r"```python\n(.*?)```", (ROOT/"README.md").read_text(), re.S).group(1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["1.0", "0.0", "1.0", "1.0"]


def test_repository_holds_no_large_or_foreign_file():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    paths = [ROOT / name for name in files if name and (ROOT / name).exists()]
    if not paths: pytest.skip("not a git checkout")
    large = [path.name for path in paths if path.stat().st_size > 300_000]
    assert not large, f"too large for the repository: {large}"
    foreign = [path.name for path in paths if path.suffix in (".whl", ".pt", ".bin", ".zip", ".gz")]
    assert not foreign, f"made elsewhere; install or download it instead: {foreign}"


def imported_names(code):
    "The (module, name) pairs that some code imports from the package."
    import ast
    if code.startswith("%%"): return  # a cell in another language
    lines = [line for line in code.split("\n") if not line.startswith(("%", "!"))]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("ares"): continue
        yield from ((node.module, alias.name) for alias in node.names if alias.name != "*")


def test_what_notebooks_and_benchmarks_import_exists():
    import importlib
    assert list(imported_names("from ares.core.io import a, b\nimport re")) == [("ares.core.io", "a"),
                                                                                ("ares.core.io", "b")]
    code = {p.name: p.read_text() for p in (ROOT/"benchmarks").glob("*.py")}
    for path in NOTEBOOKS:
        for i, cell in enumerate(cells(path)):
            if cell["cell_type"] == "code": code[f"{name(path)}, cell {i}"] = source(cell)
    lost = []
    for place, text in code.items():
        for module, wanted in imported_names(text):
            if hasattr(importlib.import_module(module), wanted): continue
            lost.append(f"{place}: {module}.{wanted}")
    assert not lost
