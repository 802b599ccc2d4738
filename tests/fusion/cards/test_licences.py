from fusion.cards.licences import UNKNOWN, common_licence, licence

CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n"


def test_what_the_recipe_states_counts_first(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    assert licence("mit", str(tmp_path), None) == "mit"


def test_a_local_model_s_own_card_is_read(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    assert licence(None, str(tmp_path), None) == "apache-2.0"


def test_the_card_beside_a_data_file_is_read(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert licence(None, str(tmp_path / "rows.jsonl"), None, "dataset") == "apache-2.0"


def test_a_card_that_says_nothing_or_is_broken_states_no_licence(tmp_path):
    for text in ("# no front matter", "---\n- a list\n---\n", "---\n: :\n---\n", "---\nlicense: 3"):
        (tmp_path / "README.md").write_text(text)
        assert licence(None, str(tmp_path), None) == UNKNOWN
    assert licence(None, "owner/never-loaded", "v1") == UNKNOWN


def test_only_one_known_licence_is_common():
    assert common_licence(["mit", "mit"]) == "mit"
    assert common_licence(["mit", "gemma"]) is None
    assert common_licence([UNKNOWN]) is None
    assert common_licence([]) is None
