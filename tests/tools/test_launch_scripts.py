"""The shell scripts that start distributed runs, and such runs on a machine without a GPU."""
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
import tool_runs
import torch
from running import TOOLS

from repvit_mm.checkpoints import read_checkpoint

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='these runs are for machines without a GPU')
SCRIPTS = {'dist_train': 2, 'dist_test': 3, 'slurm_train': 4, 'slurm_test': 4}


def launch(script, *arguments, cwd, **environment):
    environment = {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **environment}
    return subprocess.Popen([TOOLS / f'{script}.sh', *map(str, arguments)], cwd=cwd, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(process):
    _, error = process.communicate(timeout=300)
    return process.returncode, error


@pytest.fixture
def port():
    """A port that nothing listens at, for two runs at the same time on one machine would meet."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return dict(PORT=str(free.getsockname()[1]))


@pytest.mark.parametrize('script', SCRIPTS)
def test_too_few_arguments(script, tmp_path):
    status, error = ended(launch(script, *['x'] * (SCRIPTS[script] - 1), cwd=tmp_path))
    assert status == 2 and error.startswith('usage: ')


@pytest.mark.parametrize(('script', 'arguments', 'environment', 'message'), [
    ('dist_train', ['c.py', 'abc'], {}, 'GPUS abc: expected a whole number, at least 1'),
    ('dist_test', ['c.py', 'x.pth', '2'], dict(PORT='http'),
     'PORT http: expected a whole number, at least 1 and at most 65535'),
    ('slurm_train', ['part', 'job', 'c.py', 'work'], dict(GPUS='0'), 'GPUS 0: expected a whole number, at least 1'),
])
def test_an_invalid_number_is_one_line(script, arguments, environment, message, tmp_path):
    assert ended(launch(script, *arguments, cwd=tmp_path, **environment)) == (2, f'error: {message}\n')


@pytest.mark.parametrize(('script', 'arguments', 'started'), [
    ('slurm_train', ['part', 'job', 'c.py', 'work dir', '--cfg-options', 'scale=(64, 64)'],
     ['train.py', 'c.py', '--work-dir', 'work dir', '--launcher', 'slurm', '--cfg-options', 'scale=(64, 64)']),
    ('slurm_test', ['part', 'job', 'c.py', 'a b.pth', '--tta'],
     ['test.py', 'c.py', 'a b.pth', '--launcher', 'slurm', '--tta']),
])
def test_slurm(script, arguments, started, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text(f'#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open("called.json", "w"))\n')
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    status, error = ended(launch(script, *arguments, cwd=tmp_path, PATH=path, GPUS='16', GPUS_PER_NODE='4',
                                 SRUN_ARGS='--quotatype=reserved --time=1:00'))
    assert status == 0, error
    called = json.loads((tmp_path / 'called.json').read_text())
    assert {'--partition=part', '--job-name=job', '--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4',
            '--quotatype=reserved', '--time=1:00'} <= set(called)
    command = called[called.index(sys.executable):]
    assert command[1] == '-u' and command[2].endswith(f'/tools/{started[0]}') and command[3:] == started[1:]


@pytest.mark.slow
def test_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        number = taken.getsockname()[1]
        status, error = ended(launch('dist_train', 'c.py', 1, cwd=tmp_path, PORT=str(number)))
    assert status == 1 and error.splitlines()[-1] == (
        f'error: PORT {number} is in use, perhaps by another run; set PORT to another number')
    assert 'Traceback' not in error


@pytest.mark.slow
def test_mistake_is_reported_by_one_process(tmp_path, port):
    status, error = ended(launch('dist_train', 'no_such_config.py', 2, cwd=tmp_path, **port))
    assert status == 1
    (line,) = [line for line in error.splitlines() if 'error' in line]
    assert line.startswith('error: there is no config no_such_config.py; ')
    assert 'Traceback' not in error


@without_gpu
@pytest.mark.slow
def test_two_processes_train_and_test(tmp_path, port):
    pytest.importorskip('mmdet')
    config, data = tool_runs.set_up('mmdet', tmp_path)
    config.write_text(f"{config.read_text()}\nsync_bn = 'torch'\n")
    # Otherwise the statistics of the BatchNorms differ between the processes, and one's are saved.
    common = ['--data-root', data, '--seed', 0, '--cfg-options', 'model.backbone.norm_eval=True']
    status, error = ended(launch('dist_train', config, 2, *common, 'train_dataloader.batch_size=1', '--work-dir',
                                 'trained', cwd=tmp_path, **port))
    assert status == 0, error
    checkpoint = read_checkpoint(tmp_path / 'trained' / 'iter_2.pth')
    assert checkpoint['meta']['iter'] == 2
    assert not any(name.startswith('module.') for name in checkpoint['state_dict'])
    log = next((tmp_path / 'trained').glob('*/*.log')).read_text()
    assert 'GPU number: 2' in log  # as mmengine calls its processes

    status, error = ended(launch('dist_test', config, tmp_path / 'trained' / 'iter_2.pth', 2, *common, '--work-dir',
                                 'tested', cwd=tmp_path, **port))
    assert status == 0, error
    tested = json.loads(next(path for path in (tmp_path / 'tested').glob('*/*.json')).read_text())
    validated = json.loads(next((tmp_path / 'trained').glob('*/vis_data/scalars.json')).read_text().splitlines()[-1])
    assert tested['coco/bbox_mAP'] == pytest.approx(validated['coco/bbox_mAP'], abs=1e-6)


@without_gpu
@pytest.mark.slow
def test_sample_that_one_process_cannot_read_is_reported_once(tmp_path, port):
    pytest.importorskip('mmseg')
    config, data = tool_runs.set_up('mmseg', tmp_path)
    picture = sorted(data.glob('img_dir/train/*.png'))[0]
    picture.write_bytes(picture.read_bytes()[:100])
    status, error = ended(launch('dist_train', config, 2, '--data-root', data, cwd=tmp_path, **port))
    assert status == 1
    assert [line for line in error.splitlines() if line.startswith('error: ')] == [
        f'error: {picture} cannot be read, it is damaged or truncated (image file is truncated)']
    assert 'Traceback' not in error


@without_gpu
@pytest.mark.slow
def test_interrupt_leaves_the_last_checkpoint(tmp_path, port):
    pytest.importorskip('mmpretrain')
    config, data = tool_runs.set_up('mmpretrain', tmp_path)
    work_dir = tmp_path / 'work'
    process = launch('dist_train', config, 2, '--data-root', data, '--work-dir', work_dir, '--cfg-options',
                     'train_cfg.max_epochs=10000', 'default_hooks.checkpoint.type=CheckpointHook',
                     'default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=1',
                     cwd=tmp_path, **port)
    # communicate() reads the output, which would otherwise fill the pipe and stop the run.
    deadline = time.monotonic() + 200
    while not list(work_dir.glob('epoch_*.pth')) and time.monotonic() < deadline:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)
    os.killpg(process.pid, signal.SIGINT)
    status, error = ended(process)
    assert status == 130, error
    assert error.count('command with --resume continues from') == 1 and 'Traceback' not in error, error
    checkpoints = list(work_dir.glob('*.pth'))
    assert checkpoints and not list(work_dir.glob('.*.partial-*'))
    for path in checkpoints:
        assert read_checkpoint(path)['meta']['epoch'] == int(path.stem.removeprefix('epoch_'))
