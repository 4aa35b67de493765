"""The page for predictions that have no references."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.files import check_folder, check_output_file
from nnunet_ext.folder_lock import holding, owned_file
from nnunet_ext.images.file_names import broken_link, find_channel_files
from nnunet_ext.labels.values import organ_values
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import (
    channel_files,
    find_label_maps,
    need,
    organs_not_segmented,
    read_dataset_json,
    read_predictions_json,
)
from nnunet_ext.reporting.content import Experiment, Report
from nnunet_ext.reporting.page import VIEWER_LIMIT_MB, PageSummary, write_report_page

logger = logging.getLogger(__name__)


@holding(owned_file, "out")
def view(
    predictions: Path,
    images: Path,
    out: Path,
    *,
    viewer_limit_mb: float = VIEWER_LIMIT_MB,
    show_progress: bool = True,
) -> PageSummary:
    """The page for predictions that have no references. It shows no scores, and the cases with warnings first.

    Args:
        predictions: Folder of label maps with the `dataset.json` that nnU-Net and `predict` write beside them.
        images: Folder of nnU-Net's `<case>_0000.nii.gz`, ..., or with a folder per case that holds one image per channel.
            Only the channels are shown that the case was predicted from. Cases without images are listed without a viewer.
        out, viewer_limit_mb, show_progress: As for `write_report_page`.

    Raises:
        FileNotFoundError: If a folder, a label map or the `dataset.json` is not there.
    """
    predictions, images = Path(predictions), Path(images)
    check_output_file(out, "predictions.html")
    check_folder(images, "images folder")
    files = find_label_maps(predictions)
    dataset_json = predictions / "dataset.json"
    if not files or not dataset_json.is_file():
        missing = "label map" if not files else "dataset.json"
        raise FileNotFoundError(f"no {missing} in {predictions}; name the folder that a prediction was written to.")
    dataset = read_dataset_json(dataset_json)
    organs = organ_values(need(dataset, "labels", dataset_json))
    channel_names = need(dataset, "channel_names", dataset_json)
    left_out = organs_not_segmented(predictions, organs)
    manifest = predictions / "predictions.json"
    made = read_predictions_json(manifest) if manifest.is_file() else {"cases": {}}
    found = {}
    for case, file in files.items():
        if not file.is_file():  # without its organs, the images would look as if nothing was found
            logger.warning("case '%s' has no viewer: %s", case, broken_link(file))
            continue
        had = made["cases"].get(case, {}).get("channels")
        if shown := _images(images, case, {n: c for n, c in channel_names.items() if had is None or c in had}):
            found[case] = shown
    scores = EvaluationSummary(
        labels=dataset["labels"],
        tolerance_mm={},
        rows=[],
        files={case: (file, None) for case, file in files.items()},
        not_segmented=left_out,
    )
    experiment = Experiment("prediction", predictions, scores, found)
    # Only the starter is named there.
    remarks = (Message("predicted_by_the_starter", {"model": made["model"]}),) if "model" in made else ()
    report = Report(Path(out).parent, (experiment,), tuple(organs), tuple(files), (), box_organ="", remarks=remarks)
    return write_report_page(report, out, viewer_limit_mb=viewer_limit_mb, show_progress=show_progress)


def _images(images: Path, case: str, channel_names: Mapping[str, str]) -> dict[str, Path]:
    """Channel name -> image of a case, beside the other cases' or in a folder of its own. Empty if one is missing."""
    with suppress(FileNotFoundError):
        return channel_files(images, case, channel_names)
    channels = [channel_names[number] for number in sorted(channel_names, key=int)]
    with suppress(ValueError, OSError):
        return find_channel_files(images / case, channels)
    return {}
