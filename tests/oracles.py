"""References of several tests: timm's models, and models with randomised BatchNorms."""
import torch
from timm.models.repvit import RepVit
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_mm import RepViT
from repvit_mm.archs import get_arch
from repvit_mm.checkpoints import convert_state_dict

#: Architecture that is fast to build and run, of no published shape.
TINY = {'widths': (16, 24, 32, 40), 'depths': (1, 2, 3, 1)}
#: Mean and standard deviation of the images, RGB of 0-255.
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw weight, bias, mean and variance of every BatchNorm: fresh ones hide most of a RepViT."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0, 0.2, generator=generator)
            norm.running_mean.normal_(0, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def build(arch=TINY, **settings) -> RepViT:
    """A RepViT with random weights and BatchNorms, the same ones each time."""
    torch.manual_seed(0)
    return randomise_norms(RepViT(arch, **settings))


def timm_like(backbone: nn.Module, arch) -> RepVit:
    """timm's RepViT without a head, with the weights of ``backbone``."""
    spec = get_arch(arch)
    model = RepVit(embed_dim=spec.widths, depth=spec.depths, legacy=spec.first_version, num_classes=0,
                   in_chans=backbone.stem.conv1.conv.in_channels)
    model.to(next(backbone.parameters()).dtype)
    model.load_state_dict(convert_state_dict(backbone.state_dict(), to='timm'))
    return model.train(backbone.training)


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a part of the largest expected value."""
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()
