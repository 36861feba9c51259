"The exercises know a right answer from a wrong one."
import json

from conftest import ROOT

RIGHT = {
    "my_count": 3,
    "my_scores": [0.5, 1.0, 0.0, 0.0],
    "my_rewards": [0, 0, 0, 0, 0, 0.5, 0, 0, -0.5, 0, 0, -0.5],
    "my_fee": 0.07,
    "my_advantages_lambda_1": [0.3, 0.3, 0.3],
    "my_advantages_lambda_0": [0, 0, 0.3],
    "my_group_advantages": [-0.25, -0.25],
    "my_loss": -1.2,
    "my_gradient": "no",
    "my_survivors": [1, 2],
}


def verdicts(answers, capsys):
    "Run the notebook's cells with some answers; what every check says."
    cells = json.loads((ROOT/"nbs"/"learn"/"exercises.ipynb").read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    namespace, said = {}, []
    for number, source in enumerate(sources):
        for name, value in answers.items(): source = source.replace(f"{name} = None", f"{name} = {value!r}")
        exec(source, namespace)
        if number == 1:
            real = namespace["check"]
            namespace["check"] = lambda *args: said.append(real(*args)) or said[-1]
        elif number == 2: said.clear()  # the cell that tests `check` itself
    capsys.readouterr()
    return said


def test_without_answers_nothing_is_right(capsys):
    assert set(verdicts({}, capsys)) == {"not answered yet"}


def test_right_answers_are_right_and_wrong_ones_wrong(capsys):
    assert verdicts(RIGHT, capsys) == ["✓ right"] * len(RIGHT)
    assert all(
        v.startswith("✗")
        for v in verdicts({name: "maybe" if isinstance(v, str) else 99 for name, v in RIGHT.items()}, capsys)
    )
