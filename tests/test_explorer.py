"The rollout explorer in a browser: texts, filters, keys, colours, and the width of a phone."
import shutil

import pytest

from ares.reports.explorer import _explorer_html

NASTY = "</script><b>bold</b><img src=x onerror=\"document.title='taken over'\">"


def rationale(*sentences, scores, **more):
    return dict(t=list(sentences), s=scores, a=0, c=1.0) | more


def problem(name, question, **more):
    return dict(id=name, q=question, h="A hint.", o=["north", NASTY], a=0, s="maps", g="", p=[0]) | more


def sample(scores, **more):
    "Two sentences of two tokens each."
    rewards = [0.0, scores[0] - 0.5, -0.01, scores[1] - 0.5]
    return dict(t=["It is up.", "So north."], s=scores, n=[0, 1, 2, 1], r=rewards, v=[0.5, 1.0, -1.0, 0.2],
                e=[2, 4]) | more


RIGHT = rationale("The town is in row 1.", "So the answer is north.", scores=[1.0, 1.0])
WRONG = rationale("The town is in row 2.", "So the answer is north.", scores=[0.0, 1.0], a=1, c=0.0)
LONG = rationale("So.", "So.", "So the", scores=[0.5, 0.0, 0.0], k=[1], u=1, a=None, c=0.0)
PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
DATA = dict(
    run=dict(name=NASTY, facts=["2026-01-01", "seed 0"]), stages=["baseline", "rl-1"], neutral=0.5,
    accuracy=["33.3 %", "66.7 %"], pictures=[PICTURE], notes="Notes.",
    test=dict(title="Test problems", problems=[
        problem("1", "Which way is up?", stages=[RIGHT, RIGHT]),
        problem("2", NASTY, stages=[WRONG, RIGHT]),
        problem("3", "Where is the harbour?", stages=[RIGHT, LONG]),
    ]),
    train=dict(pieces=["It", "up.", "So"], problems=[
        problem("4", "Is it in the north?", steps=[
            dict(stage="rl-1", collection=7, samples=[sample([1.0, 0.0]), sample([1.0, 1.0])]),
            dict(stage="sft-1", before="It is down. So north.", after="It is up. So north."),
        ]),
        problem("5", "And this?", steps=[dict(stage="sft-1", before="It is up.", after="It is up.")]),
    ]),
)


@pytest.fixture(scope="module")
def browser():
    missing = "playwright is missing (pip install playwright)"
    sync_api = pytest.importorskip("playwright.sync_api", reason=missing)
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program: pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    "Opens the page; fails if it asks for anything outside itself, or raises an error."
    faults, contexts = [], []
    def open_page(data=DATA, **how):
        (tmp_path/"explorer.html").write_text(_explorer_html(data), encoding="utf-8")
        contexts.append(browser.new_context(**dict(viewport=dict(width=1280, height=900)) | how))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if request.url[:4] == "http" else None)
        page.goto((tmp_path/"explorer.html").as_uri())
        return page
    yield open_page
    for context in contexts: context.close()
    assert not faults


def names(page): return page.locator("#list .name").all_inner_texts()
def shown(page): return page.locator("#detail h2").inner_text()


def test_texts_are_shown_as_they_are(opened):
    page = opened()
    assert shown(page) == NASTY  # the largest gain comes first
    assert page.locator("#title").inner_text() == f"What {NASTY} learned"
    assert page.title() == f"{NASTY} · rollout explorer"
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#detail .problem img").get_attribute("src") == PICTURE


def test_stages_side_by_side_with_scores_rewards_and_new_words(opened):
    page = opened()
    cards = page.locator("#detail .card")
    assert cards.locator("strong").all_inner_texts() == ["baseline", "rl-1"]
    assert cards.locator(".answer").all_inner_texts() == ["(B) ✗", "(A) ✓"]
    assert cards.nth(0).locator(".meter").all_inner_texts() == ["−0.5", "+0.5"]
    assert cards.nth(1).locator("u").all_inner_texts() == ["1."]
    assert cards.nth(0).locator(".foot").inner_text().split("\n") == ["mean score 0.50", "reward +0.0"]
    tints = [s.evaluate("e => getComputedStyle(e).backgroundColor") for s in cards.locator(".sentence").all()]
    assert tints[1] == tints[2] == tints[3] != tints[0]


def test_filters_and_search(opened):
    page = opened()
    def after(name):
        page.locator(f"[data-filter={name}]").click()
        return names(page)
    counts = page.locator("#filters b").all_inner_texts()
    assert counts == ["3", "1", "1", "1", "1", "1", "1", "1"]
    assert after("better") == after("gained") == [NASTY]
    assert after("same") == ["Which way is up?"]
    assert after("worse") == after("repeated") == after("unfinished") == ["Where is the harbour?"]
    page.locator("#from").select_option("1")
    assert after("better") == []
    assert "No problem fits" in page.locator("#detail").inner_text()
    page.keyboard.press("Escape")
    assert len(names(page)) == 3
    page.locator("#search").fill("harbour")
    assert names(page) == ["Where is the harbour?"]
    page.locator("#search").fill("row 2.")  # in a rationale
    assert names(page) == [NASTY]


def test_training_shows_samples_tokens_and_corrections(opened):
    page = opened()
    page.locator("[data-tab=train]").click()
    assert page.locator("#detail .card").count() == 2
    tokens = page.locator("#detail .token")
    assert [t.strip() for t in tokens.locator(".piece").all_inner_texts()] == ["It", "up.", "So", "up."]
    assert tokens.nth(1).get_attribute("title") == "reward +0.500, advantage +1.00"
    assert tokens.nth(3).get_attribute("title") == "reward −0.500, advantage +0.20"
    assert page.locator("#detail del").all_inner_texts() == ["down."]
    assert page.locator("#detail ins").all_inner_texts() == ["up."]
    page.keyboard.press("]")
    assert page.locator("#detail .card").nth(1).get_attribute("aria-pressed") == "true"
    assert tokens.nth(3).get_attribute("title") == "reward +0.500, advantage +0.20"
    page.locator("[data-filter=corrected]").click()
    assert names(page) == ["Is it in the north?"]
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    assert "the teacher changed nothing" in page.locator("#detail").inner_text()


def test_keys_move_and_search(opened):
    page = opened()
    page.keyboard.press("ArrowDown")
    assert shown(page) == "Which way is up?"
    assert page.url.endswith("#test/1")  # a link to this problem
    page.keyboard.press("End")
    assert shown(page) == "Where is the harbour?"
    page.keyboard.press("/")
    page.keyboard.type("/t")  # a letter in the search field is no command
    assert page.locator("#search").input_value() == "/t"


def test_the_tab_key_visits_all_controls_and_shows_where_it_is(opened):
    page, order = opened(), []
    for _ in range(18):
        page.keyboard.press("Tab")
        focused = page.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e.id || e.dataset.filter || e.dataset.tab || e.tagName, s.outlineStyle !== "none"]; }""")
        if focused[0] == "BODY": break
        order.append(focused[0])
        assert focused[1], f"{focused[0]}: the focus is invisible"
    assert order[:4] == ["test", "theme", "search", "all"]
    assert {"from", "to", "order", "list"} <= set(order)


def test_light_and_dark(opened):
    def background(page): return page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert background(light) != background(dark)
    light.keyboard.press("t")  # auto, light, dark
    light.keyboard.press("t")
    assert background(light) == background(dark)
    assert light.evaluate("localStorage.getItem('ares-theme')") == "dark"  # for the next visit


# how many grey values a part of the map has, and how much of it is drawn on
LOOK = """([x, y, w, h]) => {
    const c = document.getElementById("canvas"), [W, H] = [c.width, c.height];
    const area = [x * W, y * H, Math.max(1, w * W), Math.max(1, h * H)];
    const p = c.getContext("2d").getImageData(...area).data, all = [...Array(p.length / 4).keys()];
    const greys = all.map(i => Math.round((p[4*i] + p[4*i+1] + p[4*i+2]) / 3) * (p[4*i+3] > 0));
    return [new Set(greys).size, all.filter(i => p[4*i+3] > 127).length / all.length]; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_says_without_colour_what_is_better_worse_or_low(opened, scheme):
    page = opened(color_scheme=scheme)
    assert page.locator("#map-stages li").all_inner_texts() == ["baseline", "rl-1", "change"]
    assert page.locator("#map-change").inner_text().replace("\u00a0", " ") == \
        "Change from baseline to rl-1: ▲ better 1, ▼ worse 1, = same 1"
    assert [text[0] for text in page.locator("#list .number").all_inner_texts()] == ["▲", "=", "▼"]
    def part(*box): return page.evaluate(LOOK, list(box))
    # columns: better, same, worse; the middle of the row of changes lies a little above 5/6 of the height
    above, below = 0.78, 0.86
    drawn = [[part(column / 3 + 0.14, y, 0.05, 0.02)[1] > 0.5 for y in (above, below)] for column in range(3)]
    assert drawn == [[True, False], [False, False], [False, True]]
    # of the first column's first row, the upper sentence scored 0 and the lower one 1
    low, high = (part(0.1, y, 0.1, 0.08)[0] for y in (0.04, 0.20))
    assert low > 1 and high == 1
    assert page.locator("#list .bars i.low").count() == 3


def test_a_link_opens_its_problem(opened, tmp_path):
    page = opened()
    page.goto((tmp_path/"explorer.html").as_uri() + "#train/5")
    page.reload()
    assert shown(page) == "And this?"


@pytest.mark.parametrize("tab", ["test", "train"])
def test_a_phone_needs_no_sideways_scrolling(opened, tab):
    page = opened(viewport=dict(width=390, height=844), has_touch=True)
    page.locator(f"[data-tab={tab}]").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator("#list").is_visible()
    before = shown(page)
    page.locator("#next").click()
    assert shown(page) != before
    page.locator("#listed").click()
    assert page.locator("#list").is_visible()


def test_a_run_without_samples_or_with_one_stage(opened):
    small = DATA | dict(stages=["baseline"], accuracy=["33.3 %"], train=dict(problems=[], pieces=None))
    problems = [p | dict(stages=p["stages"][:1]) for p in DATA["test"]["problems"]]
    page = opened(small | dict(test=dict(title="Test problems", problems=problems)))
    assert page.locator("[role=tab]").count() == 1
    assert not page.locator("#compare").is_visible()
    assert page.locator("#detail .card").count() == 1
