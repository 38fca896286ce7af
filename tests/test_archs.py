import pytest
import timm
import torch
from published import SIZES
from timm.models.repvit import RepVit
from torch.utils.flop_counter import FlopCounterMode

from repvit_mm import ARCHS, RepViT, fuse, out_channels
from repvit_mm.archs import get_arch
from repvit_mm.errors import ConfigError
from repvit_mm.network.layers import BNLinear


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_every_arch_has_published_sizes():
    assert list(SIZES) == list(ARCHS)


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters_equal_the_published_definition(arch):
    training, fused, _ = SIZES[arch]
    backbone = RepViT(arch, out_indices=(3,)).eval()
    head = BNLinear(backbone.out_channels[-1], 1000)
    assert parameters(backbone) + 2 * parameters(head) == training
    assert parameters(fuse(backbone)) + parameters(head.fuse()) == fused


@pytest.mark.parametrize('arch', ARCHS)
def test_multiply_adds_equal_the_published_definition(arch):
    with torch.device('meta'):
        backbone = RepViT(arch, out_indices=(3,), deploy=True).eval()
        head = torch.nn.Linear(backbone.out_channels[-1], 1000)
        with FlopCounterMode(display=False) as counter:
            head(backbone(torch.empty(1, 3, 224, 224))[-1].mean((2, 3)))
    assert round(counter.get_total_flops() / 2e9, 3) == SIZES[arch][2]


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 'm0_6'])
def test_widths_and_depths_are_timms(arch):
    with torch.device('meta'):
        theirs = timm.create_model(f'repvit_{arch}', pretrained=False)
    assert tuple(theirs.embed_dim) == ARCHS[arch].widths
    assert tuple(len(stage.blocks) for stage in theirs.stages) == ARCHS[arch].depths
    assert theirs.stages[0].blocks[0].token_mixer.legacy == ARCHS[arch].first_version


def test_a_dict_makes_an_arch():
    spec = get_arch({'widths': [16, 24, 32, 40], 'depths': [1, 1, 2, 1]})
    theirs = RepVit(embed_dim=spec.widths, depth=spec.depths, num_classes=0)
    assert parameters(RepViT(spec._asdict())) == parameters(theirs)


@pytest.mark.parametrize(('arch', 'message'), [
    ('m9', 'choose one of m0_6, m0_9'),
    (11, 'a name or a dict'),
    ({'widths': (8, 16)}, "lacks ['depths']"),
    ({'widths': (8, 16), 'depths': (1, 1), 'dephts': 3}, "unknown keys ['dephts']"),
    ({'widths': (8, 16), 'depths': (1,)}, 'as many widths as depths'),
    ({'widths': (8, 16), 'depths': (1, 0)}, 'a number from 1 to 4096'),
    ({'widths': (7, 16), 'depths': (1, 1)}, 'must be even'),
    ({'widths': (8, 16), 'depths': (1, 1), 'se': 'all'}, 'choose one of none, every, alternate'),
])
def test_an_arch_that_cannot_be_is_refused(arch, message):
    with pytest.raises(ConfigError) as error:
        get_arch(arch)
    assert message in str(error.value)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3), (3,)])
def test_channels_for_a_config_are_those_of_the_maps(out_indices):
    arch = {'widths': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}
    maps = RepViT(arch, out_indices=out_indices)(torch.zeros(2, 3, 64, 64))
    assert out_channels(arch, out_indices) == [x.shape[1] for x in maps]
    assert type(out_channels('m1_1')) is list  # mmdet's necks take nothing else


def test_channels_of_a_stage_that_is_not_there():
    with pytest.raises(ConfigError, match=r'm1_1 has no stages \[4\], expected numbers from \(0, 1, 2, 3\)'):
        out_channels('m1_1', (3, 4))
