"""Every command in README and guides, typed as it stands there, on tiny phantoms.

The bash blocks of a document are run as one script, in one folder, but for this: `SUBSTITUTIONS`; plans are cut to one
iteration and their split to the few cases there are (`shorten`); and what a training leaves is replaced (`settle`), since
the noise that a network of one iteration draws takes minutes to show. So the commands run, and their options, files and
exit codes are what the guides say; that anything is learned is not shown. The guides to the study, to other
methods and to other sites take long: `make long`.

The commands are the installed packages' console scripts, run in forks of one process (`forked_commands`).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.cli.main import make_parser
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.phantom.torso import TORSO_ORGANS
from nnunet_ext.rivals.deeplab import library_problem

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").is_file():
    pytest.skip("the tests do not lie in a checkout", allow_module_level=True)
NNUNET = "nnUNet_"  # of its environment variables
README, CHINESE = "README.md", "README.zh.md"
DICOM, TRAINING, STUDY = (f"docs/how-to/{name}.md" for name in ("dicom_to_rtstruct", "training", "reproduce_the_study"))
API, COMMANDS = "docs/reference/python.md", "docs/reference/commands.md"
SITES, COMPARE = "docs/how-to/other_sites.md", "docs/how-to/compare_methods.md"
DOCUMENTS = (README, DICOM, TRAINING, STUDY, SITES, COMPARE)
#: Documents whose commands are all among those that are not run.
NOT_TYPED = ("CONTRIBUTING.md", "docs/how-to/heads_from_label_maps.md", "docs/how-to/cluster.md")

#: What is changed in every command: pattern -> replacement.
SUBSTITUTIONS = {
    r"CascadeOARPlan(ner|s)(?![A-Za-z])": r"CascadeOARPlan\1Small",
    r"for fold in 0 1 2 3 4": "for fold in 0",
    r"--cases 22\b": "--cases 3",  # phantoms: two to train with, one to test
    r"--site torso --cases 8": "--site torso --cases 3",  # two to train with, one to test
    r"--test case_007": "--test case_002",
    r"evaluate contours_test (raw/\S+)": r"evaluate \1 \1",  # a mask that fills the box takes a minute to draw
    r"(nnunet_ext convert torsos .*)": r"\1 --no-n4 --no-preview",
    r"--test phantom_020 phantom_021": "--test phantom_002",
    r"--test case_41 case_42": "--test phantom_002",
    r"(nnunet_ext convert patients .*)": r"\1 --no-n4 --no-preview",  # shown by the other conversions
    r"(nnunet_ext convert .*) --register": r"\1",  # tens of seconds a case; see test_dicom_case and test_registering
    r"-overwrite_target_spacing 1.25 0.8 0.8": "-overwrite_target_spacing 2.5 2.4 2.3",  # the phantoms' own, about
    r"3d_fullres_80x256x256 3d_cascade_32x128x128 (3d_cascade_32x96x96) 3d_cascade_16x64x64": r"\1",
    r"3d_organ_crops_32x128x128 (3d_organ_crops_32x96x96) 3d_organ_crops_16x64x64": r"\1",
    r"(whole|32x128x128|16x64x64)=scores/\S+ ": "",
    r"--folds (\S+)/fold_\*": r"--folds \1/fold_0 \1/fold_0",  # only fold 0 is trained
    r"(nnunet_ext learn-resampling .*)": r"\1 --iterations 1",
    r"(nnunet_ext finetune .*)": r"\1 -f 0 -device cpu",
    r" (nnU-Net|mirrored|ResEnc)=scores/\S+": "",  # nnU-Net's own trainings are not run
    r" --models +nnU-Net=.*": "",
    r" -num_gpus 2": "",
    r"(nnUNetv2_(?:train|predict) [^;]*)": r"\1 -device cpu",
    r"(nnunet_ext predict -[dm][^;]*)": r"\1 -device cpu -p CascadeOARPlansSmall",
    r"(nnunet_ext predict -m[^;]*) -p CascadeOARPlansSmall": r"\1",
    r"(nnunet_ext predict .* -p CascadeOARPlansFinetuned .*) -p CascadeOARPlansSmall": r"\1",
    r"(nnUNetv2_(?:export_model_to_zip|accumulate_crossval_results|find_best_configuration|predict) [^;]*)": r"\1 -f 0",
}
if library_problem() is not None:
    SUBSTITUTIONS |= {r" 2d_deeplab": "", r" DeepLabv3\+=\S+": ""}
#: Commands that are not run, and why; what is ours is at least known to the parser.
NOT_RUN = {
    "pip install": "tests run against an installed package; test_packaging builds the wheel",
    "make demo": "minutes of training",
    "make test": "runs this",
    "make long": "runs a part of this",
    "make check": "runs a part of this",
    "nnunet_ext phantom heads --from-maps": "label maps are no part of the package; see phantom/from_maps/test_making",
    "nnunet_ext convert heads -d 502": "converts these",
    "nnunet_ext study": "types the other commands; see end_to_end/workflow/test_study",
    "nnunet_ext workflow": "runs jobs; see end_to_end/workflow/test_by_snakemake and test_slurm",
    "nnunet_ext predict -d 521 -i new_patients": "by models of 10,000 cases; see prediction/test_predicting",
    "sbatch --wait --array 0-49": "the same in parts; see prediction/test_predicting",
    "bash ours.sh": "job arrays; see end_to_end/workflow/test_job_arrays",
    "nnUNetv2_plan_and_preprocess -c 3d_fullres -d 541": "for trainings by nnU-Net, of 45 CPU seconds an iteration",
    "for fold in 0 1 2 3 4; do nnUNetv2_train 541 3d_fullres": "these",
    "nnUNetv2_predict -d 541": "predicts with these; see test_costs",
    "for method in nnunet nnunet_mirrored resenc; do": "scores these",
    "nnunet_ext benchmark": "minutes; see test_training_benchmark, test_prediction_benchmark, test_conversion_benchmark",
}


#: Configurations of other groups' networks, and what gives their logits.
LAST_LAYERS = {"3d_anatomynet": "logits", "3d_focusnet": "snet.logits", "2d_deeplab": "network.segmentation_head.0"}


def blocks(document: str, language: str = "bash") -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[str]:
    """One line per command, continuation lines joined."""
    return [line for block in blocks(document) for line in block.replace("\\\n", " ").splitlines()]


def script(document: str) -> str:
    lines = []
    for line in commands(document):
        if any(line.strip().startswith(command) for command in NOT_RUN):
            continue
        line = re.sub(r"\s+#.*", "", line)
        for pattern, replacement in SUBSTITUTIONS.items():
            line = re.sub(pattern, replacement, line)
        lines.append(line)
    return "\n".join(lines)


def shorten() -> None:
    """After planning: one iteration instead of a training, and a split of the few cases there are, one to validate."""
    dataset_id = sys.argv[sys.argv.index("-d") + 1]
    (plans_file,) = Path(os.environ[NNUNET + "preprocessed"]).glob(f"Dataset{dataset_id}_*/CascadeOARPlansSmall.json")
    plans = json.loads(plans_file.read_text())
    for configuration in plans["configurations"].values():
        if "training" in configuration:
            configuration["training"].update(num_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1)
    plans_file.write_text(json.dumps(plans))
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (plans_file.parent / "gt_segmentations").glob("*.gz"))
    splits = [{"train": [case for case in cases if case != one], "val": [one]} for one in cases]
    (plans_file.parent / "splits_final.json").write_text(json.dumps(splits))


def settle() -> None:
    """After training: weights that see one organ everywhere, and in the validation the reference moved by a voxel."""
    dataset_id, configuration, fold = sys.argv[1:4]
    model = f"{sys.argv[sys.argv.index('-tr') + 1]}__CascadeOARPlansSmall__{configuration}"
    (folder,) = Path(os.environ[NNUNET + "results"]).glob(f"Dataset{dataset_id}_*/{model}/fold_{fold}")
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    weights = checkpoint["network_weights"]
    last = LAST_LAYERS.get(configuration)
    if last is None:
        numbers = (int(m[1]) for key in weights if (m := re.match(r"decoder\.seg_layers\.(\d+)\.bias$", key)))
        last = f"decoder.seg_layers.{max(numbers)}"
    weights[f"{last}.weight"].zero_()
    weights[f"{last}.bias"].zero_()[3] = 1
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    references = Path(os.environ[NNUNET + "raw"], folder.parents[1].name, "labelsTr")
    for file in (folder / "validation").glob("*.nii.gz"):
        reference = sitk.ReadImage(str(references / file.name))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(reference), 1, axis=2))
        moved.CopyInformation(reference)
        sitk.WriteImage(moved, str(file))


def examples() -> None:
    """The blocks of the page on Python, as one script."""
    exec(compile("\n".join(blocks(API, "python")), API, "exec"), {"__name__": "__main__"})


class Workspace:
    """The folder in which the documents' commands are typed."""

    def __init__(self, folder: Path, forked: list[str]) -> None:
        self.folder, self.done, self.serve = folder, {}, forked
        self.environment = {
            **os.environ,
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_compile": "f",
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command[0]} returned {done.returncode}\n{output[-6000:]}"
        return output

    def type(self, document: str) -> str:
        """Run a document's commands, once; what they printed."""
        if document not in self.done:
            self.done[document] = self.run("bash", "-euxo", "pipefail", "-c", script(document))
        return self.done[document]


#: What follows a command of nnU-Net.
AFTERWARDS = {"nnUNetv2_plan_and_preprocess": "test_guides:shorten", "nnUNetv2_train": "test_guides:settle"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, shared_phantom, forked) -> Workspace:
    folder = tmp_path_factory.mktemp("guides")
    space = Workspace(folder, forked)
    (folder / "bin").mkdir()
    for name in {name for d in DOCUMENTS for name in re.findall(r"\bnnUNetv2_\w+|\bnnunet_ext\b", script(d))}:
        lines = [f'{shlex.join([*space.serve, name])} "$@"']
        if name in AFTERWARDS:
            lines.append(f'{shlex.join([*space.serve, AFTERWARDS[name]])} "$@"')
        (folder / "bin" / name).write_text("#!/bin/sh\nset -e\n" + "\n".join(lines) + "\n")
        (folder / "bin" / name).chmod(0o755)
    # What the guides take as given; phantoms depend on their number only, so these are the cases of the README.
    shared_phantom.write(folder / "export_from_tps", n_cases=2, size="tiny", dicom=True)
    shared_phantom.write(folder / "phantoms", n_cases=2, size="tiny")  # the README makes one more
    shutil.copytree(folder / "export_from_tps" / "phantom_001", folder / "new_patients" / "phantom_001")
    next((folder / "new_patients").rglob("RTSTRUCT.dcm")).unlink()
    (folder / "patients").symlink_to("phantoms")
    (folder / "imagesTs").symlink_to(Path("raw", "Dataset511_HeadOAR", "imagesTr"))
    (folder / "corrected").mkdir()
    (folder / "corrected" / "case_001.nii.gz").symlink_to(folder / "phantoms" / "phantom_001" / "label.nii.gz")
    return space


def test_readme(workspace):
    printed = workspace.type(README)
    assert "predictions: 1 written, 0 skipped (already there), 0 failed" in printed
    assert (workspace.folder / "report" / "report.html").is_file()


def test_guide_from_dicom_to_rtstruct(workspace):
    workspace.type(README)  # makes the phantoms
    printed = workspace.type(DICOM)
    for folder in ("contours", "contours_elsewhere"):
        assert (workspace.folder / folder / "case_001.nii.gz").is_file()
    assert "contours: 1 written" in printed


@pytest.mark.long
def test_guide_to_training(workspace):
    workspace.type(README)
    workspace.type(DICOM)  # whose data set it goes on with
    workspace.type(TRAINING)


@pytest.mark.long
def test_guide_to_the_reference_study(workspace):
    workspace.type(README)  # makes the phantoms
    workspace.type(STUDY)
    text = (workspace.folder / "tables" / "report.md").read_text()
    assert (
        "| organ | study: 80x256x256 | study: 32x128x128 | study: 32x96x96 | 32x96x96 | 32x96x96, mean over folds |"
        in text
    )
    assert "| ours: CT | ours: T1+T2 | ours: CT+T1+T2 (32x96x96) |" in text  # from the channels of the scores


@pytest.mark.long
def test_guide_to_other_sites_speaks_of_no_head_and_writes_exact_contours(workspace):
    printed = workspace.type(SITES)
    written = [workspace.folder / "report_torso" / "report.md", workspace.folder / "scores" / "evaluation.md"]
    for text in (printed, *(file.read_text() for file in written)):
        assert re.findall(r".*\b(?:heads?|crown|skull|orbits?)\b.*", text, flags=re.IGNORECASE) == []
    assert "Bodies are seen whole" in printed
    assert "3 written, 0 skipped (already there), 0 failed" in printed
    label_map = sitk.GetArrayFromImage(sitk.ReadImage(str(workspace.folder / "contours_torso" / "case_001.nii.gz")))
    assert (label_map == TORSO_ORGANS.index("Duct") + 1).any()
    (series,) = find_series(workspace.folder / "new_torso" / "phantom_000" / "CT").images
    for file in ("contours_torso/case_001.dcm", "corrected_torso.dcm"):
        found = {roi.name: roi.contours for roi in read_rtstruct(workspace.folder / file).rois}
        assert set(found) <= set(TORSO_ORGANS)
        for value, organ in enumerate(TORSO_ORGANS, start=1):
            mask = rasterise(found.get(organ, []), read_series(series))
            np.testing.assert_array_equal(mask, label_map == value)


@pytest.mark.long
def test_guide_to_comparing_methods(workspace, shared_phantom):
    shared_phantom.write(workspace.folder / "phantoms", n_cases=3, size="tiny")  # as the README does
    workspace.type(COMPARE)
    text = (workspace.folder / "compared" / "report.md").read_text()
    for method in ("cascade", "AnatomyNet", "FocusNet", "STAPLE", "voting"):
        assert f"| {method} |" in text
    costs = next(line for line in text.splitlines() if line.startswith("| AnatomyNet |") and "(x 0.25)" in line)
    assert "(folds: 1)" in costs


def test_python_examples(workspace):
    workspace.type(README)
    workspace.type(DICOM)  # which packs the model
    workspace.run(*workspace.serve, "test_guides:examples")


def test_what_is_not_run_is_known_to_the_parser():
    for document in NOT_TYPED:
        for line in commands(document):
            assert any(line.startswith(command) for command in NOT_RUN), line
    for document in (*DOCUMENTS, *NOT_TYPED):
        for line in commands(document):
            if line.startswith("nnunet_ext ") and any(line.startswith(command) for command in NOT_RUN):
                words = shlex.split(line.partition(" > ")[0], comments=True)
                make_parser().parse_args(words[1:])
    known = [line for document in (*DOCUMENTS, *NOT_TYPED) for line in commands(document)]
    assert {command for command in NOT_RUN if not any(line.startswith(command) for line in known)} == set()


def test_both_readmes_have_the_same_code_and_link_to_each_other():
    for language in ("bash", "python", "toml", "json"):
        without = [[re.sub(r"\s*#.*", "", block) for block in blocks(d, language)] for d in (README, CHINESE)]
        assert without[0] == without[1]
    texts = [(ROOT / d).read_text(encoding="utf-8") for d in (README, CHINESE)]
    assert CHINESE in texts[0]
    assert f"]({README})" in texts[1]
    headings = [re.findall(r"^(#+) ", text, flags=re.MULTILINE) for text in texts]
    assert headings[0] == headings[1]
