"""Classifiers and segmentors of the toolboxes' own zoos, without RepViT: folded where that is certain, and exported."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_mm import RepViT
from repvit_mm.analysis import count
from repvit_mm.errors import CheckpointError, ExportError
from repvit_mm.export import FORMATS, Options, export_model
from repvit_mm.export.images import load_inputs
from repvit_mm.export.runtimes import open_exported
from repvit_mm.export.tracing import traceable
from repvit_mm.models.folding import fold_pairs, fuse_model
from repvit_mm.models.inference import (
    BACKBONE,
    InferenceModel,
    build_inference_model,
    get_model,
    randomise_weights,
)

OTHERS = {
    'resnet': ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', dict(backbone=dict(base_channels=8, stem_channels=8),
                                                                    head=dict(in_channels=64))),
    'mobilenet': ('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', dict(backbone=dict(widen_factor=0.25))),
    'shufflenet': ('mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py', dict(  # Core ML interleaves its maps
        backbone=dict(widen_factor=0.5))),
    'segformer': ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', dict(
        backbone=dict(embed_dims=8, num_layers=(1, 1, 1, 1)),
        decode_head=dict(in_channels=(8, 16, 40, 64), channels=16, num_classes=5))),
    'deeplab': ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py', dict(
        backbone=dict(depth=18, base_channels=8), auxiliary_head=None,
        decode_head=dict(in_channels=64, c1_in_channels=8, c1_channels=8, channels=16, num_classes=5))),
    'pspnet': ('mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py', dict(  # pools 8 x 8 cells to 3 x 3 and 6 x 6
        backbone=dict(depth=18, base_channels=8), auxiliary_head=None,
        decode_head=dict(in_channels=64, channels=16, num_classes=5))),
}


@pytest.fixture(scope='module', params=OTHERS)
def other(request, tmp_path_factory):
    base, model = OTHERS[request.param]
    path = tmp_path_factory.mktemp('zoo') / f'{request.param}.py'
    Config(dict(_base_=base, model=model)).dump(path)
    built = build_inference_model(path)
    randomise_weights(built)
    return path, built


@pytest.mark.slow
@pytest.mark.parametrize('name', ['onnx', 'coreml'])
def test_classifiers_and_segmentors_of_the_zoos_are_exported(name, other, tmp_path):
    _, model = other
    report = export_model(model, name, (64, 64), tmp_path / f'model{FORMATS[name].suffix}', Options('fp32'))
    image = load_inputs((64, 64), 4, model.normalisation)[-1:]
    with torch.no_grad():
        (expected,) = model(image)
    file = open_exported(report.path, FORMATS[name].engine)
    found = file.run({'image': image.numpy()})['logits']
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 * float(expected.abs().max()))
    assert 'RepViT' not in file.metadata['description']


@pytest.mark.parametrize('length, number', [(8, 3), (8, (3, 6)), (5, 8), (6, (None, 4)), (8, 4), (7, 1)])
def test_adaptive_pooling_in_a_graph_is_that_of_torch(length, number):
    maps = torch.randn(2, 3, length, length + 1, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(maps, number)
    with traceable():
        torch.testing.assert_close(F.adaptive_avg_pool2d(maps, number), expected)


@pytest.mark.parametrize('kernel, stride, padding, dilation, groups, deform_groups', [
    (3, 1, 1, 1, 1, 1), (3, 2, 1, 1, 2, 4), ((3, 5), (1, 2), (2, 1), (2, 1), 4, 2)])
@torch.no_grad()
def test_deformable_convolution_in_a_graph_is_that_of_mmcv(kernel, stride, padding, dilation, groups, deform_groups):
    from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
    torch.manual_seed(0)
    layers = [kind(8, 16, kernel, stride, padding, dilation, groups, deform_groups)
              for kind in (DeformConv2d, ModulatedDeformConv2d)]
    image, (height, width) = torch.randn(2, 8, 17, 23), nn.Conv2d(8, 16, kernel, stride, padding, dilation)(
        torch.zeros(1, 8, 17, 23)).shape[2:]
    samples = deform_groups * layers[0].weight[0, 0].numel()
    offset, mask = 5 * torch.randn(2, 2 * samples, height, width), torch.rand(2, samples, height, width)
    layers[1].bias.normal_()
    for layer, inputs in zip(layers, ((image, offset), (image, offset, mask)), strict=True):
        expected = layer(*inputs)
        with traceable():
            torch.testing.assert_close(layer(*inputs), expected, rtol=1e-4, atol=1e-5)


class Unknown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps):
        return maps + 1

    @staticmethod
    def symbolic(graph, maps):
        return graph.op('mmcv::Unknown', maps)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    backbone = RepViT({'widths': (8,), 'depths': (1,)}, out_indices=(0,))
    backbone.register_forward_hook(lambda module, inputs, maps: tuple(map(Unknown.apply, maps)))
    with pytest.raises(ExportError, match='own needs mmcv::Unknown, which ONNX does not define'):
        export_model(InferenceModel('own', backbone, BACKBONE), 'onnx', (32, 32), tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


def test_a_model_that_draws_random_numbers_is_named(tmp_path):
    backbone = RepViT({'widths': (8,), 'depths': (1,)}, out_indices=(0,))
    backbone.register_forward_hook(lambda module, inputs, maps: [value + torch.rand_like(value) for value in maps])
    with pytest.raises(ExportError, match='noisy computes something else in each call, in PyTorch too'):
        export_model(InferenceModel('noisy', backbone, BACKBONE), 'onnx', (32, 32), tmp_path / 'model.onnx')


def test_they_load_their_checkpoints(other, tmp_path):
    path, model = other
    torch.save({'state_dict': model.model.state_dict(), 'meta': {}}, tmp_path / 'trained.pth')
    found = build_inference_model(path, tmp_path / 'trained.pth').model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.model.state_dict().items())
    torch.save({'state_dict': {'backbone.other.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='other.pth does not fit the model: .*unexpected key'):
        build_inference_model(path, tmp_path / 'other.pth')


def test_they_are_counted_and_got_by_their_config(other):
    path, model = other
    fused = fuse_model(model)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    training, inference = (count(model, (64, 64), form) for form in (False, True))
    assert inference.parameters < training.parameters and inference.macs <= training.macs
    assert type(get_model(path, pretrained=False)) is type(model.model)


class Pairs(nn.Module):
    """A pair; two convolutions, a reader of the second map, a BatchNorm of two maps: only the first is certain."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(3) for _ in range(3))
        for norm in (self.bn1, self.bn2, self.bn3):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, image):
        first, second = self.bn1(self.conv1(image)), self.conv2(image)
        return first + self.bn2(second) * second.relu() + self.bn3(self.conv3(image)) + self.bn3(self.conv4(image))


@torch.no_grad()
def test_a_pair_is_folded_only_where_nothing_else_reads_the_map():
    torch.manual_seed(0)
    model, image = Pairs(), torch.randn(2, 3, 8, 8)
    expected = model(image)
    assert fold_pairs(model, image) == 1 and isinstance(model.bn1, nn.Identity)
    assert isinstance(model.bn2, nn.BatchNorm2d) and isinstance(model.bn3, nn.BatchNorm2d)
    torch.testing.assert_close(model(image), expected)


def test_pairs_are_found_at_the_size_of_the_export():
    class Large(Pairs):
        def forward(self, image):
            assert image.shape[2:] == (96, 128)  # 64 x 64 would be too small
            return [super().forward(image)]

    folded = fuse_model(InferenceModel('large', Large(), BACKBONE), (96, 128))
    assert isinstance(folded.model.bn1, nn.Identity)
