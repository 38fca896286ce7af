"""The examples: exported files without torch and without this package."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from inference_models import tiny_model
from PIL import Image
from small_detectors import by_mmdet, spread_detector
from torchvision import transforms

from repvit_mm.export import FORMATS, Options, Selection, export_model, load_images
from repvit_mm.export.images import to_input
from repvit_mm.export.prepare import describe

EXAMPLES = Path(__file__).parents[2] / 'examples'
#: Runs the script that follows with the arguments that follow, where neither torch nor this package can be imported.
WITHOUT_TORCH = ("import runpy, sys; sys.argv.pop(0); sys.modules.update(dict.fromkeys(['torch', 'repvit_mm'])); "
                 "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')")
#: Example -> format.
FORMAT_OF = {'onnxruntime': 'onnx', 'openvino': 'openvino', 'ncnn': 'ncnn', 'litert': 'litert'}


def run(example, model, folder, options=Options(), size=(64, 96)):  # noqa: B008, it is immutable
    """Export a model, run an example on a photograph of a size; returns pixels, printed lines, and the drawn image."""
    name = FORMAT_OF[example]
    if not all(map(find_spec, FORMATS[name].packages)):
        pytest.skip(f'needs {FORMATS[name].packages}: make check-devices')
    file = folder / f'model{FORMATS[name].suffix}'
    export_model(model, name, (64, 96), file, options)
    pixels = load_images(size, 1)
    Image.fromarray(pixels[0]).save(folder / 'picture.png')
    result = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, EXAMPLES / f'with_{example}.py', file,
                             folder / 'picture.png', folder / 'out.png'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    drawn = np.asarray(Image.open(folder / 'out.png'))
    assert drawn.shape == pixels[0].shape and (drawn != pixels[0]).any()
    return pixels, result.stdout.splitlines(), drawn


@pytest.mark.parametrize('size', [(90, 120), (200, 150)])
def test_a_classifier_sees_the_middle_as_in_its_test(size, tmp_path):
    rows, columns = np.mgrid[:size[1], :size[0]]
    image = Image.fromarray(np.uint8(np.stack([rows, columns, rows + columns // 2], 2) % 256))
    image.save(path := tmp_path / 'image.png')
    metadata = dict(crop_pct=0.875, channels='RGB', mean=[0] * 3, std=[1] * 3)
    picture, inputs = pictures.prepare(path, metadata, 56, 56)
    middle = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56), transforms.PILToTensor()])(image)
    assert picture.size == size
    assert np.abs(inputs['image'][0] - middle.numpy()).mean() < 1.5


@pytest.mark.parametrize('example', FORMAT_OF)
def test_an_image_is_labelled_without_torch(example, tmp_path):
    model = tiny_model(tmp_path, 'classification')
    model.classes = ('crane', 'dog', 'cat', 'cow', 'hen', 'fox', 'emu')
    _, lines, _ = run(example, model, tmp_path, size=(100, 120))
    assert (metadata := describe(model))['crop_pct'] == 0.875
    image = pictures.prepare(tmp_path / 'picture.png', metadata, 64, 96)[1]['image']
    with torch.no_grad():
        shares = model(torch.from_numpy(image))[0].softmax(1)[0]
    printed = [line.split('% ') for line in lines[-3:]]
    best = shares.argsort(descending=True)[:3]
    assert [name for _, name in printed] == [model.classes[i] for i in best]
    assert [float(share) for share, _ in printed] == pytest.approx((100 * shares[best]).tolist(), abs=0.06)


@pytest.mark.parametrize('example', FORMAT_OF)
def test_an_image_is_coloured_by_class_without_torch(example, tmp_path):
    model = tiny_model(tmp_path, 'segmentation')
    model.classes = ('road', 'sky', 'tree', 'car', 'pole')
    pixels, lines, drawn = run(example, model, tmp_path)
    with torch.no_grad():
        classes = model(to_input(pixels, model.normalisation))[0].argmax(1)[0]
    printed = {name: float(share) for share, name in (line.split('% ') for line in lines)}
    shares = (100 * classes.flatten().bincount(minlength=5) / classes.numel()).tolist()
    assert printed == pytest.approx({name: share for name, share in zip(model.classes, shares, strict=True) if share},
                                    abs=0.1)
    # What the largest class adds to the picture is the same at most of its pixels; names cover some.
    added = (drawn - 0.45 * pixels[0])[(classes == int(np.argmax(shares))).numpy()]
    assert (np.abs(added - np.median(added, 0)) < 2).mean() > 0.5


def test_a_mask_of_the_whole_image_is_that_of_torch():
    mask = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], (64, 96), mode='bilinear')[0, 0] > 0
    assert ((pictures.paste(mask, [0, 0, 96, 64], 64, 96) > 0) == expected.numpy()).all()


@pytest.mark.parametrize('example, kind', [
    ('onnxruntime', 'mask_rcnn'), ('openvino', 'rtmdet_ins'), ('litert', 'rtmdet')])
def test_objects_are_outlined_without_torch(example, kind, tmp_path):
    model = spread_detector(tmp_path, kind)
    model.classes = ('car', 'bus', 'man', 'dog', 'cat')
    # Half as large again as the image, and of another ratio: it is scaled, and where the file takes `size`, zeros fill
    # the rest.
    pixels, lines, drawn = run(example, model, tmp_path, Options(selection=Selection()), (90, 144))
    size = (64, 96) if example == 'litert' else (60, 96)
    picture = Image.fromarray(pixels[0]).resize(size[::-1], Image.Resampling.BILINEAR)
    image = to_input(np.asarray(picture)[None], model.normalisation)
    found = by_mmdet(model, torch.nn.functional.pad(image, (0, 0, 0, 64 - size[0])), size)
    names = [model.classes[label] for label in found.labels]
    printed = [line.split() for line in lines]
    assert len(found) > 5 and sorted(name for _, name, *_ in printed) == sorted(names)
    best, (score, _, *box) = found[:1], printed[0]
    assert float(score) == pytest.approx(float(best.scores), abs=1e-3)
    width_height = torch.tensor([144., 90.] * 2)
    expected = (best.bboxes[0] * width_height / torch.tensor(size[::-1] * 2)).minimum(width_height)
    assert [float(value) for value in box] == pytest.approx(expected.tolist(), abs=0.1)
    left, top, right, _ = (int(value) for value in expected)
    row = np.abs(drawn[min(top, 89), left:right].astype(int) - pixels[0, min(top, 89), left:right]).sum(1)
    assert (row > 0).mean() > 0.8
