"""mmcv with compiled operators: from a wheel that the user names, from the cache, or built from its sdist."""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from progress import SetupError, run

#: The distribution of mmcv in either stack; the pins have one of them.
NAMES = ('onedl-mmcv', 'mmcv')
#: The CUDA of both pinned torch's wheels. Another nvcc cannot build for it.
TORCH_CUDA = '12'
#: Memory that a compiler needs for the largest operators.
GB_PER_COMPILER = 1.5


def name_of(pins):
    """Return the distribution of mmcv that is pinned."""
    return next(name for name in NAMES if name in pins)


def key(pins):
    """Return the name of the cache's folder for a wheel: everything that its binary depends on."""
    name, tag = name_of(pins), f'cp{sys.version_info[0]}{sys.version_info[1]}'
    return f'{name}-{pins[name]}-torch{pins["torch"]}-{tag}-{sysconfig.get_platform()}-{target()}'


def target():
    """Return what the operators are compiled for: 'cpu', or CUDA's release and the GPUs' capabilities.

    mmcv's build takes a GPU, or FORCE_CUDA=1, as a reason to compile for CUDA, and then needs torch's nvcc.
    """
    if not (shutil.which('nvidia-smi') or os.environ.get('FORCE_CUDA') == '1'):
        return 'cpu'
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = f'{home}/bin/nvcc' if home else shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    release = re.search(rf'release ({TORCH_CUDA}\.\d+)', output_of(nvcc, '--version'))
    if not release:
        return 'cpu'
    capabilities = (os.environ.get('TORCH_CUDA_ARCH_LIST')
                    or output_of('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader'))
    return '-'.join([f'cuda{release.group(1)}', *sorted(set(re.findall(r'[\d.]+', capabilities)))])


def output_of(*command):
    """Return what a command prints, or nothing where it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ''


def cache():
    """Return the folder of all cached wheels."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'repvit-mm' / 'wheels'


def cached(pins):
    """Return the wheel in the cache that fits, or None."""
    return next((cache() / key(pins)).glob('*.whl'), None)


def given(python, pins, place, folder, log):
    """Return the wheel that the user's index page or folder of wheels has, copied into ``folder``."""
    name = name_of(pins)
    run([python, '-m', 'pip', 'download', '--no-deps', '--no-index', '--no-cache-dir', '--only-binary=:all:',
         '--find-links', place, '--dest', folder, f'{name}=={pins[name]}'], f'mmcv wheel from {place}', log)
    return next(Path(folder).glob('*.whl'))


def check_compiler():
    """Raise SetupError where the operators cannot be compiled."""
    if not shutil.which(os.environ.get('CXX', 'g++').split()[0]):
        raise SetupError("there is no C++ compiler for mmcv's operators: apt-get install g++, "
                         'or give a wheel with MMCV_WHEELS=URL_OR_FOLDER')
    if not (Path(sysconfig.get_paths()['include']) / 'Python.h').exists():
        version = f'{sys.version_info[0]}.{sys.version_info[1]}'
        raise SetupError("Python's headers for mmcv's operators are missing: apt-get install "
                         f'python{version}-dev, or give a wheel with MMCV_WHEELS=URL_OR_FOLDER')


def build(python, pins, log):
    """Compile the operators and put the wheel into the cache. Returns its path."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    fitting = max(1, min(len(os.sched_getaffinity(0)), int(memory / GB_PER_COMPILER)))
    jobs = os.environ.get('MAX_JOBS', str(fitting))
    env = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': jobs, 'CFLAGS': '-O2 -g0'}
    if target() == 'cpu':
        # A visible GPU would make mmcv's build ask for nvcc.
        env.update(CUDA_VISIBLE_DEVICES='', FORCE_CUDA='0')
        if shutil.which('nvidia-smi'):
            print(f'  There is a GPU but no nvcc of CUDA {TORCH_CUDA}: the operators will run on the CPU alone. '
                  'For the GPU, name a toolkit with CUDA_HOME= or a wheel with MMCV_WHEELS=URL_OR_FOLDER.', flush=True)
    folder, name = cache() / key(pins), name_of(pins)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        # Without pip's cache, which would hand out a wheel of this version whatever torch it was built for.
        run([python, '-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir',
             f'--no-binary={name}', '--wheel-dir', fresh, f'{name}=={pins[name]}'],
            f"building mmcv's operators (5 to 10 minutes on 2 cores, {jobs} at a time)", log, env)
        wheel = next(Path(fresh).glob('*.whl'))
        os.replace(wheel, folder / wheel.name)
    return folder / wheel.name
