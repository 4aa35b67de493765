"""Checkpoints that cannot be read, and what to do then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nnunet_ext.training.checkpoints import (
    KEYS,
    checkpoint_file,
    checkpoints_in,
    explain,
    go_on_without,
    not_written,
    read_checkpoint,
    remove_leftovers,
    set_aside,
    size_mb,
)

COMMAND = "nnUNetv2_train Dataset501_Test 3d_lowres 0"
WEIGHTS = {"conv.weight": torch.arange(2000.0)}


def write(folder: Path, name: str, *, epoch: int = 2) -> Path:
    file = checkpoint_file(folder, name)
    made_by = {"plans": {"plans_name": "CascadeOARPlans"}, "configuration": "3d_lowres"}
    content = {"network_weights": WEIGHTS, "current_epoch": epoch, "init_args": made_by}
    torch.save({**dict.fromkeys(KEYS), **content}, file)
    return file


def explained(file: Path, weights=WEIGHTS) -> None:
    names = {"configuration": "3d_fullres", "plans": "MyPlans"}
    explain(file, RuntimeError(), weights, folder=file.parent, command=COMMAND, **names)


@pytest.mark.parametrize("damage", ["empty", "cut off", "text", "a byte"])
def test_a_damaged_checkpoint_is_named_with_the_commands_to_go_on_from_another(tmp_path, damage):
    latest, best = write(tmp_path, "latest"), write(tmp_path, "best", epoch=1)
    whole = latest.read_bytes()
    at = whole.index(WEIGHTS["conv.weight"].numpy().tobytes())
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    latest.write_bytes({"empty": b"", "cut off": whole[:-1000], "text": b"not ours", "a byte": flipped}[damage])
    with pytest.raises(ValueError, match=r"checkpoint_latest.pth is damaged \(\d+ bytes; .+\)") as error:
        explained(latest)
    move = f"Move it away, mv '{latest}' '{latest}.damaged', then"
    assert str(error.value).endswith(f"{move} {COMMAND} --c goes on from checkpoint_best.pth, 1 epochs done.")
    best.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{COMMAND} trains anew: no other checkpoint here can be read"):
        explained(latest)


def test_a_checkpoint_of_another_network_or_of_none_is_named(tmp_path):
    file = write(tmp_path, "latest")
    said = (
        f"{file} does not fit the network of configuration '3d_fullres' in MyPlans: 'conv.weight' is (3,) in the network "
        "and (2000,) in the file. It was made with plans 'CascadeOARPlans', configuration '3d_lowres'. Put back the plans "
        "it was trained with, or train anew, without --c."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        explained(file, {"conv.weight": torch.zeros(3)})
    explained(file)  # not to blame
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match=r"is not a checkpoint of nnU-Net: it holds no .*network_weights"):
        explained(file)


def test_other_checkpoints_are_tried_in_the_order_of_nnunet(tmp_path):
    best, latest, final = (write(tmp_path, name) for name in ("best", "latest", "final"))
    assert checkpoints_in(tmp_path) == [final, latest, best]
    assert "from checkpoint_final.pth" in go_on_without(best, folder=tmp_path, command=COMMAND)
    assert "from checkpoint_latest.pth" in go_on_without(final, folder=tmp_path, command=COMMAND)


def test_checkpoints_of_an_earlier_training_are_renamed_and_those_of_a_killed_run_deleted(tmp_path):
    write(tmp_path, "final")
    write(tmp_path, "best")
    for name in (".checkpoint_latest.pth.7.tmp", "checkpoint_best.pth.77.tmp", "other.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert set_aside(tmp_path) == ["checkpoint_final.pth.old", "checkpoint_best.pth.old"]
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint_best.pth.old", "checkpoint_final.pth.old", "other.tmp"]
    assert read_checkpoint(tmp_path / "checkpoint_best.pth.old")["current_epoch"] == 2
    assert set_aside(tmp_path) == []


def test_a_message_about_a_full_disk_says_what_is_needed_and_whether_an_earlier_one_is_whole(tmp_path):
    file = checkpoint_file(tmp_path, "latest")

    def said() -> str:
        return not_written(file, OSError("full"), needed_mb=12.34, command=COMMAND)

    assert re.match(rf"{file} could not be written \(.*full.*\)\. It needs 12\.3 MB and [\d.]+ MB are free\.", said())
    assert said().endswith(f"There is no earlier one. Make room, then go on: {COMMAND}")
    write(tmp_path, "best")
    assert said().endswith(f"The checkpoints there are whole. Make room, then go on: {COMMAND} --c")


def test_the_size_is_that_of_all_tensors():
    assert size_mb([{"a": torch.zeros(1000), "b": [torch.zeros(500, dtype=torch.float64)]}, 3, None]) == 0.008
