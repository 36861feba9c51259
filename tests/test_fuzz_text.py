"Any text: sentences, answers and metrics raise nothing, lose no character and take linear time."
import json, time

import pytest
from hypothesis import example, given, settings, strategies as st
from rouge import Rouge

from ares.core.io import data_folder
from ares.evaluation.metrics import _bleu_tokens, failure_signatures, rationale_metrics, _rouge_l
from ares.data.problem import Problem
from ares.data.prompts import read_answer, _read_direct, find_answer
from ares.data.sentences import drop_repeated, is_finished, read_ending, _sentence_chars
from ares.data.sentences import sentences_of, split_sentences
from ares.teachers.offline import ReferenceTeacher, concluded, conclusion_of, _content_words
from conftest import FUZZ_EXAMPLES

FUZZ = settings(max_examples=FUZZ_EXAMPLES, derandomize=True, deadline=None, database=None)
# Pieces that the readers look for, mixed with anything that Unicode has.
PIECES = (
    "The answer is ", "answer: ", "(A)", "(B) ", "B", "not ", "no ", "dog", "cat", "a ", ". ", "! ", "? ",
    "...", "\n", "\n\n", "\\boxed{", "}", "**", "$", "<think>", "</think>", "Dr. ", "e.g. ", "Jan. 5",
    "U.S. ", "1. ", "5! ", "。", "।", "۔ ", "؟ ", "｡", "\"", ")", " ", "is correct", "So, ",
    "if ", "\u200d",
    "\x1f", "\u00a0", "İ", "ß", "\ud7ff", "Virginia", "West Virginia", "答案是", "_", "-", "5", ".5",
)
CHOICES = (
    "dog", "cat", "a dog", "A", "B", "no", "yes", "5", "50", "0.5", "Virginia", "West Virginia", "", ".",
    "the ",    "It is hot. It melts.")
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=25).map("".join)
choice_lists = st.lists(st.one_of(st.sampled_from(CHOICES), st.text(max_size=12)), min_size=2, max_size=10)
words = st.from_regex(r"[b-z]{3,6}( [b-z]{3,6}){0,2}", fullmatch=True)


def cases(name):
    "The small inputs that once failed, beside the real data."
    folder = data_folder()
    path = folder and folder.parent/"cases"/name
    if not path or not path.exists(): pytest.skip(f"no cases/{name} beside the folder that ARES_DATA names")
    return json.loads(path.read_text(encoding="utf-8"))


def test_answers_that_were_once_misread():
    assert not [c for c in cases("answers.json") if read_answer(c["text"], c["choices"]) != c["right"]]


def test_sentences_that_were_once_miscounted():
    assert not [c for c in cases("sentences.json") if len(split_sentences(c["text"])) != c["sentences"]]


@FUZZ
@given(texts)
@example("<think>")
@example(".\x1c\n\x1c\n.")
def test_sentences_cover_the_text(text):
    spans = _sentence_chars(text)
    assert "".join(split_sentences(text)) == text
    assert all(a < b for a, b in spans)
    assert all(b == c for (_, b), (c, _) in zip(spans, spans[1:]))
    if text.strip(): assert all(text[a:b].strip() for a, b in spans)
    assert len(sentences_of(text)) == len(spans)
    assert len(drop_repeated(sentences_of(text))) <= len(spans)


@FUZZ
@given(texts)
def test_a_finished_sentence_ends_with_a_mark_and_says_something(text):
    if is_finished(text): assert not text.rstrip()[-1:].isalnum() and text.strip(" .!?\n\"")
    if text.strip(): assert not is_finished(text + " and")
    assert is_finished(text + " It melts.")


@FUZZ
@given(texts, choice_lists)
@example("answer: ", [".", ""])
@example("\x1f. ", ["dog", "dog"])
def test_an_answer_is_a_choice_or_nothing(text, choices):
    index = read_answer(text, choices)
    assert index is None or (isinstance(index, int) and 0 <= index < len(choices))
    assert read_answer(text, choices) == index
    assert _read_direct(text) is None or _read_direct(text).strip()


@FUZZ
@given(texts, choice_lists, st.integers(0, 9))
def test_the_last_commitment_counts(text, choices, place):
    place %= len(choices)
    assert read_answer(f"{text}\n\nThe answer is ({chr(65 + place)}).", choices) == place


@FUZZ
@given(st.lists(words, min_size=2, max_size=6, unique=True), st.integers(0, 5))
def test_the_right_conclusion_is_read_and_never_repeated(choices, place):
    problem = Problem("p", "Which?", choices, place % len(choices), solution="Look at the two of them here.")
    ended = [*sentences_of(problem.solution), *sentences_of(conclusion_of(problem))]
    assert read_ending(ended, problem) == problem.answer
    assert concluded(problem, ended) == ended
    teacher = ReferenceTeacher()
    assert teacher.score(problem, ended)[-1] == 1.0
    assert teacher.correct(problem, " ".join(ended)) == " ".join(ended)
    assert teacher.compare(problem, problem.solution, " ".join(ended)) != "a"


@FUZZ
@given(texts, texts, choice_lists)
def test_the_reference_teacher_takes_any_text(text, solution, choices):
    problem, teacher = Problem("p", "Which?", choices, 0, solution=solution), ReferenceTeacher()
    sentences = sentences_of(text)
    scores = teacher.score(problem, sentences)
    assert len(scores) == len(sentences) and all(0 <= s <= 1 for s in scores)
    assert isinstance(teacher.correct(problem, text), str)
    both = {teacher.compare(problem, text, solution), teacher.compare(problem, solution, text)}
    assert both in ({"a", "b"}, {"tie"})
    assert all(count > 0 for count in _content_words(text).values())
    assert find_answer(text, Problem("q", "?", [], 0, direct_answers=["mug"])) is None or text.strip()


@FUZZ
@given(texts, texts)
@example("It melts.", ".")
@example("", "")
def test_metrics_take_any_text(text, reference):
    found = rationale_metrics([text], [reference])
    assert all(0 <= value <= 1 + 1e-6 for value in found.values())
    assert 0 <= _rouge_l(text, reference) <= 1
    assert all(0 <= share <= 1 for share in failure_signatures([text], [True]).values())


@FUZZ
@given(st.text(alphabet="ab c.", max_size=40), st.text(alphabet="ab c.", max_size=40))
def test_rouge_is_that_of_the_package(a, b):
    both = _bleu_tokens(a) and _bleu_tokens(b)
    assert _rouge_l(a, b) == (Rouge(["rouge-l"]).get_scores(a, b)[0]["rouge-l"]["f"] if both else 0.0)


def seconds(function, *args):
    start = time.process_time()
    function(*args)
    return time.process_time() - start


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_time_grows_with_the_length_and_no_faster(piece):
    for read in (split_sentences, is_finished, lambda text: read_answer(text, ["dog", "cat"])):
        long = piece * (32_000 // len(piece))
        assert seconds(read, long) < 3, "less than a second; quadratic time would be a minute"
