"""Which steps are run in which order, with a study that only notes them."""

import json
from pathlib import Path

import pytest

from nnunet_ext.end_to_end.learning.courses import Costs, course
from nnunet_ext.end_to_end.learning.running import Run, run_all, runs_of
from nnunet_ext.end_to_end.learning.study import Settings, Study, branch_file, model_folder, training_name
from nnunet_ext.end_to_end.learning.systems import LOCALIZERS, SYSTEMS, system_of
from nnunet_ext.files import write_json
from nnunet_ext.nnunet_folders import BOXES_FILE

MARKS = [10.0, 40.0]


class NotedStudy(Study):
    """Its steps leave the files of real ones."""

    fails_for: str | None = None

    def apart(self, task: str, **options: object) -> None:
        name, seed, minutes = options["name"], options["seed"], options["minutes"]
        assert isinstance(name, str)
        assert isinstance(seed, int)
        assert isinstance(minutes, float)
        self.noted = [*getattr(self, "noted", []), (task, name, minutes, options.get("trunk"))]
        if name == self.fails_for:
            raise RuntimeError("no luck")
        if task == "score":
            write_json({}, self.record_file(name, minutes, seed, true_boxes=bool(options["true_boxes"])))
            return
        system = system_of(name)
        fold = f"fold_{options.get('fold', 0)}"
        file = model_folder(self, system, training_name(name, seed, minutes)) / fold / "checkpoint_final.pth"
        if options["trunk"]:
            folder = model_folder(self, system, training_name(name, seed, None)) / fold
            file = branch_file(folder, course(system, Costs.read(self.costs_file).of(name), minutes).branch_epoch)
        elif system.kind == "localizer":
            file = file.parent / "validation" / BOXES_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def study(tmp_path) -> NotedStudy:
    made = NotedStudy(tmp_path / "out", tmp_path / "runs", Settings("heads", "/cases", n_train=2, n_test=1))
    cost = {"train_s": 1.0, "val_s": 0.5, "epoch_iterations": 9}
    write_json({"systems": dict.fromkeys([*SYSTEMS, *LOCALIZERS], cost), "marks_min": MARKS}, made.costs_file)
    return made


def run(study: Study, *runs: Run, true_boxes: bool = False) -> list[str]:
    said: list[str] = []
    run_all(study, runs, at_a_time=1, true_boxes=true_boxes, commit=None, say=said.append)
    return said


def test_the_shortest_mark_comes_first():
    runs = runs_of(["default", "stock"], [40.0, 10.0], [0, 1])
    assert [(r.minutes, r.seed, r.name) for r in runs[:5]] == [
        (10.0, 0, "default"),
        (10.0, 0, "stock"),
        (10.0, 1, "default"),
        (10.0, 1, "stock"),
        (40.0, 0, "default"),
    ]


def test_a_trunk_is_gone_on_with_for_each_mark_and_a_branch_leaves_it(study):
    run(study, *(Run("default", mark, 0) for mark in MARKS))
    assert study.noted == [
        ("train", "localizer", 10.0, True),
        ("train", "localizer", 10.0, False),
        ("train", "default", 10.0, True),
        ("train", "default", 10.0, False),
        ("score", "default", 10.0, None),
        ("train", "localizer", 40.0, True),
        ("train", "localizer", 40.0, False),
        ("train", "default", 40.0, True),
        ("train", "default", 40.0, False),
        ("score", "default", 40.0, None),
    ]


def test_the_longer_mark_alone_needs_the_first_marks_localizer_too(study):
    run(study, Run("default", 40.0, 0))
    assert [step[:3] for step in study.noted if step[1] == "localizer"] == [
        ("train", "localizer", 10.0),
        ("train", "localizer", 10.0),
        ("train", "localizer", 40.0),
        ("train", "localizer", 40.0),
    ]


def test_systems_of_the_same_labels_share_a_localizer_and_stock_has_none(study):
    names = ["default", "no jitter", "merged sides", "stock"]
    run(study, *(Run(name, 10.0, 0) for name in names))
    assert [step[1] for step in study.noted if step[3]] == [
        "localizer",
        "default",
        "no jitter",
        "localizer, merged sides",
        "merged sides",
    ]
    assert [step for step in study.noted if step[1] == "stock"] == [
        ("train", "stock", 10.0, False),
        ("score", "stock", 10.0, None),
    ]


def test_guidance_needs_all_folds_of_a_localizer_of_its_own_and_is_not_given_the_reference(study):
    study.splits_file().parent.mkdir(parents=True)
    write_json([{"train": [], "val": []}] * 3, study.splits_file())
    run(study, Run("guidance", 10.0, 0), true_boxes=True)
    assert [step[:2] for step in study.noted] == [
        *[("train", "localizer, all folds")] * 6,
        *[("train", "guidance")] * 2,
        ("score", "guidance"),
    ]
    study.noted = []
    run(study, Run("default", 10.0, 0))
    assert study.noted[0][1] == "localizer"


def test_a_repeated_command_does_only_what_is_missing(study):
    run(study, Run("default", 10.0, 0))
    study.noted = []
    assert run(study, Run("default", 10.0, 0)) == ["default, 10 min, seed 0: done before"]
    assert study.noted == []
    run(study, Run("default", 10.0, 0), Run("whole volume", 10.0, 0), true_boxes=True)
    assert [step[:2] for step in study.noted] == [
        ("score", "default"),
        ("train", "whole volume"),
        ("train", "whole volume"),
        ("score", "whole volume"),
    ]
    study.record_file("default", 10.0, 0).unlink()
    study.noted = []
    run(study, Run("default", 10.0, 0))
    assert [step[0] for step in study.noted] == ["score"]


def test_a_failed_run_is_named_and_the_others_are_run(study):
    study.fails_for = "default"
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed:\ndefault, 10 min, seed 0: no luck"):
        run(study, Run("default", 10.0, 0), Run("stock", 10.0, 0))
    assert Path(study.record_file("stock", 10.0, 0)).is_file()
    assert json.loads(study.record_file("stock", 10.0, 0).read_text()) == {}
