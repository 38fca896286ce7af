import copy
import logging

import pytest
import torch
from checkpoint_samples import TINY, Classifier, Detector, RepViT, fuse, is_same, trained, values
from torch import nn

from repvit_mm import convert_state_dict, load_checkpoint
from repvit_mm.checkpoints import NAME_FORMATS, load_into
from repvit_mm.errors import CheckpointError

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def save(path, model, format='official', key='model'):
    tensors = convert_state_dict(model.state_dict(), format)
    torch.save({key: tensors, 'epoch': 3} if key else tensors, path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file.pth'


@pytest.mark.parametrize('format', NAME_FORMATS)
@pytest.mark.parametrize(('build', 'key'), [(Classifier, None), (Classifier, 'model'), (Detector, 'state_dict')])
@pytest.mark.parametrize('arch', [TINY, {**TINY, 'first_version': True}], ids=['final', 'first'])
def test_a_model_takes_every_tensor_of_every_format(path, format, build, key, arch):
    source, model = trained(build(arch)), trained(build(arch), seed=1)
    report = load_checkpoint(model, save(path, source, format, key))
    assert is_same(source.state_dict(), model.state_dict())
    assert torch.equal(model(IMAGE), source(IMAGE))
    assert report.taken == report.total == len(source.state_dict())
    assert not report.problems and not report.not_needed


@pytest.mark.parametrize('source', [Classifier, Detector, RepViT])
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_a_backbone_is_picked_out_of_any_file(path, source, format):
    source, model = trained(source(TINY)), RepViT(TINY)
    report = load_checkpoint(model, save(path, source, format))
    assert is_same(getattr(source, 'backbone', source).state_dict(), model.state_dict())
    assert report.taken == report.total == len(model.state_dict())
    assert len(report.not_needed) == len(source.state_dict()) - report.total


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'image_encoder.', 'encoder.backbone.', 'module.'])
def test_a_backbone_goes_from_any_prefix_to_any_other_and_into_a_wrapped_model(prefix):
    source, model = trained(RepViT(TINY)), nn.ModuleDict({'feature_extractor': RepViT(TINY)})
    load_into(nn.DataParallel(model), {prefix + name: value for name, value in source.state_dict().items()}, 'x')
    assert is_same(source.state_dict(), model['feature_extractor'].state_dict())


def test_values_are_rounded_to_the_dtype_of_the_model(path):
    source, model = trained(RepViT(TINY)), RepViT(TINY)
    load_checkpoint(model, save(path, copy.deepcopy(source).half()))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert torch.equal(model.stem.conv1.conv.weight, source.stem.conv1.conv.weight.half().float())


@pytest.mark.parametrize('settings', [
    {'out_indices': (0,)}, {'out_indices': (1, 2)}, {'out_indices': (1,), 'feature_tap': 'penultimate'}], ids=str)
@pytest.mark.parametrize('format', NAME_FORMATS)
def test_tensors_of_parts_not_built_are_not_needed(path, settings, format):
    source, model = trained(Classifier(TINY)), RepViT(TINY, **settings)
    report = load_checkpoint(model, save(path, source, format))
    own, published = model.state_dict(), source.backbone.state_dict()
    assert is_same({name: published[name] for name in own}, own)
    assert len(report.not_needed) == len(source.state_dict()) - len(own)


def test_counts_of_batches_may_be_there_or_not():
    source, model = trained(RepViT(TINY)), RepViT(TINY)
    tensors = {n: v for n, v in source.state_dict().items() if not n.endswith('num_batches_tracked')}
    assert load_into(model, tensors, 'x').taken == len(tensors) < len(model.state_dict())
    assert torch.equal(model.eval()(IMAGE)[-1], source(IMAGE)[-1])


def test_the_log_says_how_many_of_how_many_tensors_were_taken(path, log):
    load_checkpoint(RepViT(TINY), save(path, trained(Classifier(TINY))))
    assert len(log.messages) == 1
    total = len(RepViT(TINY).state_dict())
    assert log.messages[0] == (
        f'loaded {total} of {total} tensors from {path} (official names, a RepViT with (2, 3, 4, 1) blocks of widths '
        '(16, 24, 32, 40)); 14 more are not needed')


# --- Files that do not fit: an error, but the model is as it was -----------------------------------------------------

@pytest.mark.parametrize('file,model,message', [
    ('m0_6', 'm0_9', 'holds the weights of m0_6, but the model is m0_9'),
    ('m1_5', 'm1_1', 'holds the weights of m1_5, but the model is m1_1'),  # of the same widths
    ('m1', 'm0_9', 'holds the weights of m1, but the model is m0_9'),  # of the same widths and depths
    ('m0_6', TINY, r'holds the weights of m0_6, but the model is a RepViT with \(2, 3, 4, 1\) blocks'),
], ids=str)
@pytest.mark.parametrize('strict', [True, False])
def test_a_file_for_another_architecture_is_refused_by_name(file, model, message, strict):
    with torch.device('meta'):
        tensors = convert_state_dict(RepViT(file).state_dict(), 'official')
    tensors = {name: torch.empty(value.shape) for name, value in tensors.items()}
    model = RepViT(model)
    before = values(model)
    with pytest.raises(CheckpointError, match=f'x.pth {message}'):
        load_into(model, tensors, 'x.pth', strict)
    assert is_same(before, model.state_dict())


NAME = 'backbone.stages.2.blocks.1.channel_mixer.conv1.conv.weight'


@pytest.mark.parametrize(('kind', 'spoil', 'message'), [
    ('missing', lambda tensors: tensors.pop(NAME), rf'1 missing \({NAME}\)'),
    ('unexpected', lambda tensors: tensors.update({'backbone.extra.weight': torch.zeros(1)}),
     r'1 unexpected \(backbone.extra.weight\)'),
    ('shape', lambda tensors: tensors.update({NAME: tensors[NAME][:1]}),
     rf'1 of another shape \({NAME} is 1x32x1x1 in the file, 64x32x1x1 in the model\)'),
])
def test_a_tensor_that_does_not_fit_is_named_and_left_out_if_that_is_allowed(kind, spoil, message, log):
    source, model = trained(Detector(TINY)), trained(Detector(TINY), seed=1)
    before, wanted, tensors = values(model), source.state_dict(), source.state_dict()
    spoil(tensors)
    with pytest.raises(CheckpointError, match=f'^x.pth does not fit the model: of {len(before)} tensors, {message}$'):
        load_into(model, tensors, 'x.pth')
    assert is_same(before, model.state_dict())
    report = load_into(model, tensors, 'x.pth', strict=False)
    left = {name for name, value in model.state_dict().items() if not torch.equal(value, wanted[name])}
    assert left == (set() if kind == 'unexpected' else {NAME})
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in left)
    assert report.taken == report.total - len(left)
    assert [record.levelno for record in log.records] == [logging.INFO, logging.WARNING]
    assert log.messages[1].startswith('x.pth does not fit the model; not loaded: 1 ')


def test_a_head_for_other_classes_is_left_out_and_named(log):
    source, model = trained(Classifier(TINY)), trained(Classifier(TINY, classes=10, distillation=False), seed=1)
    before, said = values(model.head.fc.linear), 'head.fc.linear.weight is 1000x40 in the file, 10x40 in the model'
    with pytest.raises(CheckpointError, match=rf'{said}.*6 unexpected \(head.fc_dist.norm.weight, '):
        load_into(model, source.state_dict(), 'x.pth')
    load_into(model, source.state_dict(), 'x.pth', strict=False)
    assert is_same(source.backbone.state_dict(), model.backbone.state_dict())
    assert is_same(before, model.head.fc.linear.state_dict())
    assert said in log.messages[-1]


def test_a_file_of_a_repvit_does_not_fit_a_model_without_one():
    with pytest.raises(CheckpointError, match='x.pth does not fit the model: .*unexpected key'):
        load_into(nn.Linear(2, 2), RepViT(TINY).state_dict(), 'x.pth')


def test_a_file_of_a_backbone_is_not_enough_for_a_detector():
    source, model = trained(RepViT(TINY)), Detector(TINY)
    with pytest.raises(CheckpointError, match=r'4 missing \(neck.weight, .*\); it fits the backbone only, so '
                                              'give it in the init_cfg of the backbone'):
        load_into(model, source.state_dict(), 'x.pth')
    load_into(model, source.state_dict(), 'x.pth', strict=False)
    assert is_same(source.state_dict(), model.backbone.state_dict())


def test_several_backbones_are_distinguished_by_their_prefixes():
    teacher, student = trained(RepViT(TINY)), trained(RepViT({**TINY, 'depths': (1, 1, 1, 1)}), seed=1)
    source = nn.ModuleDict({'teacher': teacher, 'student': student})
    model = nn.ModuleDict({'teacher': RepViT(TINY), 'student': RepViT({**TINY, 'depths': (1, 1, 1, 1)})})
    load_into(model, source.state_dict(), 'x.pth')
    assert is_same(source.state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match='RepViTs under teacher., student., but the model under no prefix'):
        load_into(RepViT(TINY), source.state_dict(), 'x.pth')


# --- Fused files and fused models -----------------------------------------------------------------------------------

def last(outputs):
    return outputs[-1] if isinstance(outputs, tuple) else outputs


@pytest.mark.parametrize('build', [Detector, RepViT])
@pytest.mark.parametrize('format', NAME_FORMATS)
@pytest.mark.parametrize('arch', [TINY, {**TINY, 'first_version': True}], ids=['final', 'first'])
def test_a_fused_file_gives_a_model_in_evaluation_mode_its_outputs_and_no_other_form(path, arch, build, format):
    source, model = fuse(trained(build(arch))), trained(build(arch), seed=1)
    before = list(model.state_dict())
    report = load_checkpoint(model, save(path, source, format))
    assert report.taken == report.total and not report.problems
    assert list(model.state_dict()) == before
    torch.testing.assert_close(last(model(IMAGE)), last(source(IMAGE)), rtol=1e-5, atol=1e-6)
    again = fuse(model).state_dict()
    if arch is TINY:
        assert is_same(again, source.state_dict())
    else:  # the two BatchNorms of its branches cancel each other up to rounding
        torch.testing.assert_close(again, source.state_dict(), rtol=0, atol=3e-8)


def test_layers_of_mmcv_take_their_fused_form_too():
    from mmcv.cnn import ConvModule

    def build(seed):
        return trained(nn.ModuleDict({'backbone': RepViT(TINY), 'neck': ConvModule(40, 8, 1, norm_cfg={'type': 'BN'})}),
                       seed)
    source, model = fuse(build(0)), build(1)
    load_into(model, source.state_dict(), 'x')
    assert is_same(fuse(model).state_dict(), source.state_dict())
    before = list(model.state_dict())
    load_into(model, fuse(build(2), own_only=True).state_dict(), 'x')  # as tools/fuse.py writes it
    assert is_same(fuse(model).state_dict(), fuse(build(2)).state_dict()) and list(model.state_dict()) == before


def test_a_fused_file_is_refused_by_a_model_in_training_mode():
    source, model = fuse(trained(RepViT(TINY))), RepViT(TINY)
    before = values(model)
    with pytest.raises(CheckpointError, match=r'x.pth is fused, .* call model.eval\(\) first'):
        load_into(model, source.state_dict(), 'x.pth')
    assert is_same(before, model.state_dict())


def test_a_fused_file_for_a_model_without_batch_norm_is_refused():
    source, model = fuse(trained(RepViT(TINY))), RepViT(TINY, norm_cfg={'type': 'GN', 'num_groups': 4}).eval()
    with pytest.raises(CheckpointError, match='stem.conv1.conv.weight, '):
        load_into(model, source.state_dict(), 'x.pth')


def test_a_file_with_both_forms_of_a_layer_is_not_guessed_at():
    from mmcv.cnn import ConvModule
    model = trained(nn.ModuleDict({'backbone': RepViT(TINY), 'neck': ConvModule(40, 8, 1, norm_cfg={'type': 'BN'})}))
    tensors = fuse(model).state_dict()
    for name in ('backbone.stem.conv1.conv.weight', 'neck.bn.weight'):
        with pytest.raises(CheckpointError, match='unexpected'):
            load_into(model, {**tensors, name: model.state_dict()[name]}, 'x')


@pytest.mark.parametrize('build', [Classifier, RepViT])
def test_a_file_with_batch_norms_for_a_fused_model_is_refused(build):
    source, model = trained(build(TINY)), build(TINY, deploy=True)
    before = values(model)
    for load in (lambda: load_into(model, source.state_dict(), 'x.pth'),
                 lambda: model.load_state_dict(source.state_dict(), strict=False)):
        with pytest.raises(CheckpointError, match=r' is not fused, but the model is: build it without deploy=True, .*'):
            load()
    assert is_same(before, model.state_dict())


# --- Values ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('value', 'dtype'), [
    ('nan', torch.float32), ('inf', torch.float32), ('-inf', torch.float16), ('nan', torch.bfloat16),
    ('nan', torch.float8_e4m3fn)])
def test_values_that_are_not_finite_are_refused(value, dtype):
    source, model = trained(RepViT(TINY)), RepViT(TINY)
    before, tensors = values(model), source.state_dict()
    name = 'stages.0.blocks.1.channel_mixer.conv1.norm.running_var'
    spoilt = tensors[name].clone()
    spoilt[3] = float(value)
    tensors[name] = spoilt.to(dtype)
    with pytest.raises(CheckpointError, match=f'x.pth: 1 of .* tensors hold infinite values or NaN, first {name}'):
        load_into(model, tensors, 'x.pth')
    assert is_same(before, model.state_dict())


def test_numbers_of_another_kind_are_of_another_shape():
    tensors = trained(RepViT(TINY)).state_dict()
    tensors['stem.conv1.conv.weight'] = torch.ones_like(tensors['stem.conv1.conv.weight'], dtype=int)
    with pytest.raises(CheckpointError, match='stem.conv1.conv.weight is torch.int64 in the file, torch.float32'):
        load_into(RepViT(TINY), tensors, 'x.pth')
