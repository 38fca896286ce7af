"""Memory that is freed and used again: whether its pages are mapped again."""
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from repvit_mm import errors
from repvit_mm import memory as heap

#: Prints whether freed memory is kept, and how many pages are mapped again for as much memory as was freed.
REUSE = """
import resource
from memory import keep_freed_memory
def use():
    maps = [b'x' * 2 ** 22 for _ in range(20)]
print(keep_freed_memory())
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def reuse(**variables):
    # In the folder of the module, where it can be imported without the package, and torch.
    output = subprocess.run([sys.executable, '-c', REUSE], cwd=Path(heap.__file__).parent, check=True,
                            env={**os.environ, **variables}, capture_output=True, text=True).stdout.split()
    return output[0] == 'True', int(output[1])


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
@pytest.mark.parametrize(('variables', 'is_kept'), [
    ({}, True), ({'MALLOC_ARENA_MAX': '2'}, True), ({'MALLOC_MMAP_THRESHOLD_': '131072'}, False),
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=131072'}, False)])
def test_freed_memory_is_kept_unless_the_user_chose_otherwise(variables, is_kept):
    kept, mapped = reuse(**variables)
    assert kept == is_kept
    assert mapped < 100 if kept else mapped > 5000


def test_every_tool_keeps_its_memory(monkeypatch):
    order = []
    monkeypatch.setattr(errors, 'keep_freed_memory', lambda: order.append('kept'))
    with pytest.raises(SystemExit) as exit_info:
        errors.run_cli(lambda: order.append('main'))
    assert exit_info.value.code is None and order == ['kept', 'main']
