"""The wheel and the sdist: what they ask for and carry, and the wheel's configs as bases of another project's."""
import json
import re
import sys
import tarfile
import zipfile
from email.parser import Parser

import pytest
import yaml
from installed import ROOT, build_sdist, build_wheel, run
from packaging.requirements import Requirement

from repvit_mm.version import __version__

CONFIGS = sorted(path for path in ROOT.glob('configs/*/*.py'))


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    return build_sdist(tmp_path_factory.mktemp('sdist'))


@pytest.fixture(scope='module')
def wheel_of_sdist(sdist, tmp_path_factory):
    """As pip makes one before it installs an sdist."""
    return build_wheel(tmp_path_factory.mktemp('wheel_of_sdist'), sdist)


def test_every_home_of_the_version_gives_the_same(metadata, wheel, sdist):
    assert metadata['Version'] == __version__
    assert wheel.name.startswith(f'repvit_mm-{__version__}-')
    assert sdist.name == f'repvit_mm-{__version__}.tar.gz'
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == __version__


def test_the_changelog_starts_with_this_version():
    headings = re.findall(r'^## (.+)$', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    released = yaml.safe_load((ROOT / 'CITATION.cff').read_text())['date-released']
    assert headings[0] == f'{__version__} ({released})'
    assert len(set(headings)) == len(headings)


def test_nothing_is_required(metadata):
    requirements = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    assert requirements
    assert [str(r) for r in requirements if r.marker is None or r.marker.evaluate({'extra': ''})] == []


@pytest.mark.parametrize('extra, names', [
    ('onedl', {'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation',
               'onedl-mmpretrain'}),
    # mmsegmentation imports ftfy and regex, and does not ask for them.
    ('openmmlab', {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'ftfy', 'regex',
                   'mmpretrain'}),
])
def test_extra_names_its_stack(metadata, extra, names):
    requirements = map(Requirement, metadata.get_all('Requires-Dist'))
    assert {r.name for r in requirements if r.marker.evaluate({'extra': extra})} == names


def test_install_changes_no_other_package(wheel):
    report = json.loads(run(sys.executable, '-m', 'pip', 'install', '--dry-run', '--quiet', '--no-index', '--report',
                            '-', wheel))
    assert [item['metadata']['name'] for item in report['install']] == ['repvit-mm']


def test_wheel_carries_the_configs_and_tools(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.removeprefix('repvit_mm/.mim/') for name in archive.namelist() if '/.mim/' in name}
    expected = {path.relative_to(ROOT).as_posix() for folder in ('configs', 'tools')
                for path in (ROOT / folder).rglob('*') if path.is_file() and '__pycache__' not in path.parts}
    assert carried == expected | {'model-index.yml'}


def test_sdist_carries_every_file_of_the_repository(sdist):
    if not (ROOT / '.git').exists():
        pytest.skip('this copy of the sources has no git, which lists them')
    tracked = run('git', 'ls-files', cwd=ROOT).splitlines()
    with tarfile.open(sdist) as archive:
        carried = {member.name.partition('/')[2] for member in archive if member.isfile()}
    links = {name for name in tracked if name.startswith('repvit_mm/.mim/')}  # to folders, which are carried as such
    assert sorted({name for name in tracked if name[0] != '.'} - links - carried) == []


def test_wheel_of_the_sdist_is_that_of_the_clone(wheel, wheel_of_sdist):
    def contents(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith('/RECORD')}
    assert contents(wheel_of_sdist) == contents(wheel)


def test_model_index_lists_every_metafile_and_these_only_configs():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert sorted(index) == sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/*/metafile.yml'))
    for metafile in index:
        for model in yaml.safe_load((ROOT / metafile).read_text())['Models']:
            config = ROOT / model['Config']
            assert config in CONFIGS
            assert model['Name'] == config.stem
