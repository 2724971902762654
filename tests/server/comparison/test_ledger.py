"""What a comparison remembers."""

import pytest

from fedwon.common.errors import FolderTaken, StorageError
from fedwon.server.comparison.ledger import Ledger, subject_of


def test_what_was_put_is_there_after_a_new_start(tmp_path):
    ledger = Ledger(tmp_path / "new")
    ledger.put("plan", {"rounds": 3})
    ledger.put("plan", {"rounds": 4})
    ledger.close()
    assert Ledger(tmp_path / "new").get("plan") == {"rounds": 4}
    assert Ledger(tmp_path / "new").get("other") is None


def test_a_folder_is_of_one_comparison(tmp_path):
    ledger = Ledger(tmp_path)
    assert not ledger.claim(subject_of({}, {"a": "1"}))
    assert ledger.claim(subject_of({}, {"a": "1"}))
    with pytest.raises(FolderTaken, match="other images"):
        ledger.claim(subject_of({}, {"a": "2"}))
    with pytest.raises(FolderTaken):
        ledger.claim(subject_of({"training": {"epochs": 2}}, {"a": "1"}))


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "comparison.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError, match=r"comparison\.db"):
        Ledger(tmp_path)
