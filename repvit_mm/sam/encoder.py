"""The image encoder of RepViT-SAM."""
from collections.abc import Mapping, Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from ..archs import get_arch
from ..errors import ConfigError
from ..network.backbone import RepViT


@MODELS.register_module()
class SamEncoder(BaseModule):
    """A RepViT whose last stage keeps the resolution, with the neck of SAM's image encoders.

    It replaces ``segment_anything``'s ``ImageEncoderViT`` in a ``Sam``.

    Args:
        arch: See :class:`repvit_mm.RepViT`; the published one is ``'m2_3'``.
        image_size: Side in pixels of the padded square image, a multiple of 16.
        out_channels: Channels of the embedding.
        norm_cfg: See :class:`repvit_mm.RepViT`.
        with_cp: See :class:`repvit_mm.RepViT`.
        init_cfg: Of the backbone; ``dict(type='Pretrained', checkpoint=X)`` loads a classifier's weights.

    Attributes:
        img_size: ``image_size``, under the name that ``SamPredictor`` expects.
        stride: Pixels of the image per position of the embedding.

    Raises:
        ConfigError: For invalid settings.

    Example:
        >>> import torch
        >>> from repvit_mm.sam import SamEncoder
        >>> tuple(SamEncoder('m0_9', image_size=64).eval()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 256, 4, 4)
    """

    def __init__(self, arch: str | Mapping = 'm2_3', image_size: int = 1024, out_channels: int = 256,
                 norm_cfg: Mapping = {'type': 'BN'}, with_cp: bool = False,
                 init_cfg: Mapping | Sequence[Mapping] | None = None):
        super().__init__()
        last = len(get_arch(arch).widths) - 1
        self.backbone = RepViT(arch, out_indices=(last,), last_stride=1, norm_cfg=norm_cfg, with_cp=with_cp,
                               init_cfg=init_cfg)
        self.stride = self.backbone.out_strides[0]
        if image_size < self.stride or image_size % self.stride:
            raise ConfigError(f'image_size={image_size} must be a multiple of {self.stride}')
        self.img_size = image_size
        self.neck = nn.Sequential(
            nn.Conv2d(self.backbone.out_channels[0], out_channels, 1, bias=False), LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, out_channels, image_size / stride, image_size / stride)."""
        return self.neck(self.backbone(x)[0])
