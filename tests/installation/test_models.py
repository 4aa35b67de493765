"""Models from a zip file: nothing is written outside the folder of models, and the good ones are installed whole."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

import pytest

from nnunet_ext.installation.models import install_model

MODEL = "Dataset501_Test/CascadeOARTrainer__CascadeOARPlans__3d_lowres"


def archive(file: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(file, "w") as content:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            if name == link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            content.writestr(info, data)
    return file


def below(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))


def test_a_model_is_installed_whole(tmp_path):
    members = {f"{MODEL}/plans.json": b"{}", f"{MODEL}/fold_0/checkpoint_final.pth": b"weights"}
    results = tmp_path / "results"
    assert install_model(archive(tmp_path / "model.zip", members), results) == [results / MODEL]
    assert [name for name in below(results) if (results / name).is_file()] == sorted(members)


@pytest.mark.parametrize("name", ["../climbs.txt", "/tmp/climbs.txt", f"{MODEL}/../../../climbs.txt", "C:\\climbs.txt",
                                  "..\\climbs.txt"])  # fmt: skip
def test_an_archive_that_climbs_out_is_refused_and_nothing_written(tmp_path, name):
    file = archive(tmp_path / "model.zip", {f"{MODEL}/plans.json": b"{}", name: b"x"})
    with pytest.raises(ValueError, match=r"model\.zip is not safe: .*climbs\.txt' in it would be written outside"):
        install_model(file, tmp_path / "results")
    assert below(tmp_path) == ["model.zip"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    link = f"{MODEL}/fold_0"
    file = archive(tmp_path / "model.zip", {f"{MODEL}/plans.json": b"{}", link: b"/etc"}, link=link)
    with pytest.raises(ValueError, match=r"fold_0' in it is a link"):
        install_model(file, tmp_path / "results")


def test_a_model_that_is_there_is_not_overwritten(tmp_path):
    file = archive(tmp_path / "model.zip", {f"{MODEL}/plans.json": b"new"})
    (tmp_path / "results" / MODEL).mkdir(parents=True)
    (tmp_path / "results" / MODEL / "plans.json").write_bytes(b"old")
    with pytest.raises(FileExistsError, match="is there already"):
        install_model(file, tmp_path / "results")
    assert (tmp_path / "results" / MODEL / "plans.json").read_bytes() == b"old"


def test_the_postprocessing_in_the_dataset_json_becomes_the_models_file_unless_it_is_there(tmp_path):
    dataset = b'{"organ_postprocessing": {"organs": {"Eye_L": []}}}'
    members = {f"{MODEL}/plans.json": b"{}", f"{MODEL}/dataset.json": dataset}
    install_model(archive(tmp_path / "model.zip", members), tmp_path / "results")
    file = tmp_path / "results" / MODEL / "organ_postprocessing.json"
    assert json.loads(file.read_text()) == {"organs": {"Eye_L": []}}
    members[f"{MODEL}/organ_postprocessing.json"] = b'{"organs": {}}'
    install_model(archive(tmp_path / "whole.zip", members), tmp_path / "others")
    assert (tmp_path / "others" / MODEL / "organ_postprocessing.json").read_bytes() == b'{"organs": {}}'
    members[f"{MODEL}/organ_postprocessing.json"] = b"{"
    with pytest.raises(ValueError, match=r"organ_postprocessing\.json is damaged.*nothing was installed"):
        install_model(archive(tmp_path / "damaged.zip", members), tmp_path / "nowhere")
    assert below(tmp_path / "nowhere") == []


@pytest.mark.parametrize("kind", ["cut off", "no model", "damaged"])
def test_an_archive_that_is_none_leaves_nothing(tmp_path, kind):
    file = archive(
        tmp_path / "model.zip", {f"{MODEL}/plans.json": b"{}" * 500} if kind != "no model" else {"a.txt": b"x"}
    )
    content = file.read_bytes()
    if kind == "cut off":
        file.write_bytes(content[:-30])
    elif kind == "damaged":
        file.write_bytes(content.replace(b"{}{}", b"{}[]", 1))
    said = {"cut off": "not a zip file, or cut off", "no model": "holds no model", "damaged": "is damaged"}[kind]
    with pytest.raises(ValueError, match=said):
        install_model(file, tmp_path / "results")
    assert [f for f in below(tmp_path) if f not in ("model.zip", "results")] == []
