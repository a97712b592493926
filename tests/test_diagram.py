from hfsynth.pipeline import Arrow, Diagram
from hfsynth.step import Node


def node(name, reads, makes, model="m"):
    return Node(name, model, tuple(reads), makes and tuple(makes))


CHAIN = Diagram.of(
    ["text", "id"],
    [
        node("ask", ["text"], ["question"]),
        node("keep", [], None, ""),
        node("answer", ["question"], ["reply"]),
        node("again", ["question"], ["question"]),
    ],
)


def test_a_column_comes_from_the_last_step_that_made_it():
    assert Arrow(1, 2, ("question",)) in CHAIN.arrows
    assert Arrow(2, 3, ("question",)) in CHAIN.arrows
    assert Arrow(4, 5, ("question",)) in CHAIN.arrows
    assert Arrow(3, 5, ("reply",)) in CHAIN.arrows


def test_what_no_step_made_does_not_go_to_the_result():
    assert not [arrow for arrow in Diagram.of(["id"], [node("a", [], ["b"])]).arrows if "id" in arrow.columns]


def test_a_function_takes_all_columns():
    assert Arrow(0, 2, ("text", "id")) in CHAIN.arrows


def test_names_can_not_break_the_mermaid_text():
    drawn = Diagram.of(['a"] --> x'], [node("<b>", ['a"] --> x'], ["c"], '"m"')]).mermaid()
    assert "&lt;b&gt;" in drawn
    assert '"m"' not in drawn.replace("&quot;", "")
    assert 'a"]' not in drawn


def test_mermaid_of_steps_that_read_nothing_has_no_dataset():
    drawn = Diagram.of(["id"], [node("make", [], ["text"]), node("use", ["text"], ["reply"])]).mermaid()
    assert "dataset" not in drawn
    assert 'step1 -- "text" --> step2' in drawn
