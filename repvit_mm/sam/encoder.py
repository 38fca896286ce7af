"""Image encoders of SAM: a RepViT, and others to compare with or to learn from."""
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from ..archs import ARCHS, SAM_ENCODERS, get_arch
from ..errors import ConfigError
from ..network.backbone import RepViT

#: Name of a published SAM -> settings of its ViT.
VITS = {
    'vit_b': dict(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    'vit_l': dict(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    'vit_h': dict(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


def build_encoder(encoder: str | Mapping, image_size: int | Sequence[int]) -> nn.Module:
    """Build an image encoder with random weights.

    Args:
        encoder: A name of :data:`repvit_mm.archs.SAM_ENCODERS`; an architecture of :class:`repvit_mm.RepViT`; or the
            config of a registered encoder, a dict with ``type``, without ``image_size``.
        image_size: Side of the padded square image, in pixels; for a RepViT also (height, width).

    Raises:
        ConfigError: If the encoder is unknown, or does not take such images.
    """
    if encoder in ('mobile_sam', *VITS) and not isinstance(image_size, int):
        raise ConfigError(f'image_size={image_size}: {encoder} expects square images, so one number')
    if isinstance(encoder, Mapping) and 'type' in encoder:
        return MODELS.build({**encoder, 'image_size': image_size})
    if encoder == 'mobile_sam':
        return MobileSamEncoder(image_size)
    if encoder == 'edge_sam':
        return SamEncoder('m1', image_size, add_stages=True)
    if isinstance(encoder, str) and encoder in VITS:
        return SamVit(image_size, **VITS[encoder])
    arch = encoder.removeprefix('repvit_') if isinstance(encoder, str) else encoder
    if isinstance(arch, str) and arch not in ARCHS:
        raise ConfigError(f'unknown image encoder {encoder!r}; choose from {", ".join(SAM_ENCODERS)}')
    return SamEncoder(arch, image_size)


def _neck(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels))


@MODELS.register_module()
class SamEncoder(BaseModule):
    """A RepViT whose last stage keeps the resolution, with the neck of SAM's image encoders.

    It replaces ``segment_anything``'s ``ImageEncoderViT`` in a ``Sam``.

    Args:
        arch: See :class:`repvit_mm.RepViT`; the published one is ``'m2_3'``.
        image_size: Side in pixels of the padded square image, or its (height, width); multiples of 16.
        out_channels: Channels of the embedding.
        add_stages: Keep the last stride, and add the last stage's map, enlarged, to that of the stage before, as in
            EdgeSAM (https://arxiv.org/abs/2312.06660), whose published names the tensors have. ``image_size`` must
            then be a multiple of 32.
        embedding_size: Resize the embedding to this many positions along the longer side, for decoders of another
            stride: 72 with an ``image_size`` of 1008 for SAM 3's, as in EfficientSAM3
            (https://arxiv.org/abs/2511.15833).
        norm_cfg: See :class:`repvit_mm.RepViT`.
        with_cp: See :class:`repvit_mm.RepViT`.
        init_cfg: For the backbone; ``dict(type='Pretrained', checkpoint=X)`` loads a classifier's weights.

    Attributes:
        image_size: Height and width of the padded image.
        img_size: Its longer side, under the name that ``SamPredictor`` expects.
        embedding_size: Height and width of the embedding.

    Raises:
        ConfigError: For invalid settings.

    Example:
        >>> import torch
        >>> from repvit_mm.sam import SamEncoder
        >>> tuple(SamEncoder('m0_9', image_size=64).eval()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 256, 4, 4)
    """

    def __init__(self, arch: str | Mapping = 'm2_3', image_size: int | Sequence[int] = 1024, out_channels: int = 256,
                 add_stages: bool = False, embedding_size: int | None = None, norm_cfg: Mapping = {'type': 'BN'},
                 with_cp: bool = False, init_cfg: Mapping | Sequence[Mapping] | None = None):
        super().__init__()
        last = len(get_arch(arch).widths) - 1
        self.backbone = RepViT(arch, out_indices=(last - 1, last) if add_stages else (last,),
                               last_stride=2 if add_stages else 1, norm_cfg=norm_cfg, with_cp=with_cp,
                               init_cfg=init_cfg)
        stride, largest = self.backbone.out_strides[0], self.backbone.out_strides[-1]
        self.image_size = sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or any(side < largest or side % largest for side in sides):
            raise ConfigError(f'image_size={image_size} must be a multiple of {largest}, or a height and width of such')
        self.img_size, self.add_stages, channels = max(sides), add_stages, self.backbone.out_channels
        positions = embedding_size or self.img_size // stride
        self.embedding_size = tuple(side * positions // self.img_size for side in sides)
        if any(side * positions % self.img_size for side in sides):
            raise ConfigError(f'embedding_size={embedding_size} along the longer side is no whole number along the '
                              f'other, of image_size={image_size}')
        self.resizes = embedding_size is not None
        if add_stages:
            convs = [nn.Conv2d(width, out_channels, 1, bias=False) for width in channels]
            self.fuse_stage2 = convs[0]
            self.fuse_stage3 = nn.ModuleDict({'op_list': nn.ModuleList(convs[1:])})
            channels = [out_channels]
        self.neck = _neck(channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, *image_size) -> (N, out_channels, *embedding_size)."""
        fine, *coarse = self.backbone(x)
        if self.add_stages:
            fine, coarse = self.fuse_stage2(fine), self.fuse_stage3['op_list'][0](coarse[0])
            fine = fine + F.interpolate(coarse, size=fine.shape[2:], mode='bicubic')
        embedding = self.neck(fine)
        return F.interpolate(embedding, self.embedding_size, mode='bilinear') if self.resizes else embedding


@MODELS.register_module()
class SamVit(ImageEncoderViT):
    """SAM's ViT image encoder.

    Args:
        image_size: Side in pixels of the padded square image.
        embed_dim: Channels of the tokens.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        global_attn_indexes: Blocks with global instead of windowed attention.
    """

    def __init__(self, image_size: int, embed_dim: int, depth: int, num_heads: int,
                 global_attn_indexes: Sequence[int]):
        super().__init__(img_size=image_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads,
                         norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
                         global_attn_indexes=tuple(global_attn_indexes))


class MobileSamEncoder(nn.Module):
    """MobileSAM's image encoder (https://arxiv.org/abs/2306.14289): timm's TinyViT, without its last stride.

    It loads tensors under their published names, too.

    Args:
        image_size: Side in pixels of the padded square image, a multiple of 16.
    """

    #: Published name -> name in timm, by regular expressions.
    RENAMES = ((r'\.c\.weight$', '.conv.weight'), (r'^patch_embed\.seq\.0\.', 'patch_embed.conv1.'),
               (r'^patch_embed\.seq\.2\.', 'patch_embed.conv2.'),
               (r'^layers\.(\d)\.downsample', lambda found: f'stages.{int(found[1]) + 1}.downsample'),
               (r'^layers\.', 'stages.'), (r'^(patch_embed|stages)\.', r'backbone.\1.'))

    def __init__(self, image_size: int = 1024):
        super().__init__()
        import timm
        self.img_size = image_size
        self.backbone = timm.create_model('tiny_vit_5m_224')
        self.backbone.head = nn.Identity()
        self.backbone.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = _neck(320, 256)
        self._register_load_state_dict_pre_hook(self._rename)

    def _rename(self, tensors: dict[str, Tensor], prefix: str, *_: Any) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            tensor, inside = tensors.pop(name), name.removeprefix(prefix)
            for pattern, replacement in self.RENAMES:
                inside = re.sub(pattern, replacement, inside)
            if not inside.startswith(('head.', 'norm_head.')):  # the classifier's, unused
                tensors[f'{prefix}{inside}'] = tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, image_size, image_size) -> (N, 256, image_size / 16, image_size / 16)."""
        return self.neck(self.backbone.forward_features(x))
