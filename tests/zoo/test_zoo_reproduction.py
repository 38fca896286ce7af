"""Verdicts, resuming, failing rows, and what the tool says of bad input."""
import json

import pytest
from rich.console import Console
from running import run_tool

from repvit_mm.errors import CheckpointError, ConfigError
from repvit_mm.zoo import load_rows, verdict
from repvit_mm.zoo import reproduction as module
from repvit_mm.zoo.evaluation import Settings, Unavailable, evaluation_of, find_weights, inputs_of
from repvit_mm.zoo.records import Records
from repvit_mm.zoo.reproduction import Reproduction
from repvit_mm.zoo.tables import report, summary

ROWS = {row.name: row for row in load_rows()}
M0_9, M1_1 = 'repvit_m0_9_distill_300e', 'repvit_m1_1_distill_300e'


@pytest.mark.parametrize('published, measured, decimals, expected', [
    (78.7, 78.7, 1, 'agrees'), (78.7, 78.66, 1, 'agrees'), (78.7, 78.75, 1, 'agrees'), (78.7, 78.65, 1, 'agrees'),
    (78.7, 78.64, 1, 'last digit'), (78.7, 78.84, 1, 'last digit'), (78.7, 78.86, 1, 'differs'),
    (78.7, 78.5, 1, 'differs'), (0.764, 0.7644, 3, 'agrees'), (0.764, 0.7648, 3, 'last digit'),
    (0.764, 0.77, 3, 'differs'), (37.96, 37.95, 2, 'last digit'), (5_067_056, 5_067_056, None, 'agrees'),
    (5_067_056, 5_067_057, None, 'differs')])
def test_verdicts_have_the_precision_of_the_table(published, measured, decimals, expected):
    assert verdict(published, measured, decimals) == expected


def test_a_record_is_kept_until_its_inputs_change(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {'top1': len(calls)}

    assert Records(tmp_path).get('x', {'data': ('a', 1)}, measure).figures == {'top1': 1}
    assert Records(tmp_path).get('x', {'data': ('a', 1)}, measure).figures == {'top1': 1}
    assert Records(tmp_path).get('x', {'data': ('a', 2)}, measure).figures == {'top1': 2}
    fresh = Records(tmp_path, fresh=True)
    assert fresh.get('x', {'data': ('a', 2)}, measure).figures == {'top1': 3}
    assert fresh.get('x', {'data': ('a', 2)}, measure).figures == {'top1': 3}, 'two rows that share it measure once'
    (tmp_path / 'x.json').write_text('{"inputs": ')
    assert Records(tmp_path).get('x', {'data': ('a', 2)}, measure).figures == {'top1': 4}


def test_an_interrupted_measurement_leaves_no_record(tmp_path):
    def measure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Records(tmp_path).get('x', {}, measure)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Folders with a file for the weights of two models, and measurements that cost nothing."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'weights').mkdir()
    for name in (M0_9, M1_1):
        (tmp_path / 'weights' / f'{name}.pth').write_text('weights')
    measured = []

    def measure(evaluation, settings, log, console):
        measured.append(evaluation.row.name)
        if evaluation.weights.read_text() == 'broken':
            raise CheckpointError(f'{evaluation.weights.name} is broken')
        return {'Top 1 Accuracy': 78.68 if evaluation.row.name == M0_9 else 80.}

    monkeypatch.setattr(module, 'measure_accuracy', measure)
    monkeypatch.setattr(module, 'count_row', lambda row: {
        'parameters': row.parameters, 'training parameters': row.training_parameters, 'MACs': row.macs + 1})
    return tmp_path, measured


def reproduce(folder, names=(M0_9, M1_1, 'repvit_m0_9_300e')):
    settings = Settings({'imagenet': folder / 'data'}, folder / 'weights')
    return Reproduction(settings, folder / 'out', console=Console(quiet=True)).run([ROWS[name] for name in names])


def top1_of(outcome):
    return next(one for one in outcome.comparisons if one.is_accuracy)


def test_rows_are_compared_and_what_could_not_be_run_is_listed_with_the_reason(made):
    folder, _ = made
    first, second, third = outcomes = reproduce(folder)
    assert (top1_of(first).verdict, top1_of(second).verdict) == ('agrees', 'differs')
    assert top1_of(first).difference == pytest.approx(-0.02)
    assert 'repvit_m0_9_300e.pth is not in' in top1_of(third).reason and 'not released' in top1_of(third).reason
    text = report(outcomes, {'processor': 'x'})
    assert f'| {M0_9} | Top 1 Accuracy, ImageNet-1k | 78.7 | 78.68 | -0.02 | agrees |' in text
    assert f'| {M0_9} | MACs | 815,617,344 | 815,617,345 | +1 | differs |' in text
    assert '- repvit_m0_9_300e: no weights: repvit_m0_9_300e.pth is not in' in text
    assert summary(outcomes) == ('3 models, 18 figures: 17 measured, 13 agree, 0 off by one in the last digit, '
                                 '4 differ.')


def test_a_failing_row_does_not_stop_the_others_and_is_tried_again(made):
    folder, measured = made
    (folder / 'weights' / f'{M0_9}.pth').write_text('broken')
    first, second, _ = outcomes = reproduce(folder)
    assert first.failures == [f'{M0_9}.pth is broken'] and not second.failures
    assert f'- {M0_9}: failed: {M0_9}.pth is broken (Top 1 Accuracy, ImageNet-1k)' in report(outcomes, {})
    assert top1_of(second).measured == 80.
    (folder / 'weights' / f'{M0_9}.pth').write_text('mended')
    first, *_ = reproduce(folder)
    assert top1_of(first).measured == 78.68
    assert measured == [M0_9, M1_1, M0_9], 'what is finished is not run again'


def test_an_unexpected_error_in_a_row_does_not_stop_the_others(made, monkeypatch):
    folder, _ = made
    counts = module.count_row
    monkeypatch.setattr(module, 'count_row', lambda row: 1 / 0 if row.name == M0_9 else counts(row))
    first, second, _ = reproduce(folder)
    assert first.failures == ['ZeroDivisionError: division by zero'] and not second.failures
    assert top1_of(first).measured == 78.68


def test_new_weights_data_or_options_are_other_inputs(made):
    folder, _ = made
    settings = Settings({'imagenet': folder / 'data'}, folder / 'weights')
    evaluation = evaluation_of(ROWS[M0_9], 'imagenet', settings)
    before = inputs_of(evaluation, settings)
    assert inputs_of(evaluation, settings) == before
    assert inputs_of(evaluation, Settings(options=('test_dataloader.batch_size=1',))) != before
    (folder / 'data' / 'val').mkdir()
    assert (between := inputs_of(evaluation, settings)) != before
    evaluation.weights.write_text('longer weights')
    assert inputs_of(evaluation, settings) != between


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    sam = ROWS['distill_repvit_m2_3']
    with pytest.raises(Unavailable, match=r'no data: data/imagenet does not exist; --data-root imagenet=DIR'):
        evaluation_of(ROWS[M0_9], 'imagenet', Settings())
    with pytest.raises(Unavailable, match=r"a detector's boxes; --boxes FILE"):
        evaluation_of(sam, 'coco', Settings({'coco': tmp_path}))
    with pytest.raises(Unavailable, match=r'repvit_sam.pt or distill_repvit_m2_3.pth is not in .*--download'):
        evaluation_of(sam, 'bsds500', Settings({'bsds500': tmp_path}))
    (tmp_path / 'repvit_sam.pt').write_text('')
    assert find_weights(sam, Settings(weights=tmp_path)) == tmp_path / 'repvit_sam.pt'


def test_what_nothing_measures_is_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, 'count_row', lambda row: {'parameters': 1, 'training parameters': 1, 'MACs': 1})
    outcome, = Reproduction(Settings(), tmp_path, console=Console(quiet=True)).run([ROWS['distill_repvit_m2_3']])
    reasons = {one.figure: one.reason for one in outcome.comparisons if one.is_accuracy}
    assert len(reasons) == 14 and not outcome.failures
    assert reasons['Fp, MVTec'] == 'there is no tool to measure MVTec'
    assert reasons['ODS, BSDS500'].startswith('no data: data/BSDS500')


@pytest.mark.parametrize('arguments, message', [
    (['imagnet'], 'unknown table imagnet; choose from imagenet, coco, ade20k, sam'),
    (['imagenet', '--models', 'm9'], '--models m9: unknown model'),
    (['imagenet', '--data-root', 'missing'], '--data-root imagenet=missing: the folder does not exist'),
    (['imagenet', 'coco', '--data-root', 'x'], '--data-root x: name the data set, imagenet or coco, as NAME=DIR'),
    (['coco', '--data-root', 'ade20k=x'], 'unknown data set ade20k for coco; choose from coco'),
    (['--weights', 'missing'], '--weights missing: the folder does not exist'),
    (['--boxes', 'missing.json'], '--boxes missing.json: the file does not exist'),
    (['--curves', 'missing.csv'], 'missing.csv does not exist'),
])
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_tool('reproduce_tables', *arguments)
    assert status == 1 and error.startswith('error: ') and error.count('\n') == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_tool_ends_with_an_error_if_a_row_failed(tmp_path):
    (tmp_path / 'data' / 'val').mkdir(parents=True)
    (tmp_path / f'{M0_9}.pth').write_text('no checkpoint')
    status, _, error = run_tool('reproduce_tables', 'imagenet', '--models', M0_9, '--weights', tmp_path, '--data-root',
                                tmp_path / 'data', '--out', tmp_path / 'out')
    assert status == 1
    assert error.splitlines()[-1] == (f'error: 1 of 1 models failed: {M0_9}; {tmp_path / "out" / "tables.md"} says why')
    row, = json.loads((tmp_path / 'out' / 'tables.json').read_text())['rows']
    assert row['failures'] and row['figures'][0]['verdict'] == 'agrees'


def test_settings_check_what_they_are_given(tmp_path):
    with pytest.raises(ConfigError, match='--data-root coco=.*the folder does not exist'):
        Settings({'coco': tmp_path / 'missing'})
