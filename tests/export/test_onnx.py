import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from repvit_mm.export import Options, export_model
from repvit_mm.export.images import load_inputs
from repvit_mm.export.runtimes import open_exported


@pytest.mark.parametrize('dynamic', [True, False])
def test_one_image_or_any_number_of_them(models, dynamic, tmp_path):
    export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'model.onnx', Options(dynamic_batch=dynamic))
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    batch = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    for other in (np.zeros((1, 3, 64, 64), np.float32), *([] if dynamic else [batch])):
        with pytest.raises(Exception, match='Got invalid dimensions'):
            session.run(None, {'image': other})
    found = open_exported(tmp_path / 'model.onnx', 'onnxruntime').run({'image': batch})  # in turns, if need be
    with torch.no_grad():
        expected = models('backbone')(torch.from_numpy(batch))
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options, coreml, nnapi', [
    (Options(), 'YES', 'NO'), (Options(gelu='tanh'), 'YES', 'YES'), (Options(dynamic_batch=True), 'NO', 'NO')])
def test_phones_run_files_for_one_image(models, options, coreml, nnapi, tmp_path):
    """Verdict of ``python -m onnxruntime.tools.check_onnx_model_mobile_usability``; NNAPI lacks Erf."""
    from onnxruntime.tools.mobile_helpers import usability_checker as checker
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo
    report = export_model(models('backbone'), 'onnx', (32, 32), tmp_path / 'model.onnx', options)
    graph = ModelProtoWithShapeInfo(report.path).model_with_shape_info
    found = [checker.check_coreml_partitions(graph, True, 'coreml_supported_mlprogram_ops.md'),
             checker.check_nnapi_partitions(graph, True)]
    assert [answer.suitability().name for answer in found] == [coreml, nnapi]


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('task', ['classification', 'segmentation', 'detection'])
def test_compilers_get_static_shapes_and_one_type_of_numbers_in_each_node(task, precision, models, tmp_path):
    """The claims of docs/deploy.md on the files for TensorRT, QNN and RKNN."""
    path = tmp_path / 'model.onnx'
    export_model(models(task), 'onnx', (64, 64), path, Options(precision))
    graph = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [('', 17)]
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    assert {name for node in graph.node for name in node.output} <= {*types}
    assert all(size.HasField('dim_value') for value in values for size in value.type.tensor_type.shape.dim)
    numbers = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    for node in graph.node:
        names = [*node.input[:1], *node.output] if node.op_type == 'Resize' else [*node.input, *node.output]
        found = {types[name] for name in names if name} & numbers  # the scales of Resize are single by definition
        assert len(found) <= (2 if node.op_type == 'Cast' else 1), node
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_another_gelu_is_measured(models, tmp_path):
    report = export_model(models('backbone'), 'onnx', (64, 64), tmp_path / 'model.onnx', Options(gelu='tanh'))
    assert 1e-5 < report.gelu < 1e-2 and f'GELU by tanh {report.gelu:.1e}' in str(report)
    image = load_inputs((64, 64), 1, models('backbone').normalisation)
    file = open_exported(report.path, 'onnxruntime')
    with torch.no_grad():
        differences = [np.abs(found - exact.numpy()).max() / exact.abs().max() for found, exact in zip(
            file.run({'image': image.numpy()}).values(), models('backbone')(image), strict=True)]
    assert max(differences) == pytest.approx(report.gelu, rel=0.05) == file.metadata['gelu_by_tanh']
    assert {module.approximate for module in models('backbone').modules() if hasattr(module, 'approximate')} == {'none'}
