"""Training in channels_last: the same losses and gradients, in detectors too where mmcv's operators take such maps."""
from copy import deepcopy
from types import SimpleNamespace

import mmengine.runner
import pytest
import tool_runs
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from oracles import randomise_norms
from torch import nn

from repvit_mm.engine.runner import Runner
from repvit_mm.ops import is_provided
from repvit_mm.training import ChannelsLast, hooks

pytest.importorskip('mmdet')
provided = pytest.mark.skipif(not is_provided(), reason='mmcv is compiled, whose operators read channels-first maps')


def change_format(model):
    ChannelsLast().before_run(SimpleNamespace(model=model))
    return model


@pytest.fixture
def detector(tmp_path):
    """A small Mask R-CNN in double precision, in which rounding does not change what is sampled, and its data."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    tool_runs.write_config(tmp_path / 'config.py', *tool_runs.TOOLBOXES['mmdet'][:2])
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = randomise_norms(MODELS.build(Config.fromfile(tmp_path / 'config.py').model)).double().train()
        generator = torch.Generator().manual_seed(0)
        samples = []
        for _ in range(2):
            corner, extent = torch.rand(2, 5, 2, generator=generator, dtype=torch.double) * 30
            boxes = torch.cat([corner, corner + 4 + extent], dim=1)
            masks = torch.rand(5, 64, 64, generator=generator).round().byte().numpy()
            shapes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
            samples.append(DetDataSample(metainfo=shapes, gt_instances=InstanceData(
                bboxes=boxes, labels=torch.arange(5), masks=BitmapMasks(masks, 64, 64))))
        yield model, torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.double), samples


def losses_and_gradients(model, images, samples):
    torch.manual_seed(0)  # of the samplers
    losses = model.loss(images, deepcopy(samples))
    loss, losses = model.parse_losses(losses)
    loss.backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@provided
def test_losses_and_gradients_of_a_detector_are_equal(detector):
    model, images, samples = detector
    expected, gradients = losses_and_gradients(deepcopy(model), images, samples)
    maps = []
    model.roi_head.mask_roi_extractor.register_forward_pre_hook(lambda module, args: maps.extend(args[0]))
    found, ours = losses_and_gradients(change_format(model), images, samples)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in maps) and len(maps) == 3
    assert {'loss_rpn_bbox', 'loss_bbox', 'loss_mask'} <= set(found)
    for name, loss in expected.items():  # mmdet computes some in single precision
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-6), name
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).abs().max() <= 1e-6 * max(1, gradient.abs().max()), name


def test_compiled_operators_keep_the_format_they_read(detector, monkeypatch):
    said = []
    monkeypatch.setattr(hooks, 'is_provided', lambda: False)
    monkeypatch.setattr(hooks, 'print_log', lambda message, *_: said.append(message))
    weights = change_format(detector[0]).backbone.stem.conv1.conv.weight
    assert weights.is_contiguous() and not weights.is_contiguous(memory_format=torch.channels_last)
    assert len(said) == 1 and 'its roi_head.bbox_roi_extractor.roi_layers.0 is a RoIAlign of a compiled mmcv' in said[0]


def test_a_gpu_can_be_left_out_and_a_model_without_mmcvs_operators_is_changed(monkeypatch):
    monkeypatch.setattr(hooks, 'is_provided', lambda: False)
    for device, is_changed in (('cuda', False), ('cpu', True)):
        monkeypatch.setattr(hooks, 'get_device', lambda device=device: device)
        model = nn.Conv2d(3, 4, 3)
        ChannelsLast(on_gpu=False).before_run(SimpleNamespace(model=model))
        assert model.weight.is_contiguous(memory_format=torch.channels_last) == is_changed


def test_the_format_is_changed_before_a_model_is_distributed(monkeypatch):
    formats = []
    monkeypatch.setattr(mmengine.runner.Runner, 'wrap_model', lambda self, cfg, model: formats.append(
        model.weight.is_contiguous(memory_format=torch.channels_last)))
    for settings in ([], [dict(type='ChannelsLast')]):
        runner = Runner.__new__(Runner)
        runner.cfg, runner._distributed = Config(dict(custom_hooks=settings)), False
        runner.wrap_model(None, nn.Conv2d(3, 4, 3))
    assert formats == [False, True]
