"""The starter is found whole, or a message says what is wrong with it and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_starter import VERSION, write_starter

from nnunet_ext.starter.shipped import FILES, FOLDER, SEGMENTER, find_starter


@pytest.fixture
def folder(tmp_path, cascade_plans) -> Path:
    return write_starter(tmp_path / "starter", cascade_plans)


def test_a_whole_starter_is_found_with_its_version(folder):
    found = find_starter(folder)
    assert (found.version, found.segmenter) == (VERSION, folder / "model" / SEGMENTER)
    assert found.named("ab12") == f"starter {VERSION}, sha256 ab12"


def test_this_build_holds_a_whole_starter_or_says_that_it_holds_none():
    if (FOLDER / "starter.json").is_file():
        assert find_starter().segmenter == FOLDER / "model" / SEGMENTER
    else:
        with pytest.raises(FileNotFoundError, match="this build of nnunet_ext holds no starter"):
            find_starter()


def test_a_folder_without_a_starter_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no starter.*name a model with -d or -m"):
        find_starter(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_and_a_missing_one_are_named_with_a_remedy(folder, name):
    file = folder / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="the starter is damaged") as caught:
        find_starter(folder)
    assert str(file) in str(caught.value)
    assert "pip install --force-reinstall" in str(caught.value)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="the starter is not whole") as caught:
        find_starter(folder)
    assert str(file) in str(caught.value)


def test_a_file_without_a_hash_is_refused(folder):
    record = json.loads((folder / "starter.json").read_text())
    del record["sha256"][FILES[0]]
    (folder / "starter.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"has no sha256 of {FILES[0]}"):
        find_starter(folder)


def test_a_model_without_its_record_is_no_missing_starter(folder):
    (folder / "starter.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"starter\.json does not exist; install nnunet_ext again"):
        find_starter(folder)


def test_a_damaged_record_is_refused(folder):
    (folder / "starter.json").write_text('{"version": "1", "sha')
    with pytest.raises(ValueError, match=r"starter\.json is damaged.*install nnunet_ext again"):
        find_starter(folder)
