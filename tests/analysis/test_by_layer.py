import pytest
import torch

from repvit_mm import RepViT, fuse
from repvit_mm.analysis import by_layer, limits, turns
from repvit_mm.analysis.benchmark import Request
from repvit_mm.analysis.by_layer import layer_task, measure_layers, parts_of
from repvit_mm.analysis.complexity import count
from repvit_mm.analysis.latency import build
from repvit_mm.analysis.report import layer_table, plot_layers
from repvit_mm.errors import UserError

REQUEST = Request(['m0_6'], (32, 32), backends=['channels_last'], threads=1, rounds=2)


def test_every_convolution_is_in_a_part():
    model = fuse(build('m0_6'))
    parts = parts_of(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            kinds = [kind for part, (_, kind) in parts.items() if kind and f'{name}.'.startswith(f'{part}.')]
            assert len(kinds) == 1, name
    assert parts['model.stages.1.downsample.channel'] == ('stage2.downsample', 'downsampling')
    assert parts['model.stages.0.blocks.1.channel_mixer.act'] == ('stage1.block2', 'activation')
    assert set(parts_of(RepViT('m0_6'))) == {name.removeprefix('model.') for name in parts}


def test_times_of_parts_add_up_to_the_models(monkeypatch, tmp_path):
    monkeypatch.setattr(turns, 'WARMUP_SECONDS', 0.)
    monkeypatch.setattr(turns, 'START', 'fork')
    monkeypatch.setattr(limits, 'SIZES', {'cpu': (64, 2 ** 10)})
    task = layer_task(REQUEST)
    parts, rates = measure_layers(task, REQUEST.rounds)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.macs for part in parts) == count(build('m0_6'), (32, 32), fused=True).macs
    assert all((part.limit is not None) == (part.macs > 0) for part in parts)
    assert rates.bytes > 0
    table = layer_table(task, parts)
    assert [next(table.columns[0].cells)] == ['stem'] and table.row_count == 10
    plot_layers(task, parts, tmp_path / 'plot')
    assert (tmp_path / 'plot').read_bytes()[:4] == b'\x89PNG'


def test_what_a_block_does_beside_its_layers_is_its_rest():
    call = by_layer.Counter({('stem', 'stem'): 3., ('stem', ''): 4., ('rest', ''): 6.})
    by_layer._add_rests(call)
    assert call == {('stem', 'stem'): 3., ('stem', 'sums'): 1., ('rest', 'rest'): 2.}


@pytest.mark.parametrize(('changes', 'message'), [
    ({'configs': ['m0_6', 'm0_9']}, 'takes one model'), ({'backends': ['compile']}, 'eager or channels_last'),
    ({'train': True}, 'leave out --train'), ({'dtypes': ['int8']}, 'not in int8')])
def test_what_has_no_layers_to_measure_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        layer_task(REQUEST._replace(**changes))
