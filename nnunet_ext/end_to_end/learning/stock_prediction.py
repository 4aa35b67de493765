"""Contours by nnU-Net's own predictor."""

from __future__ import annotations

from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def predict_by_stock(trainer: nnUNetTrainer, images: Path, out: Path, *, mirrors: bool = False) -> None:
    """Label maps of all cases of an images folder by the network that a trainer holds.

    Label maps that are there are written anew, because nnU-Net may leave half of one when it is killed.

    Args:
        trainer: With trained weights.
        images: With `<case>_0000.nii.gz` and so on.
        out: Folder to write to.
        mirrors: Average over the mirrored images, if the training mirrored.
    """
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=mirrors, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    out.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=False, overwrite=True)
