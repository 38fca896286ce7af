"""From a folder of data to a config that trains: what is written, and the commands that follow."""
import re
import shlex
from pathlib import Path

import pytest
from mmengine.registry import DATASETS, MODELS
from running import load_tool, run_tool

import repvit_mm.datasets.report as report
from repvit_mm.datasets.configs import write_config
from repvit_mm.datasets.formats import recognise
from repvit_mm.datasets.tree import counted
from repvit_mm.engine.config import load_config
from repvit_mm.io.class_folders import SPLITS


@pytest.mark.parametrize(('name', 'kind', 'task', 'masks'), [
    ('coco', 'COCO JSON', 'detection', True), ('voc', 'Pascal VOC', 'detection', False),
    ('yolo', 'YOLO labels', 'detection', False), ('polygons', 'YOLO labels', 'detection', True),
    ('labelme', 'LabelMe JSON', 'detection', False), ('csv', 'CSV of boxes', 'detection', False),
    ('cvat', 'CVAT XML', 'detection', False), ('label_studio', 'Label Studio JSON', 'detection', False),
    ('labels', 'label images', 'segmentation', False), ('folders', 'class folders', 'classification', False)])
def test_a_format_is_recognised(drawn, name, kind, task, masks):
    found = recognise(drawn / name)
    assert (found.kind, found.task, found.masks) == (kind, task, masks)


@pytest.mark.parametrize(('name', 'model'), [
    ('coco', 'maskrcnn_m1_1'), ('polygons', 'rtmdet-ins_m0_9'), ('labels', 'fpn_m1_1'), ('folders', 'classifier_m0_9')])
def test_the_config_reads_all_of_the_data(drawn, tmp_path, monkeypatch, name, model):
    (tmp_path / "o'brien").mkdir()
    monkeypatch.chdir(tmp_path / "o'brien")
    done = run_tool('init', drawn / name, '--model', model)
    assert done.status == 0, done.err
    found, folder = recognise(drawn / name), Path(f'{name}_{model}')  # two models do not share a work folder
    assert sorted(path.name for path in folder.iterdir()) == sorted([f'{folder}.py', 'images.png', *found.files])
    cfg = load_config(folder / f'{folder}.py')
    for split, part in found.splits.items():
        dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, _scope_=cfg.default_scope))
        assert len(dataset) == len(part.samples)
        assert list(dataset.metainfo['classes']) == list(found.classes)
        if found.task == 'detection':
            assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == part.counts.total()
    for line in done.out.splitlines():  # the tools take the printed commands
        if ' repvit-mm ' in line:
            _, _, tool, *arguments = shlex.split(line)
            load_tool(tool).build_parser().parse_args(arguments)


@pytest.mark.parametrize(('name', 'model', 'title', 'weights'), [
    ('coco', None, 'MaskRCNN', 'repvit://m1_1_coco'), ('coco', 'm0_6', 'MaskRCNN', None),
    ('coco', 'maskrcnn_repvit_m2_3', 'MaskRCNN', 'repvit://m2_3_coco'), ('coco', 'rtmdet', 'RTMDet', None),
    ('yolo', None, 'FasterRCNN', 'repvit://m1_1_coco'), ('coco', 'rtmdet-ins_m0_6', 'RTMDet', None),
    ('labels', 'm1_5', 'EncoderDecoder', 'repvit://m1_5_ade20k'), ('labels', 'segformer_m1_0', 'EncoderDecoder', None),
    ('folders', 'm1_1', 'ImageClassifier', None)])
def test_models_are_chosen_by_name(drawn, tmp_path, name, model, title, weights):
    config = write_config(recognise(drawn / name), 0., model, 3, 128)
    (tmp_path / 'x.py').write_text(config.text)
    cfg = load_config(tmp_path / 'x.py')
    assert (cfg.model.type.split('.')[-1], cfg.get('load_from')) == (title, weights)
    arch = re.search(r'm\d_\d', model or 'm1_1')
    assert cfg.model.backbone.arch == (arch.group() if arch else 'm0_9')
    assert (cfg.model.backbone.get('init_cfg') is None) == (weights is not None)
    assert config.shape == (128, 128) and '3 epochs' in config.about
    assert cfg.param_scheduler[0].end >= 2, 'a warm-up of one iteration would never end'
    cfg.model.backbone.init_cfg = None
    MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))


def test_a_segmentor_is_validated_once_an_epoch_at_most(drawn):
    dataset = recognise(drawn / 'labels')
    for epochs, interval in ((1, 'val_interval=6)'), (40, 'val_interval=24)')):
        config = write_config(dataset, epochs=epochs)
        assert interval in config.text and f'{epochs} epoch' + 's' * (epochs > 1) + ' of 6 iterations' in config.about


@pytest.mark.parametrize(('name', 'size', 'shape'), [
    ('labels', (480, 360), (256, 352)), ('labels', (360, 480), (352, 256)), ('coco', (480, 360), (256, 320))])
def test_the_export_has_the_ratio_of_the_images(drawn, name, size, shape):
    dataset = recognise(drawn / name)
    for split in dataset.splits.values():
        split.samples[:] = [sample._replace(size=size) for sample in split.samples]
    assert write_config(dataset, model='m0_6', size=None if name == 'labels' else 320).shape == shape


def test_damaged_images_of_classes_are_skipped(data):
    root = data('folders')
    (root / 'train/ring/000006.png').write_text('no')
    assert run_tool('init', root).status == 0
    assert load_config(next(root.parent.glob('folders_*/*.py'))).train_dataloader.dataset.corrupt == 'skip'


def test_nothing_is_overwritten_silently(data):
    root = data('folders')
    assert run_tool('init', root).status == 0
    (config,) = root.parent.glob('folders_classifier_m0_9/*.py')
    config.write_text('mine')
    done = run_tool('init', root)
    assert done.status == 1 and '--overwrite replaces it' in done.err and config.read_text() == 'mine'
    assert run_tool('init', root, '--overwrite').status == 0 and config.read_text() != 'mine'


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_interrupted_or_without_space_it_leaves_nothing(data, monkeypatch, error):
    root = data('voc')
    before = sorted(root.parent.rglob('*'))

    def stop(*_):
        raise error
    monkeypatch.setattr(report, 'draw_sheet', stop)
    done = run_tool('init', root)
    assert done.status == (130 if error is KeyboardInterrupt else 1)
    assert sorted(root.parent.rglob('*')) == before


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'model'), [('coco', 'rtmdet-ins_m0_6'), ('folders', 'm0_6')])
def test_the_printed_commands_work_as_printed(data, name, model):
    root = data(name)
    done = run_tool('init', root.name, '--epochs', '1', '--size', '64', '--model', model)
    assert done.status == 0, done.err
    commands = [shlex.split(line)[1:] for line in done.out.splitlines() if ' repvit-mm ' in f' {line}']
    assert [command[1] for command in commands] == ['train', 'test', 'infer', 'export']
    for _, tool, *arguments in commands:
        workers = ['--cfg-options', *(f'{split}_dataloader.num_workers=0' for split in (*SPLITS, 'test'))]
        extra = {'train': ['--no-pretrained', *workers], 'test': workers}.get(tool, [])
        done = run_tool(tool, *arguments, *extra)
        assert done.status == 0, (tool, done.err)
    work_dir, = (root.parent / 'work_dirs').iterdir()
    assert (work_dir / 'report' / 'report.html').is_file() and (work_dir / f'{work_dir.name}.onnx').is_file()


@pytest.mark.parametrize('things, one', [('images', '1 image'), ('classes', '1 class'), ('boxes', '1 box')])
def test_one_thing_is_named_in_the_singular(things, one):
    assert (counted(1, things), counted(2000, things)) == (one, f'2,000 {things}')
