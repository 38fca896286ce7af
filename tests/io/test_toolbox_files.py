"""Files that mmengine reads in the tools: no code from checkpoints, YAML files and pickles."""
import os
import pickle
import sys
import types

import mmengine
import pytest
import torch
from bad_files import RunsCode
from mmengine.config import Config
from mmengine.fileio.backends import backends, prefix_to_backends
from mmengine.fileio.handlers.registry_utils import file_handlers
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from repvit_mm.checkpoints import fetch, patch_readers, read_checkpoint, reading
from repvit_mm.errors import CheckpointError, ConfigError, UserError

WEIGHTS = {'conv.weight': torch.arange(6.).reshape(2, 3, 1, 1), 'conv.bias': torch.ones(2)}


@pytest.fixture(autouse=True)
def safe(monkeypatch):
    """As in a tool; mmengine is itself again after the test."""
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', CheckpointLoader.__dict__['load_checkpoint'])
    for kind, handler in list(file_handlers.items()):
        monkeypatch.setitem(file_handlers, kind, handler)
    monkeypatch.setitem(prefix_to_backends, '', prefix_to_backends[''])
    monkeypatch.setitem(backends, 'local', backends['local'])
    monkeypatch.setattr('mmengine.fileio.io.backend_instances', {})
    patch_readers()


@pytest.fixture(params=['zip', 'legacy', 'raw'])
def write(request, tmp_path):
    """Writes a checkpoint in one of the ways in which there are pickles."""
    def write(content):
        path = tmp_path / 'x.pth'
        if request.param == 'raw':
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=request.param == 'zip')
        return path
    return write


class Neck(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 2, 1)


def test_init_cfg_of_any_module_runs_no_code(write, tmp_path):
    path = write({'state_dict': WEIGHTS, 'meta': RunsCode(tmp_path / 'made')})
    for prefix in ({}, {'prefix': 'neck.'}):
        with pytest.raises(CheckpointError, match='needs the type '):
            Neck({'type': 'Pretrained', 'checkpoint': str(path), **prefix}).init_weights()
    assert not (tmp_path / 'made').exists()


def test_init_cfg_of_any_module_takes_weights(tmp_path):
    torch.save({'model': WEIGHTS, 'epoch': 3}, tmp_path / 'x.pth')
    neck = Neck({'type': 'Pretrained', 'checkpoint': str(tmp_path / 'x.pth')})
    neck.init_weights()
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in neck.state_dict().items())


def test_a_missing_file_is_one_line():
    with pytest.raises(CheckpointError, match='^there is no file /nowhere/x.pth$'):
        Neck({'type': 'Pretrained', 'checkpoint': '/nowhere/x.pth'}).init_weights()


# --- Schemes of mmengine -------------------------------------------------------------------------------------------

class Store:
    """Of s3 or of pavi: it gives the bytes of one file."""

    def __init__(self, path):
        self.path, self.name = path, 'x.pth'

    def get(self, name):
        assert name.endswith('x.pth')
        return self.path.read_bytes()

    def download(self, to):
        with open(to, 'wb') as file:
            file.write(self.path.read_bytes())


@pytest.fixture
def stores(monkeypatch):
    """Lets every scheme give the file of a path."""
    def stores(path):
        loader = sys.modules['mmengine.runner.checkpoint']
        url = 'https://host/x.pth'
        monkeypatch.setattr(reading, 'fetch', lambda name: path if name == url else fetch(name))
        monkeypatch.setattr(loader, 'get_file_backend', lambda *_, **__: Store(path))
        monkeypatch.setattr(loader, 'get_torchvision_models', lambda: {'x': url})
        monkeypatch.setattr(loader, 'get_external_models', lambda: {'x': url})
        monkeypatch.setattr(loader, 'get_mmcls_models', lambda: {'x': url})
        cloud = types.SimpleNamespace(get=lambda name: Store(path))
        monkeypatch.setitem(sys.modules, 'pavi', types.SimpleNamespace(modelcloud=cloud))
    return stores


SCHEMES = ['s3://bucket/x.pth', 'petrel://bucket/x.pth', 'cluster:s3://bucket/x.pth', 'pavi://x.pth', 'torchvision://x',
           'modelzoo://x', 'open-mmlab://x', 'openmmlab://x']


@pytest.mark.parametrize('name', [*SCHEMES, 'mmcls://x'])
def test_every_scheme_runs_no_code(write, stores, tmp_path, name):
    stores(write({'state_dict': WEIGHTS, 'meta': RunsCode(tmp_path / 'made')}))
    for load in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match='needs the type '):
            load(name)
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('name', SCHEMES)
@pytest.mark.parametrize('save', [save_file, torch.save])
def test_every_scheme_gives_weights(stores, tmp_path, name, save):
    save(WEIGHTS, tmp_path / 'x.pth')
    stores(tmp_path / 'x.pth')
    tensors = CheckpointLoader.load_checkpoint(name)['state_dict']
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in tensors.items()) and len(tensors) == 2
    assert torch.load is torch.serialization.load


@pytest.mark.parametrize('name,message', [
    ('torchvision://y', "torchvision://y cannot be loaded: KeyError: 'y'"),
    ('unknown://y', 'unknown://y cannot be read; expected a path, https://..., repvit://NAME or hf://OWNER/REPO')])
def test_a_scheme_that_fails_is_one_line(stores, tmp_path, name, message):
    stores(tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=f'^{message}$'):
        read_checkpoint(name)


# --- YAML and pickles ----------------------------------------------------------------------------------------------

def test_a_yaml_file_runs_no_code(tmp_path):
    for name in ('x.yaml', 'metafile.yml'):
        (tmp_path / name).write_text(f'model: !!python/object/apply:os.mkdir ["{tmp_path / "made"}"]\n')
        with pytest.raises(UserError, match='holds Python objects: could not determine a constructor'):
            mmengine.load(tmp_path / name)
        with pytest.raises(UserError, match='could not determine a constructor'):
            Config.fromfile(tmp_path / name)
    assert not (tmp_path / 'made').exists()


def test_a_yaml_config_that_mmengine_wrote_is_read(tmp_path):
    Config({'scale': (1333, 800), 'model': {'type': 'RepViT', 'out_indices': [0, 1]}}).dump(tmp_path / 'x.yaml')
    cfg = Config.fromfile(tmp_path / 'x.yaml')
    assert (cfg.scale, cfg.model.out_indices) == ((1333, 800), [0, 1])


def test_tools_read_configs_so(tmp_path, monkeypatch):
    from repvit_mm.engine.config import load_config
    monkeypatch.undo()  # it is the tool that makes mmengine safe
    made = tmp_path / 'made'
    (tmp_path / 'x.yaml').write_text(f'model: !!python/object/apply:os.mkdir ["{made}"]\n')
    with pytest.raises(ConfigError, match='x.yaml cannot be read: .*could not determine a constructor'):
        load_config(tmp_path / 'x.yaml')
    assert not made.exists()


def test_pickles_are_written_and_not_read(tmp_path):
    mmengine.dump([1, 2], tmp_path / 'x.pkl')
    assert pickle.loads((tmp_path / 'x.pkl').read_bytes()) == [1, 2]
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(RunsCode(tmp_path / 'made')))
    with pytest.raises(UserError, match=r'pickle files \(.pkl\) are not read'):
        mmengine.load(tmp_path / 'x.pkl')
    assert not (tmp_path / 'made').exists()


def test_a_pipe_is_not_an_image(tmp_path):
    os.mkfifo(tmp_path / 'x.png')
    with pytest.raises(OSError, match='x.png is a pipe, socket or device; a file is expected'):
        mmengine.fileio.get(tmp_path / 'x.png')
    (tmp_path / 'y.png').write_bytes(b'abc')
    assert mmengine.fileio.get(tmp_path / 'y.png') == b'abc'
