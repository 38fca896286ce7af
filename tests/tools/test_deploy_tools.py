"""fuse.py, get_flops.py, benchmark.py and the exporters, as a user runs them."""
import json

import export
import pytest
import torch
from inference_models import CONFIGS, tiny_model, write_config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from running import run_tool

from repvit_mm import register
from repvit_mm.engine.config import load_config
from repvit_mm.export import FORMATS, Options
from repvit_mm.models.inference import build_inference_model

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=['classification', 'segmentation', 'detection'])
def trained(request, tmp_path):
    """Config and checkpoint of a task, and the model in them."""
    model = tiny_model(tmp_path, request.param)
    torch.save({'state_dict': model.model.state_dict(), 'meta': {'epoch': 3}}, tmp_path / 'trained.pth')
    return tmp_path / f'tiny_{request.param}.py', tmp_path / 'trained.pth', model


@pytest.mark.slow
@torch.no_grad()
def test_a_fused_checkpoint_loads_by_itself(trained, tmp_path):
    config, checkpoint, model = trained
    assert run_tool('fuse', config, checkpoint, tmp_path / 'fused.pth')[::2] == (0, '')
    saved = torch.load(tmp_path / 'fused.pth')
    assert saved['meta']['fused'] is True and saved['meta']['epoch'] == 3 and saved['meta']['dataset_meta']['classes']
    assert 'backbone.stem.conv1.weight' in saved['state_dict']
    weights = [sum(value.numel() for value in content['state_dict'].values())
               for content in (saved, torch.load(checkpoint))]
    assert weights[0] < weights[1]

    expected = model(IMAGE)
    ours = build_inference_model(config, tmp_path / 'fused.pth')
    with DefaultScope.overwrite_default_scope(load_config(config).default_scope):
        theirs = MODELS.build(load_config(config).model)
    # As mmengine's inferencers load it: in training mode, by mmengine's own loader, and what is missing is only logged.
    _load_checkpoint_to_model(theirs, saved)
    ours_again = ours.task.forward(theirs.eval(), IMAGE)
    for found in (ours(IMAGE), ours_again):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    assert run_tool('fuse', config, tmp_path / 'fused.pth', tmp_path / 'again.pth')[::2] == (0, '')
    again = torch.load(tmp_path / 'again.pth')['state_dict']
    assert all(torch.equal(again[name], value) for name, value in saved['state_dict'].items())


@pytest.mark.parametrize(('shape', 'noted'), [([], False), (['--shape', 192, 160], True)])
def test_an_export_takes_the_size_of_the_test_and_a_checkpoint_its_config(shape, noted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register()  # so that bases of mmseg are found
    torch.save({'state_dict': tiny_model(tmp_path, 'segmentation').model.state_dict()}, 'trained.pth')
    config = write_config(tmp_path, 'segmentation')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(150, 96)), dict(type='PackSegInputs')]
    config.write_text(f'{config.read_text()}test_dataloader = dict(dataset=dict(pipeline={pipeline}))\n')
    status, printed, _ = run_tool('export', 'trained.pth' if noted else config, '--to', 'onnx', *shape)
    assert status == 0 and ('has random weights' in printed) != noted
    assert ('scales images to 96 x 160, not 192 x 160: results differ' in printed) == noted
    assert (tmp_path / f'tiny_segmentation_{192 if noted else 96}x160.onnx').is_file()


def test_a_classifier_of_image_folders_has_the_classes_of_its_checkpoint(tmp_path):
    config = CONFIGS / 'quickstart/classifier_repvit_m0_6_shapes.py'
    content = {'state_dict': build_inference_model(config).model.state_dict(),
               'meta': {'dataset_meta': {'classes': ('cat', 'dog', 'fox')}}}
    for name in ('head.fc.linear.weight', 'head.fc.linear.bias'):
        content['state_dict'][name] = content['state_dict'][name][:3].clone()
    torch.save(content, tmp_path / 'trained.pth')
    model = build_inference_model(config, tmp_path / 'trained.pth')
    assert model.classes == ('cat', 'dog', 'fox') and model(IMAGE)[0].shape == (1, 3)


def test_fusing_that_changes_the_outputs_is_refused(tmp_path, monkeypatch):
    config = write_config(tmp_path, 'classification')
    torch.save(tiny_model(tmp_path, 'classification').model.state_dict(), tmp_path / 'trained.pth')
    monkeypatch.setattr('repvit_mm.models.deploy.BOUND', 0.)
    status, _, message = run_tool('fuse', config, tmp_path / 'trained.pth', tmp_path / 'fused.pth')
    assert status == 1 and 'the outputs would change by' in message and message.count('\n') == 1
    assert not (tmp_path / 'fused.pth').exists()


def test_get_flops_writes_both_forms(tmp_path):
    assert run_tool('get_flops', 'm0_6', '--json', tmp_path / 'counts.json')[::2] == (0, '')
    counts = json.loads((tmp_path / 'counts.json').read_text())
    assert counts['shape'] == [224, 224]
    assert (counts['training']['parameters'], counts['inference']['parameters']) == (2_165_652, 2_147_072)
    assert [part['name'] for part in counts['inference']['children'][0]['children']][0] == 'stem'


def test_benchmark_writes_figures(tmp_path):
    figures = tmp_path / 'speed.json'
    assert run_tool('benchmark', 'm0_6', '--shape', 32, 32, '--backend', 'eager', '--rounds', 1, '--json',
                    figures)[::2] == (0, '')
    (system,) = json.loads(figures.read_text())['systems']
    assert (system['model'], system['implementation'], system['backend']) == ('m0_6', 'repvit_mm', 'eager')


@pytest.mark.parametrize(('options', 'names'), [
    (['--to', 'onnx'], ['m0_6_64x64.onnx']),
    (['--to', 'onnx', '--precision', 'fp16'], ['m0_6_64x64_fp16.onnx']),  # does not overwrite the file above
    (['--to', 'onnx', 'ncnn', '--precision', 'fp32'], ['m0_6_64x64_fp32.onnx', 'm0_6_64x64_fp32.ncnn.param']),
    (['--to', 'onnx', '--out', 'a.onnx'], ['a.onnx']),
    (['--to', 'onnx', '--out', 'folder'], ['folder/m0_6_64x64.onnx']),
    (['--to', 'coreml', '--out', 'old.mlpackage'], ['old.mlpackage'])])
def test_exported_files_have_names_of_their_own(options, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('folder', 'old.mlpackage'):
        (tmp_path / folder).mkdir()
    assert set(export.FORMATS) == set(FORMATS)
    args = export.build_parser().parse_args(['m0_6', '--shape', '64', '64', *options])
    jobs = [(name, Options(precision)) for name in args.to for precision in args.precision]
    assert [str(path) for path in export.outs_of(args, jobs)] == names


@pytest.mark.slow
def test_one_command_writes_what_it_can_of_a_fused_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, stem = write_config(tmp_path, 'segmentation'), 'tiny_segmentation_64x64_'
    torch.save(tiny_model(tmp_path, 'segmentation').model.state_dict(), 'trained.pth')
    run_tool('fuse', config, 'trained.pth', 'fused.pth')
    (tmp_path / 'files').mkdir()
    (tmp_path / f'files/{stem}fp32.mlpackage').write_text('a file, where a folder belongs')
    status, printed, error = run_tool('export', config, 'fused.pth', '--to', 'openvino', 'coreml', '--precision',
                                      'fp32', 'fp16', '--shape', 64, 64, '--out', 'files', '--operations')
    assert status == 1 and error.startswith('error: coreml: ') and error.count('\n') == 1
    assert {path.name for path in (tmp_path / 'files').iterdir()} == {
        f'{stem}{precision}{suffix}' for precision in ('fp32', 'fp16') for suffix in ('.xml', '.bin', '.mlpackage')}
    line, operations = printed.splitlines()[-2:]
    assert line.startswith(f'files/{stem}fp16.mlpackage: ') and ' MB, ' in line and 'conv' in operations


@pytest.mark.parametrize('tool, arguments, message', [
    ('get_flops', ['m9'], 'm9 is neither an architecture nor a config'),
    ('get_flops', ['m0_6', '--json', 'absent/x.json'], 'absent/x.json cannot be written'),
    ('benchmark', ['m0_6', '--backend', 'eager', 'tpu'], "unknown backend 'tpu'; choose from unfused"),
    ('benchmark', ['m0_6', '--frozen-statistics'], '--frozen-statistics is for --train'),
    ('export', ['m0_6', '--to', 'coreml', '--shape', '64', '64', '--out', 'x.zip'], 'x.zip must end in .mlpackage'),
    ('export', ['m0_6', '--to', 'onnx', 'ncnn', '--precision', 'int8-weights'], 'onnx has no precision int8-weights'),
    ('export', ['m0_6', '--to', 'coreml', '--dynamic-size'], 'coreml does not take --dynamic-size: its files are for'),
    ('export', ['m0_6', '--to', 'onnx', '--pyramid'], 'm0_6 is exported without detections: --pyramid'),
    ('fuse', ['m0_6', 'absent.pth', 'out.pth'], 'absent.pth'),
])
def test_mistakes_are_one_line(tool, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_tool(tool, *arguments)
    assert status == 1 and error.startswith('error: ') and message in error and error.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_benchmark_refuses_an_unwritable_file_before_it_measures(monkeypatch, tmp_path):
    monkeypatch.setattr('repvit_mm.analysis.benchmark.run', None)
    (tmp_path / 'folder').mkdir()
    for out, reason in ((tmp_path / 'absent' / 'x.png', 'No such file'), (tmp_path / 'folder', 'there is a folder')):
        status, _, error = run_tool('benchmark', 'm0_6', '--json', out)
        assert status == 1 and error.startswith(f'error: {out} cannot be written: {reason}')
    assert [path.name for path in tmp_path.iterdir()] == ['folder']


@pytest.mark.parametrize('tool, arguments, message', [
    ('get_flops', ['m1_1', '--shape', 0, 0], 'argument --shape: expected a whole number from 1 to 16384, got 0'),
    ('get_flops', ['m0_6', '--depth', -1], 'argument --depth: expected a whole number, at least 0, got -1'),
    ('benchmark', ['m0_6', '--threads', 0], 'argument --threads: expected a whole number, at least 1, got 0'),
    ('export', ['m0_6', '--to', 'onnx', '--shape', 64, 'x'], 'argument --shape: expected a whole number from 1'),
    ('export', ['m0_6', '--to', 'coreml', '--also-shape', 64, 0], 'argument --also-shape: expected a whole number'),
])
def test_a_number_out_of_range_is_a_usage_error(tool, arguments, message):
    status, _, error = run_tool(tool, *arguments)
    assert status == 2 and message in error.splitlines()[-1]
