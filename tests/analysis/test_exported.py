"""The table of exported files in the documentation."""
import os
from types import SimpleNamespace

import pytest

from repvit_mm.analysis import exported
from repvit_mm.analysis.exported import BEGIN, END, HEADER, write_rows
from repvit_mm.errors import UserError
from repvit_mm.export import BACKENDS, Comparison


def test_the_rows_of_a_model_take_the_place_of_its_old_ones(tmp_path):
    document = tmp_path / 'page.md'
    document.write_text(f'before\n{BEGIN}\n{HEADER}\n| a | old |\n| b | kept |\n{END}\nafter\n')
    write_rows([['a', 'onnx'], ['a', 'openvino']], document)
    assert document.read_text() == (f'before\n{BEGIN}\n{HEADER}\n| b | kept |\n| a | onnx |\n| a | openvino |\n{END}\n'
                                    'after\n')
    (tmp_path / 'other.md').write_text('text\n')
    with pytest.raises(UserError, match='other.md must have the line'):
        write_rows([['a']], tmp_path / 'other.md')


def test_a_core_ml_package_is_compared_with_pytorch_and_not_timed(tmp_path, monkeypatch):
    (tmp_path / 'm_fp32.mlpackage').mkdir()
    (tmp_path / 'm_fp32.mlpackage' / 'weights').write_bytes(bytes(1_500_000))
    subject = SimpleNamespace(fused=SimpleNamespace(name='m', task=SimpleNamespace(name='classification')))
    monkeypatch.setattr(exported.Job, 'subject', lambda job, fixed: subject)

    def prove(path, given, options):
        assert given is subject and options.precision == 'fp32' and options.selection is None
        return [Comparison('logits', (1, 7), difference, 1e-4, 2e-2) for difference in (1.2e-3, 3e-4)]
    monkeypatch.setitem(BACKENDS, 'coreml', BACKENDS['coreml']._replace(prove=prove))
    row = exported._package_row(exported.Job('m.py', 'm.pth', None, (32, 32)), tmp_path / 'm_fp32.mlpackage')
    assert row == ['m', 'coreml', 'fp32', '1.5', 'differs: logits 1.2e-03', '-']


class _Crash:
    def __reduce__(self):
        return os._exit, (11,)


def test_a_runtime_that_crashes_is_one_line(tmp_path):
    with pytest.raises(UserError, match='m.tflite: litert ended the process that tested it'):
        exported._score_apart(exported.Job(_Crash(), 'm.pth', None, (32, 32)), tmp_path / 'm.tflite', 'litert')
