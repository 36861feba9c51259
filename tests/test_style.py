"How the repository is written: width of code, nested comprehensions, private names, plain words."
import ast, base64, json, re

import nbformat, pytest

from ares.pipeline.notebooks import export_html
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
TESTS = sorted((ROOT/"tests").glob("*.py"))
MODULES = [p for p in sorted((ROOT/"ares").rglob("*.py")) if p.name != "_modidx.py"]
WIDTH = 110
PRIVATE, MANNER = 0.645, 3.0  # the project's aims
MANNERED = ("whoever", "nobody", "is told", "are told", "one's own", "goes on", "stands", "of the moment",
            "likes to", "foresees", "foreseen", "forecast", "the fee", "a fee", "who would look at them",
            "hangs on", "in silence", "looks past", "the leash", "a leash", "likeness", "be had", "hands out")


def name(path): return str(path.relative_to(ROOT))


def cells(path, kind):
    "The sources of a notebook's cells of one kind."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == kind]


def prose(path):
    "The words of a notebook's text, without code and formulas."
    text = "\n".join(cells(path, "markdown"))
    return re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", " ", text, flags=re.S)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TESTS], ids=name)
def test_no_line_of_code_is_wider_than_a_notebook_on_a_small_screen(path):
    sources = cells(path, "code") if path.suffix == ".ipynb" else [path.read_text(encoding="utf-8")]
    wide = [line for source in sources for line in source.split("\n") if len(line) > WIDTH]
    assert not wide, f"{len(wide)} lines over {WIDTH} characters, the first one: {wide[0]}"


def nested_comprehensions(tree):
    "Comprehensions with more than one `for` or more than one condition, or with another one inside."
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    def inner(node): return [n for n in ast.walk(node) if n is not node and isinstance(n, kinds)]
    return [n for n in found if len(n.generators) > 1 or len(n.generators[0].ifs) > 1 or inner(n)]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_comprehension_is_nested(path):
    nested = nested_comprehensions(ast.parse(path.read_text(encoding="utf-8")))
    assert not nested, [ast.unparse(node)[:80] for node in nested]


def test_helpers_are_private():
    names = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.append(node.name)
    private = sum(n.startswith("_") for n in names)
    assert private / len(names) >= PRIVATE, f"{private} private names of {len(names)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_prose_is_plain(path):
    text = prose(path).lower()
    words = len(re.findall(r"\w+", text))
    counts = {turn: len(re.findall(rf"\b{re.escape(turn)}\b", text)) for turn in MANNERED}
    rate = 1000 * sum(counts.values()) / max(words, 300)  # one turn in a short page is no manner
    assert rate <= MANNER, f"{rate:.1f} a 1,000 words: { {k: v for k, v in counts.items() if v} }"


# words of an earlier private language -> what to write instead
PRIVATE_WORDS = {
    r"fees?": "KL penalty, KL coefficient, `kl_coef`",
    r"told(?! apart)": "from a setting, sees, `captioned`: what it is",
    r"knobs?": "setting",
    r"leash(?:es)?": "KL penalty",
    r"dice": "random numbers, seed",
    r"foresee[ns]?|forecasts?": "predict, estimate",
    r"whoever": "any object that, the caller",
    r"sent.away": "refused",
    r"rank alone": "rank only",
    r"chance \(placebo\)": "random (placebo)",
}
CAPTION = re.compile(r'In the picture, "[^.]*\.')  # what an old label in a stored picture means


def written_texts(path):
    "Code, prose and text outputs of a notebook."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        yield CAPTION.sub("", "".join(cell["source"]))
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", ""))
            for kind in ("text/plain", "text/html", "text/markdown"):
                yield "".join(output.get("data", {}).get(kind, ""))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_uses_the_words_of_the_field(path):
    texts = "\n".join(written_texts(path)).replace("_", " ")  # names in code are words, too
    found = {word: PRIVATE_WORDS[word] for word in PRIVATE_WORDS if re.search(rf"(?i)\b(?:{word})\b", texts)}
    assert not found, f"write instead: {found}"


PARTS = ["Question", "Set-up", "Result", "Answer", "Limits"]  # of a page in nbs/experiments, in this order
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_has_its_five_parts_and_a_command(path):
    sources = cells(path, "markdown")
    parts = re.findall(r"^## (.+)$", "\n".join(sources), re.MULTILINE)
    assert parts == PARTS
    setup = sources[1].partition("## Set-up")[2]
    assert "papermill" in setup or "`make " in setup, "the set-up should name the command that makes the page"


CHAPTERS = ("core", "data", "students", "teachers", "training", "evaluation", "pipeline", "reports")
PAGES = [p for p in NOTEBOOKS if p.parent.name in CHAPTERS]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_text_comes_before_every_exported_definition_or_pair(path):
    exported, lonely = 0, []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": exported = 0
        elif source.startswith("#| export") and not re.match(r"#\| export\n(import|from) ", source):
            exported += 1
            if exported > 2: lonely.append(source.split("\n")[1])
    assert not lonely, f"no text explains {lonely}"


WITHOUT_FIGURE = {"00_sizes", "01_base", "02_sampling", "02_synthetic", "03_datasets", "07_mock_server",
                  "07_vllm"}
METHOD = [p for p in PAGES if p.parent.name in CHAPTERS[1:6] and p.stem not in WITHOUT_FIGURE]
METHOD += [ROOT/"nbs"/p for p in ("teachers/01_base.ipynb", "pipeline/04_folder.ipynb",
                                  "pipeline/06_stages.ipynb")]


@pytest.mark.parametrize("path", METHOD, ids=name)
def test_every_page_of_the_method_has_a_figure(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    drawn = any("```mermaid" in "".join(c["source"]) for c in cells)
    outputs = [o for c in cells for o in c.get("outputs", [])]
    assert drawn or any("image/png" in o.get("data", {}) for o in outputs)


def _options(source):
    "The lines of Quarto and nbdev at the top of a cell."
    lines = source.split("\n")
    return lines[:next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_figure_has_an_alternative_text(path):
    lacking = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source, data = "".join(cell["source"]), [o.get("data", {}) for o in cell.get("outputs", [])]
        if any("image/png" in d for d in data):
            texts = [re.match(r'#\| fig-alt: ".{20,}"$', line) for line in _options(source)]
            if not any(texts): lacking.append(source)
        pages = "".join("".join(d.get("text/html", [])) for d in data)
        lacking += [tag for tag in re.findall(r"<img[^>]*>", pages) if not re.search(r'alt="[^"]+"', tag)]
        if cell["cell_type"] != "markdown": continue
        lacking += re.findall(r"!\[\s*\]\([^)]*\)", source)
        for drawing in re.findall(r"```mermaid\n(.*?)```", source, re.S):
            if not re.search(r"^ *accDescr: .{20,}$", drawing, re.M): lacking.append(drawing)
    assert not lacking, f"{len(lacking)} figures without an alternative text; the first: {lacking[0][:200]}"


@pytest.mark.parametrize("path", sorted((ROOT/"nbs"/"runs").glob("*.ipynb")), ids=name)
def test_the_figures_of_a_run_have_alternative_texts(path):
    for source in cells(path, "code"):
        drawn = re.search(r"\bplot_\w+\(", source)
        assert not drawn or source.startswith("#| fig-alt: "), source


def test_a_report_tells_what_its_figures_show(tmp_path):
    picture = base64.b64encode(b"a picture").decode()
    output = nbformat.v4.new_output("display_data", {"image/png": picture})
    cell = nbformat.v4.new_code_cell('#| fig-alt: "Two lines that rise."\nplot()', outputs=[output])
    title = nbformat.v4.new_markdown_cell("# A page")
    nbformat.write(nbformat.v4.new_notebook(cells=[title, cell]), tmp_path/"a.ipynb")
    export_html(tmp_path/"a.ipynb", tmp_path/"a.html")
    assert 'alt="Two lines that rise."' in (tmp_path/"a.html").read_text()
