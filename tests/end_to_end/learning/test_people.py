import json

import pytest

from nnunet_ext.end_to_end.learning.people import choose, named_people, people_of, person_splits

HEADS = {f"case_{n:03d}": f"head_{1 + n // 2:02d}" for n in range(20)}  # ten people, two cases each


def test_people_are_read_from_the_phantoms_and_a_case_without_one_is_its_own(tmp_path):
    for case, content in {"a": {"person": "head_01"}, "b": {"options": {}}, "c": None, ".hidden": None}.items():
        (tmp_path / case).mkdir()
        if content is not None:
            (tmp_path / case / "phantom.json").write_text(json.dumps(content))
    assert people_of(tmp_path) == {"a": "head_01", "b": "b", "c": "c"}


def test_a_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no case folders"):
        people_of(tmp_path)


@pytest.mark.parametrize("wanted", [["01", "..", "03"], ["01..03"], ["head_01", "2", "03"], ["1..3", "03"]])
def test_people_are_named_by_number_name_or_range(wanted):
    assert set(named_people(HEADS, wanted).values()) == {"head_01", "head_02", "head_03"}


@pytest.mark.parametrize(("wanted", "said"), [("11", "'11' has no case"), ("head", "'head' has no case")])
def test_an_unknown_person_is_named_with_those_there_are(wanted, said):
    with pytest.raises(ValueError, match=f"{said}; the people are head_01, "):
        named_people(HEADS, [wanted])


def test_a_number_that_fits_two_people_is_refused():
    with pytest.raises(ValueError, match="'1' fits a_1, b_01"):
        named_people({"x": "a_1", "y": "b_01"}, ["1"])


def test_a_person_is_on_one_side_only():
    train, test = choose(HEADS, train_people=["01..07"], test_people=["08..10"])
    assert (len(train), len(test)) == (14, 6)
    with pytest.raises(ValueError, match="head_07 would be trained on and tested"):
        choose(HEADS, train_people=["01..07"], test_people=["07..10"])
    with pytest.raises(ValueError, match="head_02 would be trained on and tested"):
        choose(HEADS, n_train=3, n_test=2)


def test_cases_may_be_counted_instead():
    train, test = choose(HEADS, n_train=4, n_test=2)
    assert [*train, *test] == [f"case_{n:03d}" for n in range(6)]
    with pytest.raises(ValueError, match="19 cases to train on and 2 to test were asked for, there are 20"):
        choose(HEADS, n_train=19, n_test=2)


@pytest.mark.parametrize(
    "options", [{}, {"n_train": 3}, {"train_people": ["01"]}, {"n_train": 2, "test_people": ["1"]}]
)
def test_half_of_the_options_is_refused(options):
    with pytest.raises(ValueError, match="both of them"):
        choose(HEADS, **options)


def test_the_cases_of_a_person_are_validated_in_one_fold():
    train = {case: person for case, person in HEADS.items() if person <= "head_09"}
    splits = person_splits(train)
    assert len(splits) == 7  # nine people
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == sorted(train)
        assert not {train[c] for c in split["train"]} & {train[c] for c in split["val"]}
    assert sorted(case for split in splits for case in split["val"]) == sorted(train)
    assert {train[case] for case in splits[0]["val"]} == {"head_02", "head_09"}


def test_one_person_cannot_be_split():
    with pytest.raises(ValueError, match="all training cases are of head_01"):
        person_splits({"a": "head_01", "b": "head_01"})
