"""Half precision: files that a GPU or NPU would compute with infinity are refused."""
import copy

import numpy as np
import pytest
import torch

from repvit_mm import RepViT, fuse
from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.half import HalfPrecision
from repvit_mm.export.images import load_inputs
from repvit_mm.export.runtimes import open_exported
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights


@torch.no_grad()
def network(largest=None):
    """A fused backbone; the map between the convolutions of a channel mixer reaches a value, the outputs stay alike."""
    torch.manual_seed(0)
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1),
                                           act_cfg=dict(type='ReLU')), BACKBONE)
    randomise_weights(model)
    model.model = fuse(model.model)
    mixer, maps = model.backbone.stages[0].blocks[0].channel_mixer, []
    if largest is not None:
        hook = mixer.conv1.register_forward_hook(lambda module, inputs, output: maps.append(output))
        model(load_inputs((64, 64), 1, model.normalisation))
        hook.remove()
        factor = largest / maps[0].abs().max()
        for weight in mixer.conv1.parameters():
            weight *= factor
        mixer.conv2.weight /= factor
    return model


def test_an_inner_map_beyond_half_precision_is_refused_by_the_name_of_its_layer(tmp_path):
    big = network(156_624)
    for name in ('onnx', 'openvino', 'coreml'):
        with pytest.raises(ExportError, match=r'blocks.0.channel_mixer.conv1 computes 156,\d\d\d, .* 65,504'):
            export_model(big, name, (64, 64), tmp_path / f'model{FORMATS[name].suffix}', Options('fp16'))
    assert not list(tmp_path.iterdir())
    assert export_model(big, 'onnx', (64, 64), tmp_path / 'model.onnx').half is None  # the model itself is sound


def test_the_largest_activation_is_in_report_and_metadata(tmp_path):
    report = export_model(network(6550.4), 'onnx', (64, 64), tmp_path / 'model.onnx', Options('fp16'))
    metadata = open_exported(report.path, 'onnxruntime').metadata['half_precision']
    assert metadata == {'largest_activation': report.half.largest, 'share_of_half_precision': report.half.share,
                        'layer': report.half.layer}
    assert report.half.largest == pytest.approx(6550, rel=0.1) and report.half.share == report.half.largest / 65504
    assert report.half.layer == 'stages.0.blocks.0.channel_mixer.conv1'
    assert f'largest activation {report.half.share:.1%} of 65,504 ({report.half.layer})' in str(report)


def test_a_whole_detector_is_refused_as_well(detector, tmp_path):
    model = copy.deepcopy(detector('mask_rcnn'))
    model.model.neck.fpn_convs[0].conv.weight.data *= 1e7
    with pytest.raises(ExportError, match='neck.fpn_convs.0.* computes .* half precision ends at 65,504'):
        export_model(model, 'onnx', (64, 96), tmp_path / 'model.onnx', Options('fp16', selection=Selection()))
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_it_computes_what_torch_computes_in_half_precision():
    model = network()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    half, single = HalfPrecision(model)(image), model(image)
    torchs = copy.deepcopy(model).half()(image.half())
    for ours, theirs, exact in zip(half, torchs, single, strict=True):
        assert torch.equal(ours, ours.half().float()) and not torch.equal(ours, exact)
        difference = np.abs(ours - theirs.float()).max()
        assert difference <= 0.5 * np.abs(theirs.float() - exact).max() or difference < 2e-3 * exact.abs().max()
