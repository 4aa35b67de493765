"""DeepLabv3+, the two-dimensional network of atrous convolutions, from segmentation-models-pytorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nnunet_ext.rivals.blocks import feature_values

#: What installs the library.
REMEDY = "pip install 'nnunet_ext[rivals]'"
#: Steps in which the encoder makes a slice smaller, and rates of the atrous convolutions, as the paper has them.
OUTPUT_STRIDE, RATES = 16, (6, 12, 18)


def library_problem() -> str | None:
    """Why segmentation-models-pytorch can't be used, with the remedy. None if it can."""
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError as error:
        return f"segmentation-models-pytorch can't be imported ({error}): {REMEDY}"
    except RuntimeError as error:  # of a torchvision that does not fit torch
        return (
            f"segmentation-models-pytorch can't be imported ({error}): install a torchvision that fits the installed torch "
            f"{torch.__version__}"
        )
    return None


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ with random weights. A slice of any size is padded to a multiple of `OUTPUT_STRIDE`.

    The paper's are the atrous pyramid, the decoder, the output stride, and the encoder, ResNet-101 or Xception, of which the
    first is taken. The paper starts from ImageNet's weights, which are not downloaded here.

    Args:
        input_channels: Images.
        num_classes: Labels with the background.
        encoder: Of segmentation-models-pytorch.
        decoder_channels: Of pyramid and decoder. The paper's are 256.
        deep_supervision: Of nnU-Net. The paper has none.

    Raises:
        ImportError: If segmentation-models-pytorch can't be imported.
        ValueError: If deep supervision is asked for.

    Source:
        Chen et al. 2018, Encoder-decoder with atrous separable convolution, doi:10.1007/978-3-030-01234-2_49.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet101",
        decoder_channels: int = 256,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError("DeepLabv3+ has no deep supervision: set deep_supervision to false in the plan.")
        if problem := library_problem():
            raise ImportError(problem)
        from segmentation_models_pytorch import DeepLabV3Plus as Published

        self.input_channels = input_channels
        self.network = Published(
            encoder_name=encoder,
            encoder_weights=None,
            encoder_output_stride=OUTPUT_STRIDE,
            decoder_channels=decoder_channels,
            decoder_atrous_rates=RATES,
            in_channels=input_channels,
            classes=num_classes,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, labels, Y, X)` of slices `(B, C, Y, X)`."""
        height, width = x.shape[2:]
        padding = (0, -width % OUTPUT_STRIDE, 0, -height % OUTPUT_STRIDE)
        logits = self.network(nn.functional.pad(x, padding, mode="replicate") if any(padding) else x)
        return logits[:, :, :height, :width]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps for one slice of `input_size`, nnU-Net's measure of the memory needed."""
        return feature_values(self, (self.input_channels, *input_size))
