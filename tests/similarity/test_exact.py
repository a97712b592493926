from hfsynth.similarity.exact import match_equal


def test_match_equal_ignores_width_case_and_spaces():
    texts = ["Name it.", "name\n IT.", "Ｎame it.", "Name it", "ﬁne", "FINE"]
    found = [match and match.text for match in match_equal(iter(texts), ["fine"])]
    assert found == [None, "Name it.", "Name it.", None, "fine", "fine"]
