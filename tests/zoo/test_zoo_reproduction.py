"""Reasons for missing figures, failing rows, and bad input."""
import json

import pytest
from rich.console import Console
from running import run_tool

from repvit_mm.errors import CheckpointError
from repvit_mm.zoo import load_rows
from repvit_mm.zoo import reproduction as module
from repvit_mm.zoo.reproduction import Settings, Unavailable, evaluate_row, find_weights, reproduce

ROWS = {row.name: row for row in load_rows()}
M0_9, SAM = ROWS['repvit_m0_9_distill_300e'], ROWS['distill_repvit_m2_3']
QUIET = Console(quiet=True)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(module, 'count_row', lambda row: {'parameters': row.parameters, 'MACs': row.macs + 1})


def test_figures_are_measured_or_have_a_reason(counted, monkeypatch, tmp_path):
    monkeypatch.setattr(module, 'evaluate_row', lambda *_: {'Top 1 Accuracy': 78.68})
    figures, failures = reproduce(M0_9, Settings(tmp_path), QUIET)
    measured = {figure.name: figure.measured for figure in figures}
    assert measured['Top 1 Accuracy'] == 78.68 and measured['MACs'] == M0_9.macs + 1 and not failures


@pytest.mark.parametrize(('error', 'line'), [(CheckpointError('broken'), 'broken'),
                                             (ZeroDivisionError('by zero'), 'ZeroDivisionError: by zero')])
def test_an_error_is_a_line_and_the_other_figures_stay(counted, monkeypatch, tmp_path, error, line):
    def fail(*_):
        raise error
    monkeypatch.setattr(module, 'evaluate_row', fail)
    figures, failures = reproduce(M0_9, Settings(tmp_path), QUIET)
    assert failures == [line] and figures[-1].note == f'failed: {line}' and figures[0].measured == M0_9.parameters


def test_a_missing_prerequisite_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    roots = dict.fromkeys(('coco', 'bsds500'), tmp_path)
    for row, name, settings, message in (
            (M0_9, 'imagenet', Settings(tmp_path), 'no data: data/imagenet does not exist; --data-root imagenet=DIR'),
            (SAM, 'coco', Settings(tmp_path, roots), "a detector's boxes; --boxes coco=FILE"),
            (SAM, 'bsds500', Settings(tmp_path, roots), 'repvit_sam.pt or distill_repvit_m2_3.pth is not in .*--down')):
        with pytest.raises(Unavailable, match=message):
            evaluate_row(row, name, settings, QUIET)
    with pytest.raises(Unavailable, match='not released'):
        find_weights(ROWS['repvit_m0_9_300e'], Settings(tmp_path))
    (tmp_path / 'repvit_sam.pt').write_text('')
    assert find_weights(SAM, Settings(tmp_path, weights=tmp_path)) == tmp_path / 'repvit_sam.pt'


def test_every_result_of_sam_has_a_reason(counted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures, failures = reproduce(SAM, Settings(tmp_path), QUIET)
    reasons = {(figure.dataset, figure.name): figure.note for figure in figures if figure.dataset}
    assert len(reasons) == 14 and not failures
    assert reasons['DAVIS 2017', 'J'] == 'DAVIS 2017 needs a tracker, see docs/sam.md'
    assert reasons['BSDS500', 'ODS'].startswith('no data: data/BSDS500')


@pytest.mark.parametrize('arguments, message', [
    (['imagnet'], 'unknown table imagnet; choose from imagenet, coco, ade20k, sam'),
    (['imagenet', '--models', 'm9'], '--models m9: unknown model'),
    (['imagenet', '--data-root', 'imagenet=missing'], '--data-root imagenet=missing does not exist'),
    (['--data-root', 'x'], '--data-root x: expected NAME=PATH; NAME is one of imagenet, coco, ade20k'),
    (['--boxes', 'coko=x'], '--boxes coko=x: expected NAME=PATH'),
    (['--boxes', 'coco=missing.json'], '--boxes coco=missing.json does not exist'),
    (['--weights', 'missing'], '--weights missing does not exist'),
])
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_tool('reproduce_tables', *arguments)
    assert status == 1 and error.startswith('error: ') and error.count('\n') == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_tool_ends_with_an_error_if_a_measurement_failed(tmp_path):
    (tmp_path / 'data' / 'val').mkdir(parents=True)
    (tmp_path / f'{M0_9.name}.pth').write_text('no checkpoint')
    status, _, error = run_tool('reproduce_tables', 'imagenet', '--models', M0_9.name, '--weights', tmp_path,
                                '--data-root', f'imagenet={tmp_path / "data"}', '--out', tmp_path / 'out')
    assert status == 1
    assert error.splitlines()[-1].startswith(f'error: 1 measurements failed, the first: {M0_9.name}: ')
    content = json.loads((tmp_path / 'out' / 'tables.json').read_text())
    assert content['failures'] and content['figures'][0]['measured'] == M0_9.parameters
