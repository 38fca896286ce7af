"""What mmengine logs is read whole, over resumed and killed runs."""
import json

import pytest

from repvit_mm.errors import UserError
from repvit_mm.training.scalars import read_scalars


def write_log(directory, name, lines):
    path = directory / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, lines)))


def scalars(step, loss):
    return dict(step=step, loss=loss, lr=1e-3)


def test_logs_of_a_resumed_training_are_joined(tmp_path):
    write_log(tmp_path, '20260102_000000', [scalars(20, 2.5), scalars(30, 2.), {'coco/bbox_mAP': .5, 'step': 30}])
    write_log(tmp_path, '20260101_000000', [scalars(10, 3.), scalars(20, 9.)])
    assert [(line['step'], line.get('loss')) for line in read_scalars(tmp_path)] == [
        (10, 3.), (20, 2.5), (30, 2.), (30, None)]


def test_line_cut_by_a_kill_is_left_out(tmp_path):
    write_log(tmp_path, 'a', [scalars(10, 3.)])
    with (tmp_path / 'a/vis_data/scalars.json').open('a') as file:
        file.write('\n{"step": 20, "lo')
    assert [line['step'] for line in read_scalars(tmp_path)] == [10]


def test_damaged_and_missing_logs_are_named(tmp_path):
    (tmp_path / 'scalars.json').write_text('{"loss": 1\n')
    with pytest.raises(UserError, match=r'scalars.json, line 1: not JSON'):
        read_scalars(tmp_path / 'scalars.json')
    with pytest.raises(UserError, match='is not the work directory of a training'):
        read_scalars(tmp_path)
