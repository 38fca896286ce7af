"""Where the time of a model goes: the latency of every block, by the kinds of its layers."""
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import UserError
from ..models.inference import InferenceModel
from ..network.blocks import ChannelMixer, Downsample, RepViTBlock, Stem
from ..network.fusion import fuse
from .benchmark import Request
from .latency import build
from .limits import DTYPES, Layer, Rates, finished, layers_of, measure
from .turns import CALLS_PER_TURN, Prepared

#: Block or part of one -> a layer in it -> its kind.
KINDS = {
    Stem: {'conv1': 'stem', 'act': 'activation', 'conv2': 'stem'},
    Downsample: {'spatial': 'downsampling', 'channel': 'downsampling'},
    RepViTBlock: {'token_mixer': 'token mixer', 'se': 'channel attention'},
    ChannelMixer: {'conv1': '1x1 convolutions', 'act': 'activation', 'conv2': '1x1 convolutions'},
}
#: What a block does beside its layers, and what the model does beside its blocks.
SUMS, REST = 'sums', 'rest'

class Part(NamedTuple):
    """The layers of one kind in a block.

    Attributes:
        block: ``stem``, ``stage1.block2``, ``stage2.downsample``, or ``rest`` for what is not in a block.
        kind: A kind of :data:`KINDS`, or ``sums`` or ``rest``.
        median: In milliseconds.
        share: Of the time of all parts.
        macs: Multiply-adds.
        limit: Share of what the machine could do at most; None without multiply-adds.
    """

    block: str
    kind: str
    median: float
    share: float
    macs: int
    limit: float | None


class LayerTask(NamedTuple):
    """What is measured, and how; see :class:`repvit_mm.analysis.latency.Task`."""

    source: str
    shape: Sequence[int]
    batch_size: int
    channels_last: bool
    dtype: str
    device: str
    threads: int

    def __call__(self) -> Prepared:
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.benchmark = True
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model = fuse(build(self.source)).to(self.device, DTYPES[self.dtype], memory_format=layout)
        image = torch.randn(self.batch_size, model.in_channels, *self.shape).to(
            self.device, DTYPES[self.dtype], memory_format=layout)
        calls: list[Counter] = []
        wait = finished(lambda: None, self.device)
        _time_parts(model, calls, wait)

        @torch.inference_mode()
        def call() -> None:
            calls.append(Counter())
            model(image)
        return Prepared(call, report=lambda: calls)


def layer_task(request: Request) -> LayerTask:
    """What to measure for a request.

    Raises:
        UserError: If it is for more than one model, precision or batch size, or not for one of torch's layouts.
    """
    asked = (request.configs, request.backends, request.dtypes, request.batch_sizes)
    if any(len(values) > 1 for values in asked) or request.backends[0] not in ('eager', 'channels_last'):
        raise UserError('--by-layer takes one model, one --dtype, one --batch-size and one --backend, eager or '
                        'channels_last')
    if request.train:
        raise UserError('--by-layer is for inference: leave out --train')
    (source,), (backend,), (dtype,), (batch_size,) = asked
    if dtype not in DTYPES:
        raise UserError(f'--by-layer runs in {", ".join(DTYPES)}, not in {dtype}')
    return LayerTask(source, tuple(request.shape), batch_size, backend == 'channels_last', dtype, request.device,
                     request.threads or torch.get_num_threads())


def measure_layers(task: LayerTask, rounds: int) -> tuple[list[Part], Rates]:
    """Measure the parts of a model, in the order of computation.

    Raises:
        UserError: If it is a file, whose layers are not known.
    """
    model = build(task.source)
    if not isinstance(model, InferenceModel):
        raise UserError(f'--by-layer: the layers of {task.source} are not known; give a config or an architecture')
    results, rates = measure({task: task}, [task.dtype], task.device, task.threads, rounds)
    calls = results[task][1].report[-(CALLS_PER_TURN + 1) * rounds:]  # without those that warmed up
    names = {name: part for name, part in parts_of(fuse(model)).items() if part[1]}
    layers: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers_of(model, task.shape, task.batch_size):
        name = next((name for name in names if f'{layer.name}.'.startswith(f'{name}.')), None)
        layers.setdefault(names.get(name, (REST, REST)), []).append(layer)
    for call in calls:
        _add_rests(call)
    medians = {part: 1000 * median(call[part] for call in calls) for part in calls[0]}
    total = sum(medians.values())
    return [Part(*part, ms, ms / total, sum(layer.macs for layer in layers.get(part, ())),
                 1000 * rates.seconds(layers[part], task.dtype) / ms if part in layers else None)
            for part, ms in medians.items()], rates


def parts_of(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Name of each module that is timed -> its block and kind; the kind of a whole block is empty."""
    parts = {}
    for name, module in model.named_modules():
        if type(module) not in KINDS:
            continue
        stage, block = re.search(r'(?:stages\.(\d+)\.)?(stem|downsample|blocks\.\d+)', name).groups()
        block = re.sub(r'blocks\.(\d+)', lambda found: f'block{int(found[1]) + 1}', block)
        block = block if stage is None else f'stage{int(stage) + 1}.{block}'
        parts.update({f'{name}.{child}': (block, kind) for child, kind in KINDS[type(module)].items()
                      if not isinstance(getattr(module, child), nn.Identity)})
        if type(module) is not ChannelMixer:
            parts[name] = (block, '')
    return parts


def _add_rests(call: Counter) -> None:
    """Replace the times of the whole blocks, and of the whole model, by what they do beside their parts."""
    wholes = {part: call.pop(part) for part in list(call) if not part[1]}
    for (block, _), time_of_block in wholes.items():
        if block != REST:
            call[block, SUMS] = time_of_block - sum(ms for part, ms in call.items() if part[0] == block)
    call[REST, REST] = wholes[REST, ''] - sum(call.values())


def _time_parts(model: nn.Module, calls: list[Counter], wait: Callable[[], Any]) -> None:
    """Let a model add the seconds of each of its parts to the last one of ``calls``."""
    def time_module(module: nn.Module, part: tuple[str, str]) -> None:
        def start(*_: Any) -> None:
            wait()
            calls[-1][part] -= time.perf_counter()

        def stop(*_: Any) -> None:
            wait()
            calls[-1][part] += time.perf_counter()
        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)

    time_module(model, (REST, ''))
    for name, part in parts_of(model).items():
        time_module(model.get_submodule(name), part)
