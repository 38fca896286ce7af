"""Hostile pickles: no code, no memory corruption and no hang, with each file read in a process of its own kind."""
import argparse
import json
import pickle
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import PosixPath, WindowsPath

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.errors import CheckpointError

ARRAY, SCALAR = np.empty(0).__reduce__()[0], np.float32().__reduce__()[0]


class Pickled:
    """Pickles as a call of ``function`` with ``args``, and then with ``state``."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def array(dtype, shape, raw, version=1):
    return Pickled(ARRAY, np.ndarray, (0,), b'b', state=(version, shape, dtype, False, raw))


def dtype(code, *state):
    return Pickled(np.dtype, code, False, True, state=state or None)


def nested(value, depth=40):
    """Of 2 ** depth items, in a file of some hundred bytes."""
    for _ in range(depth):
        value = (value, value) if isinstance(value, tuple) else [value, value]
    return value


POINTERS = bytes(range(1, 65))
HOSTILE = {
    'object array': np.array([{}, 'a', 1], dtype=object),
    'object array of raw bytes': array(dtype('O8'), (8,), POINTERS),
    **{f'array of numbers that become objects, flags {flags}': array(
        dtype('f8', 3, '<', None, ('a',), {'a': (dtype('O8'), 0)}, 8, 1, flags), (8,), POINTERS) for flags in (0, 63)},
    'array of numbers that become pairs of objects': array(
        dtype('f8', 3, '<', (dtype('O8'), (1,)), None, None, 8, 1, 0), (8,), POINTERS),
    'array of fields of objects': array(Pickled(np.dtype, [('a', 'O')]), (8,), POINTERS),
    'array of pairs of objects': array(Pickled(np.dtype, ('O', (2,))), (4,), POINTERS),
    'array of raw records': array(dtype('V8'), (8,), POINTERS),
    'array of dates': np.array(['2020-01-01'], dtype='M8[D]'),
    'array larger than its data': array(dtype('f8'), (1 << 40,), POINTERS),
    'array of negative size': array(dtype('f8'), (-1, -8), POINTERS),
    'array of a huge item': array(dtype('S5', 3, '|', None, None, None, 1 << 40, 1, 0), (1,), b'12345'),
    'array of an unknown dtype': array('O', (8,), POINTERS),
    'array without a state': Pickled(ARRAY, np.ndarray, (1 << 40,), b'O'),
    'scalar object': Pickled(SCALAR, dtype('O8'), POINTERS[:8]),
    'scalar of fields of objects': Pickled(SCALAR, Pickled(np.dtype, [('a', 'O')]), POINTERS[:8]),
    'scalar larger than its data': Pickled(SCALAR, dtype('f8'), b'1'),
    'history of objects': Pickled(HistoryBuffer, state={'_log_history': [{}], '_count_history': [1], 'max_length': 9}),
    'tuples as values': nested(()),
    'lists as values': nested(1),
    'set of a tensor that repeats one number': Pickled(set, torch.zeros(1).expand(1 << 40)),
    'size of a tensor that repeats one number': Pickled(torch.Size, torch.zeros(1, dtype=int).expand(1 << 40)),
    'array of a nested shape': array(dtype('f8'), nested(1), POINTERS),
    'array of repeated shapes': array(dtype('f8'), (1 << 40, (1,)), POINTERS),
    'history of strings': Pickled(HistoryBuffer, state={
        '_log_history': np.array(['a']), '_count_history': np.array(['a']), 'max_length': 9}),
    'call of a class': Pickled(torch.nn.Linear, 1, 1),
    'state of a tensor': Pickled(torch.Size, (1,), state={'x': 1}),
}


def write_raw(path, content):
    """A file of torch with a pickle that is written by hand."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, value in (('data.pkl', content), ('version', b'3\n'), ('byteorder', b'little')):
            archive.writestr(f'x/{name}', value)


HARMLESS = {'array without a state': 'None', 'array of a huge item': '[None]'}  # which is none, but five bytes
TUPLES = b'\x80\x04)q\x00' + b'h\x00h\x00\x86q\x00' * 40  # each a pair of the one before; the last one is h0
RAW = {
    'tuples as a key': TUPLES + b'}h\x00K\x01s.',
    'tuples as keys': TUPLES + b'}(h\x00K\x01u.',
    'tuples in a set': TUPLES + b'\x8f(h\x00\x90.',
    'tuples in a set that is called': TUPLES + b'cbuiltins\nset\n]h\x00a\x85R.',
    'tuples as a key of an ordered dict': TUPLES + b'ccollections\nOrderedDict\n]h\x00K\x01\x86a\x85R.',
    'tuples as a key of a counter': TUPLES + b'ccollections\nCounter\n]h\x00a\x85R.',
    'state of a function': b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.',
    'state of a class': b'\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.',
    'call of a name only': b'\x80\x02ctorch.storage\nUntypedStorage\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.',
    'call of what another call returned': b'\x80\x02]cbuiltins\ngetattr\n)R)R.',
    'instance': b'\x80\x02(cos\nsystem\nX\x02\x00\x00\x00idos\nsystem\n.',
    'object': b'\x80\x02(cos\nsystem\nX\x02\x00\x00\x00ido.',
    'extension': b'\x80\x02\x82\x01.',
    'huge bytearray': b'\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.',
    'module instead of a storage': b'\x80\x02(X\x06\x00\x00\x00moduleK\x01K\x01tQ.',
}
READ = """
import json, sys
from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.errors import CheckpointError
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        print(json.dumps(repr(read_checkpoint(path)['meta'])[:99]), flush=True)
    except CheckpointError as error:
        print(json.dumps(f'refused: {error}'), flush=True)
"""


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Case -> what became of it, in a process that may crash or hang."""
    folder, paths = tmp_path_factory.mktemp('hostile'), {}
    for number, (case, content) in enumerate({**HOSTILE, **RAW}.items()):
        paths[case] = folder / f'{number}.pth'
        if case in RAW:
            write_raw(paths[case], content)
        else:
            torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': content}, paths[case])
    done = subprocess.run([sys.executable, '-c', READ, *paths.values()], capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f'exit status {done.returncode} after {lines[-1]}: {done.stderr[-500:]}'
    return {case: json.loads(line) for case, line in zip(paths, lines[1::2], strict=True)}


@pytest.mark.parametrize('case', [*HOSTILE, *RAW])
def test_a_hostile_file_is_refused_in_one_line(results, case):
    assert results[case].startswith('refused: ') or case in HARMLESS and results[case] == HARMLESS[case]
    assert '\n' not in results[case] and len(results[case]) < 500


def test_meta_is_reduced_to_plain_types(tmp_path):
    meta = {'iter': np.int64(3), 'rate': np.float64(0.1), 'sizes': np.arange(3), 'classes': ('a', 'b'), 'seed': None,
            'mean': torch.ones(2), 'names': {'c'}, 'path': PosixPath('/tmp/x'), 'cfg': OrderedDict(a=[True]),
            'large': torch.zeros(1).expand(1 << 40), 'device': torch.device('cpu'),
            'surrogate': 'x\ud800', 'bytes': b'\x01', 'text': np.array(['ä', 'bc'])}
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': meta}, tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth')['meta'] == {
        'iter': 3, 'rate': 0.1, 'sizes': [0, 1, 2], 'classes': ('a', 'b'), 'seed': None, 'mean': [1., 1.],
        'names': ['c'], 'path': '/tmp/x', 'cfg': {'a': [True]}, 'large': None, 'device': None, 'surrogate': 'x?',
        'bytes': None, 'text': ['ä', 'bc']}


@pytest.mark.parametrize('kind', ['?', 'i1', 'u8', '>i4', 'f2', '>f8', 'c16', 'S3', '<U4', '>U2', 'f8'])
@pytest.mark.parametrize('order', 'CF')
def test_arrays_of_numbers_and_strings_are_read(tmp_path, kind, order):
    expected = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    torch.save({'a': torch.zeros(1), 'array': expected}, tmp_path / 'x.pth')
    result = read_checkpoint(tmp_path / 'x.pth')['array']
    assert result.dtype == expected.dtype and result.tolist() == expected.tolist()


def test_the_arguments_of_a_training_are_read(tmp_path):
    class Windows:  # only Windows can build such a path, so its class is pickled by name
        def __reduce__(self):
            return WindowsPath, ('C:\\', 'data')
    args = argparse.Namespace(lr=1e-3, output=PosixPath('/tmp/x'), data=Windows(), mean=np.float64(0.5),
                              device=torch.device('cuda'), names={'a', 'b'}, flags=(True, None),
                              milestones=Counter('aab'))
    torch.save({'model': {'a': torch.zeros(1)}, 'args': args}, tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth')['args'] == {
        'lr': 1e-3, 'output': '/tmp/x', 'data': 'C:\\data', 'mean': 0.5, 'device': torch.device('cuda'),
        'names': {'a', 'b'}, 'flags': (True, None), 'milestones': Counter('aab')}


def test_the_history_of_a_run_is_read_without_the_functions_that_it_names(tmp_path):
    history = HistoryBuffer([1., 2., 6.], [1, 1, 1])
    history.statistics_methods = {'min': Pickled(getattr, HistoryBuffer, '__init__')}  # as older versions pickle it
    torch.save({'a': torch.zeros(1), 'message_hub': {'loss': history}}, tmp_path / 'x.pth')
    result = read_checkpoint(tmp_path / 'x.pth')['message_hub']['loss']
    assert type(result) is HistoryBuffer and not hasattr(result, 'statistics_methods')
    assert (result.statistics('mean'), result.statistics('max', 2), result.max_length) == (3., 6., 1000000)


def test_versions_of_layers_are_read_and_nothing_else_in_their_place(tmp_path):
    state_dict = torch.nn.BatchNorm2d(2).state_dict()
    state_dict._metadata['other'] = {'version': [1]}
    torch.save(state_dict, tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth')._metadata == {'': {'version': 2}}


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_every_protocol_is_read_inside_of_a_checkpoint(tmp_path, protocol):
    expected = {'a': torch.arange(3.), 'b': ['x', 1, 2.5, None, {'y': (True,)}, 1 << 70]}
    torch.save(expected, tmp_path / 'x.pth', pickle_protocol=protocol)
    result = read_checkpoint(tmp_path / 'x.pth')
    assert torch.equal(result['a'], expected['a']) and result['b'] == expected['b']
    (tmp_path / 'x.pth').write_bytes(pickle.dumps({'a': 1}, protocol))
    with pytest.raises(CheckpointError, match='is damaged, or not written by torch.save'):
        read_checkpoint(tmp_path / 'x.pth')
