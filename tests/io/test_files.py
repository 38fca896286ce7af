"""Results that are written whole or not at all."""
import os
import time
from pathlib import Path

import pytest

from repvit_mm.errors import UserError
from repvit_mm.io import files
from repvit_mm.io.files import atomic_write, check_writable


def write(out, content, folder=False):
    with atomic_write(out, folder) as path:
        if folder:
            path.mkdir()
            (path / 'part').write_text(content)
        else:
            path.write_text(content)


def read(out):
    return (out / 'part' if out.is_dir() else out).read_text()


@pytest.mark.parametrize('folder', [False, True])
def test_the_new_content_takes_the_place_of_the_old_one(tmp_path, folder):
    for content in ('old', 'new'):
        write(tmp_path / 'out', content, folder)
        assert read(tmp_path / 'out') == content and os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
@pytest.mark.parametrize('folder', [False, True])
def test_an_interrupted_write_leaves_the_old_content(tmp_path, folder, error):
    write(tmp_path / 'out', 'old', folder)
    with pytest.raises((KeyboardInterrupt, UserError)) as raised, atomic_write(tmp_path / 'out', folder) as path:
        path.mkdir() if folder else path.write_text('half')
        raise error
    assert read(tmp_path / 'out') == 'old' and os.listdir(tmp_path) == ['out']
    if isinstance(error, OSError):
        assert str(raised.value) == f'{tmp_path / "out"} cannot be written: No space left on device'


def test_a_folder_whose_place_cannot_be_taken_comes_back(tmp_path, monkeypatch):
    write(tmp_path / 'out', 'old', folder=True)

    def fail(self, target):
        raise OSError(5, 'Input/output error')
    monkeypatch.setattr(Path, 'replace', fail)
    with pytest.raises(UserError, match='out cannot be written: Input/output error'):
        write(tmp_path / 'out', 'new', folder=True)
    assert read(tmp_path / 'out') == 'old'


@pytest.mark.parametrize('folder', [False, True])
def test_the_content_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch, folder):
    happened, names, open_file, replace = [], {}, os.open, Path.replace

    def open_named(path, *args, **kwargs):
        descriptor = open_file(path, *args, **kwargs)
        names[descriptor] = Path(path).name
        return descriptor
    monkeypatch.setattr(os, 'open', open_named)
    monkeypatch.setattr(os, 'sync', lambda: happened.append('everything'))
    monkeypatch.setattr(os, 'fsync', lambda descriptor: happened.append(names[descriptor]))
    monkeypatch.setattr(Path, 'replace', lambda self, target: (happened.append('renamed'), replace(self, target)))
    write(tmp_path / 'out', 'new', folder)
    assert happened == ['everything' if folder else 'out', 'renamed', tmp_path.name]


@pytest.mark.parametrize('folder', [False, True])
def test_something_else_of_that_name_is_an_error(tmp_path, folder):
    write(tmp_path / 'out', 'precious', not folder)
    with pytest.raises(UserError, match=f'cannot be written: there is a {"file" if folder else "folder"} of that name'):
        write(tmp_path / 'out', 'new', folder)
    assert read(tmp_path / 'out') == 'precious' and os.listdir(tmp_path) == ['out']


def test_an_unwritable_path_is_an_error_before_the_work(tmp_path):
    with pytest.raises(UserError, match='absent/out cannot be written: No such file or directory'):
        check_writable(tmp_path / 'absent' / 'out')
    check_writable(tmp_path / 'out')
    assert not os.listdir(tmp_path)


def test_old_leftovers_of_killed_processes_go(tmp_path):
    old, young, other = (tmp_path / name for name in ('.out.partial-a', '.out.partial-b', '.other.partial-a'))
    for path in (old, young, other):
        path.mkdir()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * files.STALE_SECONDS,) * 2)
    write(tmp_path / 'out', 'new')
    assert not old.exists() and young.exists() and other.exists()
