"""Checkpoints to resume; no toolbox needed."""
import os

import pytest
import torch
from mmengine.config import Config

from repvit_mm.engine.resuming import latest_checkpoint, read_resumed
from repvit_mm.errors import CheckpointError


def write(path, text):
    path.write_text(text)
    return path


def test_nothing_to_resume(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / 'no_directory') is None
    with pytest.raises(CheckpointError, match='nothing to resume'):
        read_resumed(Config(dict(work_dir=str(tmp_path), resume='auto')))


@pytest.mark.parametrize(('pointer', 'latest'), [
    ('{root}/epoch_2.pth', 'epoch_2.pth'), ('/gone/run/epoch_2.pth', 'epoch_2.pth'),
    ('{root}/other/epoch_2.pth', 'epoch_2.pth'),  # a copy resumes from its own checkpoint
    *((pointer, 'epoch_10.pth')
      for pointer in (None, '', '/gone/epoch_9.pth', 'x' * 5000, 'a\0b', '..', b'\xff\xfe\x80'))])
def test_the_latest_checkpoint_is_that_of_a_good_pointer_or_the_newest(tmp_path, pointer, latest):
    (tmp_path / 'other').mkdir()
    for age, name in enumerate(['epoch_10.pth', 'iter_9.pth', 'epoch_2.pth', 'other/epoch_2.pth']):
        os.utime(write(tmp_path / name, ''), (1000 - age, 1000 - age))
    if pointer is not None:
        content = pointer if isinstance(pointer, bytes) else pointer.format(root=tmp_path).encode()
        (tmp_path / 'last_checkpoint').write_bytes(content)
    assert latest_checkpoint(tmp_path) == tmp_path / latest


@pytest.mark.parametrize(('given', 'taken', 'lines'), [(None, 3, 0), (3, 3, 0), (4, 3, 1)])
def test_a_resumed_run_has_the_seed_of_its_checkpoint(tmp_path, monkeypatch, given, taken, lines):
    path, said = str(tmp_path / 'some.pth'), []
    torch.save(dict(state_dict={}, meta=dict(seed=3)), path)
    monkeypatch.setattr('repvit_mm.engine.resuming.print_log', lambda line, *_: said.append(line))
    cfg = Config(dict(work_dir=str(tmp_path), resume=path, randomness=dict(seed=given, deterministic=True)))
    assert read_resumed(cfg)['meta'] == dict(seed=3)
    assert cfg.resume is True and cfg.load_from == path
    assert cfg.randomness == dict(seed=taken, deterministic=True) and len(said) == lines


@pytest.mark.parametrize('there', [True, False])
def test_a_config_that_resumes_does_so_if_there_is_a_checkpoint(tmp_path, there):
    if there:
        torch.save(dict(state_dict=dict(x=torch.ones(1)), meta={}), tmp_path / 'epoch_1.pth')
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    assert (read_resumed(cfg) is not None) == there
    assert (cfg.resume, cfg.get('load_from')) == ((True, f'{tmp_path}/epoch_1.pth') if there else (False, None))


@pytest.mark.parametrize(('spoil', 'said'), [
    (lambda path: path.write_bytes(path.read_bytes()[:500]), 'epoch_2.pth'),
    (lambda path: path.write_bytes(b''), 'epoch_2.pth'),
    (lambda path: torch.save(dict(state_dict=dict(x=torch.tensor(float('nan')))), path), 'infinite values or NaN'),
])
def test_a_spoiled_checkpoint_is_passed_over_with_a_word(tmp_path, monkeypatch, spoil, said):
    for epoch in (1, 2):
        torch.save(dict(state_dict=dict(x=torch.ones(99)), meta=dict(epoch=epoch)), tmp_path / f'epoch_{epoch}.pth')
    write(tmp_path / 'last_checkpoint', str(tmp_path / 'epoch_2.pth'))
    spoil(tmp_path / 'epoch_2.pth')
    lines, cfg = [], Config(dict(work_dir=str(tmp_path), resume='auto'))
    monkeypatch.setattr('repvit_mm.engine.resuming.print_log', lambda line, *_: lines.append(line))
    read_resumed(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_1.pth')
    assert len(lines) == 1 and 'epoch_2.pth' in lines[0] and said in lines[0]
    spoil(tmp_path / 'epoch_1.pth')
    with pytest.raises(CheckpointError, match='epoch_2.pth'):
        read_resumed(Config(dict(work_dir=str(tmp_path), resume='auto')))
