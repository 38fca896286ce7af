"""``repvit-mm doctor``: what is installed, what each missing package disables, and how to install it.

It has to work without torch and mmengine, so every package, even rich, is imported only inside a check.
"""
import argparse
import io
import json
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, NamedTuple

from ..ops import EXTENSION, find_compiled, is_provided, provide, torchvision_problem
from ..version import __version__

#: Import name -> distributions of the onedl stack and of upstream.
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
#: The extras of this package that name the stacks, in the order of the names above.
STACKS = ('onedl', 'openmmlab')


class Piece(NamedTuple):
    """A package that may be missing.

    Attributes:
        module: The module that has to be importable.
        disables: What does not work without it.
        extra: The extra of this package that installs it; empty for the stack itself.
        command: What installs it where no extra can.
    """

    module: str
    disables: str
    extra: str = ''
    command: str = ''


STACK = (
    Piece('torch', 'everything'),
    Piece('torchvision', 'the toolboxes'),
    Piece('mmengine', 'everything'),
    Piece('mmcv', 'the toolboxes'),
    Piece('mmcv.ops', 'the toolboxes'),
)
#: Training needs at least one of them.
TOOLBOXES = (
    Piece('mmdet.models', 'detection and instance segmentation, the quickstart'),
    Piece('mmseg.models', 'semantic segmentation'),
    Piece('mmpretrain.models', 'classification'),
)
OPTIONAL = (
    Piece('timm', "the distillation's teacher; timm's models beside ours in benchmark", 'timm'),
    Piece('safetensors', 'checkpoints in .safetensors files', 'timm'),
    Piece('onnx', 'export --to onnx, openvino; sam-export onnx', 'export'),
    Piece('onnxruntime', 'export --to onnx, sam-export onnx; benchmark and test --backend onnxruntime', 'export'),
    Piece('coremltools', 'export --to coreml, sam-export coreml', 'export'),
    Piece('openvino', 'export --to openvino; benchmark and test --backend openvino', 'export'),
    Piece('ncnn', 'export --to ncnn; benchmark and test --backend ncnn', 'export'),
    Piece('pnnx', 'export --to ncnn', 'export'),
    Piece('executorch', 'export --to executorch; benchmark and test --backend executorch', 'executorch'),
    Piece('ai_edge_litert', 'export --to litert; benchmark and test --backend litert',
          command='pip install ai-edge-litert'),
    Piece('litert_torch', 'export --to litert', command='pip install --no-deps -r requirements-litert.txt'),
    Piece('ai_edge_quantizer', 'export --to litert --precision fp16',
          command='pip install --no-deps -r requirements-litert.txt'),
    Piece('segment_anything', 'RepViT-SAM: the sam-* commands', 'sam'),
    Piece('pycocotools', "COCO's figures, sam-demo's masks, sam-eval-coco", 'sam'),
    Piece('scipy', 'sam-eval-edges', 'sam'),
    Piece('skimage', 'sam-eval-edges', 'sam'),
    Piece('gradio', 'sam-web', 'sam-demo'),
)


@dataclass
class Finding:
    """The result of a check.

    Attributes:
        name: The checked package or feature.
        found: Its version or a description, or why it does not work.
        works: Whether it works.
        disables: What does not work without it.
        command: The command that installs or repairs it.
    """

    name: str
    found: str
    works: bool = True
    disables: str = ''
    command: str = ''


# What is installed

def installed_version(distribution: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirement(distribution: str, extra: str) -> str:
    """A distribution with the versions that an extra of this package requires, quoted for a shell."""
    try:
        lines = metadata.requires('repvit-mm') or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        lines = []
    for line in lines:
        specifier, _, marker = line.partition(';')
        if re.match(rf'{re.escape(distribution)}\b(?!-)', specifier) and extra in re.findall(r'[\w-]+', marker):
            return f'"{specifier.strip()}"' if re.search('[<>=]', specifier) else specifier.strip()
    return distribution


def find_stack() -> tuple[int, Finding]:
    """The index of the installed stack in :data:`STACKS`, 0 if there is none; a mixture is broken."""
    found = [[name for names in DISTRIBUTIONS.values() if installed_version(name := names[stack])]
             for stack in range(len(STACKS))]
    stack = int(len(found[1]) > len(found[0]))
    if all(found):
        return stack, Finding(
            'stack', f'onedl and upstream mixed: {", ".join(sum(found, []))}', False,
            "the packages of both: the two stacks overwrite each other's files",
            f'pip uninstall -y {" ".join(sum(found, []))}  # then reinstall one of the two')
    if not any(found):
        return stack, Finding('stack', 'none; the commands below are for onedl, the maintained forks', False)
    return stack, Finding('stack', ('onedl: the maintained forks', 'upstream OpenMMLab')[stack])


def add_command(piece: Piece, stack: int) -> str:
    """The command that installs a package for a stack."""
    package, extra = piece.module.partition('.')[0], STACKS[stack]
    if piece.command:
        return piece.command
    if piece.extra:
        return f'pip install "repvit-mm[{piece.extra}]"'
    if package in ('torch', 'torchvision'):
        # Both at once, so that they match; upstream needs numpy 1.
        numpy = f' {requirement("numpy", extra)}' if stack else ''
        return f'pip install {requirement("torch", extra)} torchvision{numpy}'
    name = requirement(DISTRIBUTIONS[package][stack], extra)
    if package == 'mmcv':
        # Without the operators; torchvision's are used. pip's cache may hold a wheel compiled for another torch.
        again = ' --force-reinstall --no-deps' if piece.module == 'mmcv.ops' else ''
        return ('pip install "setuptools<81" && '
                f'MMCV_WITH_OPS=0 pip install --no-build-isolation --no-cache-dir{again} {name}')
    return f'pip install {"" if package == "mmengine" else "--no-build-isolation "}{name}'


def check(piece: Piece, stack: int) -> Finding:
    """Import a package, and report its version or why the import fails."""
    package = piece.module.partition('.')[0]
    distribution = DISTRIBUTIONS.get(package, (package,) * 2)[stack]
    name = piece.module if piece.module == 'mmcv.ops' else package
    error = import_error(piece.module)
    if error is None:
        version = installed_version(distribution) or getattr(sys.modules[package], '__version__', 'installed')
        return Finding(name, version)
    command = add_command(piece, stack)
    if package == 'torchvision' and not isinstance(error, ModuleNotFoundError):
        return Finding(name, torchvision_problem()[0], False, piece.disables, torchvision_problem()[1])
    if package != 'torchvision' and 'torchvision' in str(error):  # torchvision's own line has the reason
        return Finding(name, 'needs torchvision', False, piece.disables)
    if isinstance(error, ModuleNotFoundError) and error.name:
        lacking = error.name.partition('.')[0]
        if error.name in (package, piece.module):
            return Finding(name, 'missing', False, piece.disables, command)
        if lacking != package:  # a package of the stack has its own line
            own_line = lacking in (*DISTRIBUTIONS, 'torch', 'torchvision')
            command = '' if own_line else f'pip install {lacking}'
            return Finding(name, f'needs {lacking}', False, piece.disables, command)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Finding(name, f'cannot be imported: {reason}', False, piece.disables, command)


def import_error(module: str) -> Exception | None:
    """Import a module quietly, and return the error, if any."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            import_module(module)
        except Exception as error:  # a broken installation can raise anything
            return error
    return None


# What works

def find_gpu(torch: ModuleType) -> Finding:
    """Find the GPUs that torch can use."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding('GPU', f'{", ".join(names)}; CUDA {torch.version.cuda}')
    if torch.backends.mps.is_available():
        return Finding('GPU', "Apple's (MPS)")
    if not shutil.which('nvidia-smi'):
        return Finding('GPU', 'none: everything runs on the CPU')
    reason = 'this torch is built for the CPU only' if torch.version.cuda is None else (
        f'torch is built for CUDA {torch.version.cuda}, which the driver does not support')
    return Finding('GPU', f'there is one, but {reason}', False, 'training and inference on the GPU',
                   'nvidia-smi  # shows the CUDA version of the driver; pytorch.org has the torch for it')


def check_operators(torch: ModuleType, stack: int) -> Finding:
    """Report which operators mmcv has, where they come from, and whether they run on the device of torch."""
    ops, extension = sys.modules['mmcv.ops'], sys.modules[EXTENSION]
    cuda = ops.get_compiling_cuda_version()
    place = 'for the CPU only' if cuda == 'not available' else f'for CUDA {cuda} and the CPU'
    if is_provided():
        names = sorted({re.sub('_(forward|backward).*', '', name) for name in extension.__all__})
        found = f"torchvision's, {place}: {', '.join(names)}"
        if find_compiled(sys.modules['mmcv'].__path__):
            found += "; mmcv's compiled ones cannot be loaded, they were built for another torch"
        command = 'pip install --force-reinstall torch torchvision'
    else:
        # Without compiled operators, torchvision's are used, which run on the GPU.
        found, command = f'compiled, {place}', add_command(Piece('mmcv.ops', ''), stack)
    if torch.cuda.is_available() and cuda == 'not available':
        return Finding('mmcv.ops', found, False, 'detectors on the GPU', command)
    return Finding('mmcv.ops', found)


def try_backbone(torch: ModuleType) -> Finding:
    """Build a RepViT by its registered name and run a training step."""
    try:
        import_module('repvit_mm.network.backbone')
        from mmengine.registry import MODELS
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        model = MODELS.build(dict(type='RepViT', arch='m0_6')).to(device)
        sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64, device=device))).backward()
        works = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        found = f'runs a training step on the {device.upper()}' if works else 'its gradients are not finite'
    except Exception as error:  # a broken torch can raise anything
        works, found = False, f'fails: {(str(error).strip() or type(error).__name__).splitlines()[0]}'
    return Finding('RepViT', found, works, '' if works else 'everything')


def examine() -> tuple[list[Finding], list[str]]:
    """Run all checks.

    Returns:
        The findings, and the toolboxes in which RepViT can be trained here.
    """
    provide()
    stack, stack_finding = find_stack()
    findings = [Finding('Python', f'{platform.python_version()} ({sys.executable})'),
                Finding('repvit-mm', __version__), stack_finding]
    base = [check(piece, stack) for piece in STACK if piece.module != 'mmcv.ops' or import_error('mmcv') is None]
    toolboxes = [check(piece, stack) for piece in TOOLBOXES]
    torch = sys.modules['torch'] if base[0].works else None
    if torch and 'mmcv.ops' in sys.modules:
        base[-1] = check_operators(torch, stack)
    findings += base
    ready = all(finding.works for finding in base if finding.name != 'mmcv.ops')
    if torch:
        findings.append(find_gpu(torch))
    if torch and import_error('mmengine') is None:
        findings.append(try_backbone(torch))
        ready = ready and findings[-1].works
    findings += [*toolboxes, *(check(piece, stack) for piece in OPTIONAL)]
    return findings, [finding.name for finding in toolboxes if finding.works and ready]


# Printing

def show(findings: Sequence[Finding], toolboxes: Sequence[str]) -> None:
    """Print the findings, the commands that install what is missing, and a conclusion."""
    say = _printer()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        colour, mark = ('green', '✓') if finding.works else ('red', '✗')
        disables = f'; this disables {finding.disables}' if finding.disables else ''
        say(f'{mark} {finding.name:{width}}  {finding.found}{disables}', colour)
    commands: dict[str, list[str]] = {}
    for finding in findings:
        if finding.command:
            commands.setdefault(finding.command, []).append(finding.name)
    if commands:
        say('\nTo fix this, run in this order:')
    for command, names in commands.items():
        say(f'{command}   # {", ".join(names)}' if '#' not in command else command)
    if toolboxes:
        say(f'\nRepViT can be trained here, with {", ".join(toolboxes)}.', 'green')
    else:
        say('\nRepViT cannot be trained here: torch, mmengine, mmcv and at least one toolbox must work.', 'red')


def _printer() -> Callable[..., Any]:
    try:
        from rich.console import Console
    except ModuleNotFoundError:  # it comes with mmengine
        return lambda text, colour=None: print(text)
    # Commands are for copying: they must not be wrapped.
    console = Console(highlight=False, soft_wrap=True)
    return lambda text, colour=None: console.print(text, style=colour, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if RepViT can be trained here, else 1."""
    parser = argparse.ArgumentParser(prog='repvit-mm doctor', description=__doc__.partition(': ')[2]
                                     .partition('.\n')[0].capitalize() + '.')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    args = parser.parse_args(arguments)
    findings, toolboxes = examine()
    if args.json:
        print(json.dumps({'trains': toolboxes, 'findings': [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(findings, toolboxes)
    return 0 if toolboxes else 1
