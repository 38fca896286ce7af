"""The examples: exported files without torch and without this package."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from inference_models import tiny_model
from PIL import Image

from repvit_mm.export import BACKENDS, export_model, load_pictures
from repvit_mm.export.pictures import normalise, to_pixels

EXAMPLES = Path(__file__).parents[2] / 'examples'
#: Runs the script that follows with the arguments that follow, where neither torch nor this package can be imported.
WITHOUT_TORCH = ("import runpy, sys; sys.argv.pop(0); sys.modules.update(dict.fromkeys(['torch', 'repvit_mm'])); "
                 "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')")


@pytest.mark.parametrize(('example', 'name'), [('onnxruntime', 'onnx'), ('openvino', 'openvino'), ('ncnn', 'ncnn'),
                                               ('litert', 'litert')])
def test_a_picture_is_labelled_without_torch(example, name, tmp_path):
    if not all(map(find_spec, BACKENDS[name].packages)):
        pytest.skip(f'needs {BACKENDS[name].packages}')
    model = tiny_model(tmp_path, 'classification')
    model.classes = ('crane', 'dog', 'cat', 'cow', 'hen', 'fox', 'emu')
    file = tmp_path / f'model{BACKENDS[name].suffix}'
    export_model(model, name, (64, 96), file)
    pixels = load_pictures((64, 96), 1)
    Image.fromarray(pixels[0]).save(tmp_path / 'picture.png')
    result = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, EXAMPLES / f'with_{example}.py', file,
                             tmp_path / 'picture.png', tmp_path / 'out.png'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        shares = model(normalise(to_pixels(pixels, 'RGB'), model.normalisation))[0].softmax(1)[0]
    printed = [line.split('% ') for line in result.stdout.splitlines()[-3:]]
    best = shares.argsort(descending=True)[:3]
    assert [name for _, name in printed] == [model.classes[i] for i in best]
    assert [float(share) for share, _ in printed] == pytest.approx((100 * shares[best]).tolist(), abs=0.06)
    assert Image.open(tmp_path / 'out.png').size == (96, 64)
