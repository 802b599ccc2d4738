"""What a node cannot reach, as it finds out itself."""

from cluster.reach import missing_at
from fusion.store import Location


def test_a_node_that_sees_the_storage_and_the_models_lacks_nothing(tmp_path):
    storage = Location.of(tmp_path / "runs")
    (storage / "mark").write_text("")
    assert missing_at(storage, "mark", "own", [str(tmp_path)]) is None
    assert (storage / "own").exists()


def test_a_folder_of_the_same_name_that_is_not_the_same_folder_is_told(tmp_path):
    said = missing_at(Location.of(tmp_path), "mark", "own", [])
    assert "does not see in" in said and "give s3://" in said


def test_a_model_that_is_not_there_is_named(tmp_path):
    storage = Location.of(tmp_path)
    (storage / "mark").write_text("")
    assert "has no model /nowhere" in missing_at(storage, "mark", "own", ["/nowhere"])
