"The pages of nbs/learn accept their solutions, refuse wrong answers, and keep answers and hints folded."
import contextlib, io, json, re

import pytest

from ares.core.checks import Exercises
from conftest import ROOT

LEARN = ROOT/"nbs"/"learn"


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])


def asked(path):
    "Number of exercise -> the name of the reader's answer, for each check of a page."
    code = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code")
    return {number.strip('"'): name for number, name in re.findall(r"^check\((\S+), (my_\w+)\)", code, re.M)}


PAGES = [p for p in sorted(LEARN.glob("*.ipynb")) if asked(p)]


def page_name(path): return path.stem


def solutions():
    "Page -> its section of the solutions, as a dict from the name of an answer to the answer."
    sections, names = {}, None
    for cell in cells(LEARN/"solutions.ipynb"):
        heading = re.search(r"^## \[.*\]\((\w+\.ipynb)\)", source(cell), re.M)
        if cell["cell_type"] == "markdown" and heading: names = sections.setdefault(heading[1], {})
        if cell["cell_type"] == "code": exec(source(cell), {}, names)
    return sections


def page_of(path):
    "Run a page without its slow cells; its exercises."
    namespace = {"display": lambda shown: None}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells(path):
            if cell["cell_type"] == "code" and "slow" not in cell["metadata"].get("tags", []):
                exec(source(cell), namespace)
    return next(value for value in namespace.values() if isinstance(value, Exercises))


def wrong(answer):
    "An answer of the same form that is wrong."
    if isinstance(answer, str): return {"yes": "no", "no": "yes"}.get(answer, "maybe")
    return [99] * len(answer) if isinstance(answer, list) else 99


def test_each_page_has_its_solutions_and_no_others():
    assert {p.name: set(asked(p).values()) for p in PAGES} == {n: set(s) for n, s in solutions().items()}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_solutions_are_right_and_wrong_answers_are_not(path, monkeypatch):
    monkeypatch.chdir(LEARN)
    page, answers = page_of(path), solutions()[path.name]
    assert set(page.exercises) == set(asked(path))
    for number, name in asked(path).items():
        assert page.check(number, None).right is None
        verdict = page.check(number, wrong(answers[name]))
        assert verdict.right is False, f"exercise {number}: {verdict}"
        verdict = page.check(number, answers[name])
        assert verdict.right, f"exercise {number}: {verdict}"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_stored_figures_need_no_running_notebook(path):
    text = path.read_text(encoding="utf-8")
    assert "vnd.jupyter.widget-view" not in text, "store the page with ARES_STATIC=1 in the environment"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_answers_and_hints_are_folded_and_stored_answers_are_open(path):
    for cell in cells(path):
        if cell["cell_type"] != "code": continue
        if "page.add(" in source(cell):
            assert cell["metadata"].get("jupyter", {}).get("source_hidden") and not cell["outputs"]
            assert re.match(r"#\| code-summary: .*\n#\| code-fold: true\n", source(cell))
        if source(cell).startswith("my_"):
            assert re.match(r"my_\w+ = None\b", source(cell)), source(cell)
            texts = [output["data"]["text/plain"] for output in cell["outputs"]]
            assert texts in ([], [["not answered yet"]]), texts


def kind_of(cell): return cell["metadata"].get("slideshow", {}).get("slide_type")


def slides_of(path):
    "The slides of a concept page, each as the cells that are shown on it."
    slides = []
    for cell in cells(path):
        if kind_of(cell) in ("slide", "subslide"): slides.append([])
        if kind_of(cell) != "skip": slides[-1].append(cell)
    return slides


def html_rows(output):
    "The texts of the rows of a table, and of the blocks of a page."
    html = "".join(output.get("data", {}).get("text/html", []))
    html = re.sub(r"<(style|script).*?</\1>", "", html, flags=re.S)
    return [re.sub(r"<[^>]*>|\s+", " ", row) for row in re.split(r"</tr>|</div>|</p>", html)]


def shown_lines(cell):
    "About how many lines a cell takes on a slide: its text, its code and its printed output."
    width, rows = 120, source(cell).split("\n")
    if cell["cell_type"] == "code" and "hidden" in cell["metadata"].get("tags", []): rows = []
    for output in cell.get("outputs", []):
        rows = rows + "".join(output.get("text", [])).split("\n") + html_rows(output)
    if "```mermaid" in source(cell): return 10
    return sum(1 + len(row) // width for row in rows if row.strip())


CONCEPTS = sorted(LEARN.glob("0[1-6]_*.ipynb"))


@pytest.mark.parametrize("path", CONCEPTS, ids=page_name)
def test_no_slide_is_too_long_or_shows_only_code(path):
    for slide in slides_of(path):
        assert sum(map(shown_lines, slide)) <= 32, source(slide[0])
        text = any(cell["cell_type"] == "markdown" for cell in slide)
        assert text or any(cell.get("outputs") for cell in slide), source(slide[0])


@pytest.mark.parametrize("path", CONCEPTS, ids=page_name)
def test_the_code_of_figures_is_folded(path):
    for cell in cells(path):
        figure = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        folded = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
        assert folded or not figure
        if folded: assert "#| code-fold: true" in source(cell)
        if folded and "page.add(" not in source(cell): assert "hidden" in cell["metadata"]["tags"]
