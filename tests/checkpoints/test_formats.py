import hashlib
import itertools
from collections import OrderedDict

import pytest
import timm
import torch
from checkpoint_samples import TINY, Classifier, Detector

from repvit_mm import ARCHS, RepViT, convert_state_dict
from repvit_mm.checkpoints import NAME_FORMATS, find_backbones
from repvit_mm.checkpoints.formats import find_in
from repvit_mm.errors import CheckpointError

# Of the published files: how many tensors, and the SHA-256 of their lines "name shape", in order.
OFFICIAL = {
    'm0_6': (476, '86ec93f874a44c2a14131fc2fc1cec3434c2e3c89791246746fbc4fc5a7f1938'),
    'm0_9': (713, 'fbf33b054192cde40c48720b517e885dbdf95fb30e3bfc4b0b00135a2a8bf4f6'),
    'm1_0': (713, 'e0742168302ff1ce6ebe8331ab68535d729e8216b291b2eb0b43dfd284e29f1b'),
    'm1_1': (659, '09b52f78dc934573cba6de22146eefb7a6c0a1c45f25a6658f7a3b3f258a1e41'),
    'm1_5': (1145, '497172c0da6ff575d9f1eab4fd2d8b5b34aa15a82344da7a99b94ab345698f4f'),
    'm2_3': (1469, '381be263a1ad6161b5947607fa7a6065d7d7e0be3de5a6b595c83dbdca1dc889'),
    'm1': (690, 'dcd9d5bb3e425a27eccf28e156e6741b201e2503c4cd7e15e33dcf18dada4025'),
    'm2': (638, '5cae429d1ada795efd711be4bdbb79b474bba3f5b4aba64fd0e2bf334f562cd4'),
    'm3': (898, '3c9a8270bef3997ed137bcb1fb42711bba4592b1dd0ca129b4dcca3fd32d6fce'),
}

# Where the order of the tensors does not say it, in m1_1: ours, the authors', timm's.
PAIRS = [
    ('backbone.stages.0.blocks.1.token_mixer.dw1x1.bias', 'features.2.token_mixer.0.conv1.bias',
     'stages.0.blocks.1.token_mixer.conv1.bias'),
    ('backbone.stages.0.blocks.2.token_mixer.norm.weight', 'features.3.token_mixer.0.bn.weight',
     'stages.1.downsample.pre_block.token_mixer.bn.weight'),
    ('backbone.stages.1.downsample.channel.norm.weight', 'features.4.token_mixer.2.bn.weight',
     'stages.1.downsample.channel_downsample.bn.weight'),
    ('head.fc.norm.bias', 'classifier.classifier.bn.bias', 'head.head.bn.bias'),
]

BUILT = {}


def tensors(model, arch, **settings):
    """The state dict of a model, without memory for it."""
    key = model, str(arch), str(settings)
    if key not in BUILT:
        with torch.device('meta'):
            BUILT[key] = model(arch, **settings).state_dict()
    return BUILT[key].copy()


def lines(state_dict):
    return [f'{name} {"x".join(map(str, value.shape))}' for name, value in state_dict.items()]


def sha256(text):
    return hashlib.sha256('\n'.join(text).encode()).hexdigest()


def prefixed(state_dict, prefix):
    return {prefix + name: value for name, value in state_dict.items()}


def arch_in(state_dict):
    return find_in(state_dict)[0].arch


def is_identical(result, expected):
    """Same names in the same order, and the very same tensors."""
    return list(result) == list(expected) and all(result[name] is expected[name] for name in result)


@pytest.mark.parametrize('arch', ARCHS)
def test_our_classifier_gets_the_names_shapes_and_order_of_the_published_file(arch):
    official = lines(convert_state_dict(tensors(Classifier, arch), to='official'))
    assert (len(official), sha256(official)) == OFFICIAL[arch]


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 'm0_6'])  # timm has no m0_6
@pytest.mark.parametrize('fused', [False, True])
def test_our_classifier_gets_the_names_shapes_and_order_of_timms_model(arch, fused):
    with torch.device('meta'):
        expected = timm.create_model(f'repvit_{arch}')
        expected = expected.fuse() if fused else expected
    ours = tensors(Classifier, arch, deploy=fused)
    assert lines(convert_state_dict(ours, to='timm')) == lines(expected.state_dict())


@pytest.mark.parametrize('row', PAIRS, ids=lambda row: row[0])
def test_layers_get_the_names_of_their_counterparts(row):
    ours = tensors(Classifier, 'm1_1')
    converted = {'repvit_mm': ours} | {to: convert_state_dict(ours, to) for to in ('official', 'timm')}
    for format, name in zip(NAME_FORMATS, row, strict=True):
        assert converted[format][name] is ours[row[0]]


@pytest.mark.parametrize('arch', ['m0_6', 'm1_1', 'm1'])
@pytest.mark.parametrize('kind', ['two heads', 'one head', 'no head', 'fused', 'fused without head', 'detector'])
def test_a_round_trip_is_exact_in_all_directions(arch, kind):
    model, settings = {
        'two heads': (Classifier, {}), 'one head': (Classifier, {'distillation': False}), 'no head': (RepViT, {}),
        'fused': (Classifier, {'deploy': True}), 'fused without head': (RepViT, {'deploy': True}),
        'detector': (Detector, {})}[kind]
    ours = tensors(model, arch, **settings)
    formats = {to: convert_state_dict(ours, to) for to in NAME_FORMATS}
    assert is_identical(formats['repvit_mm'], ours)
    for old, new in itertools.permutations(NAME_FORMATS, 2):
        assert list(formats[old]) != list(formats[new])
        assert is_identical(convert_state_dict(formats[old], new), formats[new])


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', 'module.module.'])
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_prefixes_of_wrapped_models_are_dropped(format, prefix):
    ours = tensors(Classifier, 'm0_6')
    assert is_identical(convert_state_dict(prefixed(convert_state_dict(ours, format), prefix)), ours)


@pytest.mark.parametrize('prefix', ['backbone.', 'image_encoder.', 'model.backbone.', 'student.backbone.'])
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_a_backbone_in_a_larger_model_keeps_its_prefix_and_the_rest_its_names(format, prefix):
    rest = dict.fromkeys(['neck.lateral_convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.bias', 'stages.note'],
                         torch.empty(()))
    ours = tensors(RepViT, 'm1_1')
    old = prefixed(convert_state_dict(ours, format), prefix) | rest
    assert is_identical(convert_state_dict(old), prefixed(ours, prefix) | rest)


def test_every_backbone_of_a_state_dict_is_converted():
    teacher, student = tensors(RepViT, 'm1_1'), tensors(RepViT, 'm0_6')
    ours = prefixed(teacher, 'teacher.backbone.') | prefixed(student, 'student.backbone.')
    official = convert_state_dict(ours, 'official')
    assert 'teacher.backbone.features.24.channel_mixer.m.0.c.weight' in official
    assert 'student.backbone.features.17.channel_mixer.m.0.c.weight' in official
    assert is_identical(convert_state_dict(official), ours)


def test_the_encoder_of_repvit_sam_is_recognised_and_its_decoder_is_left_alone():
    others = ['image_encoder.neck.0.weight', 'image_encoder.neck.1.bias', 'mask_decoder.iou_token.weight',
              'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix']
    ours = prefixed(tensors(RepViT, 'm2_3'), 'image_encoder.backbone.') | dict.fromkeys(others, torch.empty(()))
    official = convert_state_dict(ours, 'official')
    assert list(official)[-4:] == others
    assert str(arch_in(official)) == 'm2_3'
    assert is_identical(convert_state_dict(official), ours)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_format_and_architecture_are_recognised_from_a_state_dict(arch, format):
    state_dict = convert_state_dict(tensors(Classifier, arch), format)
    found = find_in(state_dict)[0]
    assert (found.format, found.fused, found.has_head) == (format, False, True)
    assert found.arch.first_version == ARCHS[arch].first_version
    assert arch_in(state_dict).names == [arch]
    assert arch_in(state_dict).widths == ARCHS[arch].widths


@pytest.mark.parametrize('arch,expected', [('m1', ['m0_9', 'm1']), ('m1_1', ['m1_1', 'm2']), ('m3', ['m3'])])
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_a_fused_backbone_may_be_of_either_version(arch, expected, format):
    state_dict = convert_state_dict(tensors(RepViT, arch, deploy=True), format)
    found = find_in(state_dict)[0]
    assert (found.format, found.fused) == (format, True)
    assert arch_in(state_dict).names == expected


@pytest.mark.parametrize('settings', [
    {'out_indices': (0,)}, {'out_indices': (1,), 'feature_tap': 'penultimate'}, {'out_indices': (0, 2)},
    {'out_indices': (0, 1, 2, 3), 'feature_tap': 'penultimate'}], ids=str)
def test_a_backbone_cut_short_is_recognised_and_survives_a_round_trip(settings):
    ours = tensors(RepViT, 'm1_5', **settings)
    assert arch_in(ours).names == ['m1_5']
    for to in NAME_FORMATS:
        assert is_identical(convert_state_dict(convert_state_dict(ours, to)), ours)


def test_an_architecture_of_ones_own_is_described():
    arch = arch_in(tensors(RepViT, {**TINY, 'first_version': True}))
    assert arch.names == []
    assert str(arch) == 'a RepViT of the first version with (2, 3, 4, 1) blocks of widths (16, 24, 32, 40)'


def test_versions_of_layers_are_kept():
    ours = RepViT(TINY).state_dict()
    assert convert_state_dict(ours, 'timm')._metadata == ours._metadata


@pytest.mark.parametrize('arch', ['m0_9', 'm1'])
@pytest.mark.parametrize('prefix', ['', 'backbone.', 'image_encoder.trunk.body.'])  # the last one is EdgeTAM's
def test_names_of_timms_features_only_are_known(arch, prefix):
    with torch.device('meta'):
        theirs = timm.create_model(f'repvit_{arch}', features_only=True).state_dict()
    assert any(name.startswith('stages_3.') for name in theirs)
    ours = convert_state_dict(prefixed(theirs, prefix))
    expected = tensors(RepViT, arch)
    assert [line.removeprefix(prefix) for line in lines(ours)] == lines(expected)
    RepViT(arch).load_state_dict({name: torch.empty(value.shape) for name, value in theirs.items()}, strict=True)


@pytest.mark.parametrize('names', [
    ['conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight'],
    ['features.0.0.weight', 'features.1.conv.0.0.weight'],  # MobileNetV2
    ['stem.0.conv.weight', 'stages.0.blocks.0.token_mixer.norm.weight', 'stages.0.blocks.0.mlp.fc1.weight'],
], ids=['ResNet', 'MobileNetV2', 'MetaFormer'])
def test_a_state_dict_of_another_network_is_refused(names):
    with pytest.raises(CheckpointError, match=f'none of its {len(names)} tensors has a name of RepViT .{names[0]}'):
        convert_state_dict(dict.fromkeys(names, torch.empty(1)))


def test_a_mixture_of_formats_is_refused():
    ours = tensors(RepViT, TINY)
    with pytest.raises(CheckpointError, match='mixes formats'):
        convert_state_dict(OrderedDict(ours) | convert_state_dict(ours, 'official'))


def test_an_unknown_format_is_refused():
    with pytest.raises(CheckpointError, match="to='mmcls' .* repvit_mm, official, timm"):
        convert_state_dict(tensors(RepViT, TINY), to='mmcls')


@pytest.mark.parametrize('name', [f'stages.{"9" * 50}.blocks.0.x.weight', f'stages.0.blocks.{"9" * 5000}.x.weight',
                                  f'features.{"9" * 50}.channel_mixer.m.0.c.weight',
                                  'features.1.token_mixer.2.c.weight'],
                         ids=['stage', 'block', 'official', 'no first block'])
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_absurd_names_are_no_blocks(format, name):
    tensors = convert_state_dict(RepViT(TINY).state_dict(), format)
    assert find_backbones({**tensors, name: torch.zeros(1)}) == find_backbones(tensors)


def test_a_file_of_thousands_of_backbones_is_refused():
    names = {f'{i}.stages.0.blocks.0.channel_mixer.conv1.weight': torch.zeros(1) for i in range(2000)}
    with pytest.raises(CheckpointError, match='has the names of 2000 RepViTs, at most 32'):
        find_in(names)


def test_widths_of_tensors_of_other_shapes_are_unknown():
    tensors = RepViT(TINY).state_dict()
    tensors['stages.0.blocks.0.channel_mixer.conv1.conv.weight'] = torch.tensor(3)
    assert arch_in(tensors).widths[0] == 0
