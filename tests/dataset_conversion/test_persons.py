"""Which cases are of one person: by a group file, and by the record of synthetic heads."""

from __future__ import annotations

import json

import pytest
from case_folders import run, write_case
from reference_tables import check_file

from nnunet_ext.dataset_conversion.persons import persons_of, read_group_file, same_person


@pytest.mark.parametrize(
    "text", ["case,person\na,Jo\nb,Jo\n", "Case;Person\na;Jo\n\nb; Jo\n", "case\tperson\na\tJo\nb\tJo"]
)
def test_a_group_file_is_read_with_any_divider(tmp_path, text):
    file = tmp_path / "people.csv"
    file.write_text(text)
    assert read_group_file(file) == {"a": "Jo", "b": "Jo"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,Jo\n", "first line must be case,person"),
        ("case,person\na\n", "line 2: 'a' is not a case and a person"),
        ("case,person\na,\n", "line 2"),
        ("case,person\na,Jo\na,Mo\n", "case 'a' is both Jo and Mo"),
    ],
)
def test_a_group_file_that_makes_no_sense_is_refused(tmp_path, text, words):
    file = tmp_path / "people.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_group_file(file)


def test_the_file_goes_before_the_record_of_a_case(tmp_path):
    for case, person in (("a", "head_01"), ("b", "head_01"), ("c", "head_02")):
        (tmp_path / case).mkdir()
        (tmp_path / case / "phantom.json").write_text(json.dumps({"person": person}))
    assert persons_of(tmp_path, "abcd", None) == {"a": "head_01", "b": "head_01", "c": "head_02"}
    file = tmp_path / "people.csv"
    file.write_text("case,person\nb,Jo\nd,Jo\n")
    assert persons_of(tmp_path, "abcd", file) == {"a": "head_01", "b": "Jo", "c": "head_02", "d": "Jo"}


def test_a_case_that_is_not_there_is_named(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text("case,person\nx,Jo\n")
    with pytest.raises(ValueError, match=r"people.csv names x, no case of .*--list shows"):
        persons_of(tmp_path, "ab", file)


def test_lists_hold_cases_of_the_dataset_and_no_names():
    persons = {"a": "Jo", "b": "Jo", "c": "Mo", "d": "Mo", "e": "Al"}
    identifiers = {case: f"case_{case}" for case in persons}
    assert same_person(persons, identifiers, ["case_a", "case_b", "case_c", "case_e"]) == [["case_a", "case_b"]]


def test_a_conversion_lists_the_cases_of_one_person_and_says_who_is_in_the_test_set_too(tmp_path, caplog):
    for seed, case in enumerate("abcd"):
        write_case(tmp_path / "src" / case, seed=seed)
    for case in "ab":
        (tmp_path / "src" / case / "phantom.json").write_text(json.dumps({"person": "head_01"}))
    file = tmp_path / "people.csv"
    file.write_text("case,person\nc,Jo\nd,Jo\n")
    summary = run(tmp_path / "src", group_file=file, test_cases=["d"])
    assert summary.failed == {}
    text = (summary.dataset_folder / "dataset.json").read_text()
    assert json.loads(text)["same_person"] == [["a", "b"]]
    assert "Jo" not in text
    assert "c, d are of one person, and some are training cases, others test cases" in caplog.text
    check_file(json.loads(text), "dataset.json")


def test_a_dataset_of_people_with_one_case_each_lists_nobody(tmp_path):
    write_case(tmp_path / "src" / "a")
    assert "same_person" not in json.loads((run(tmp_path / "src").dataset_folder / "dataset.json").read_text())
