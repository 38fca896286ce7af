"""Plots of the accuracy of RepViT and of other families."""
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .rows import Row

#: Published figures of other families, each with its source.
PEERS = Path(__file__).with_name('peers.csv')
#: Plots in which a family's names are to the left of its points, to avoid overlaps.
_LEFT = {('FastViT', 'latency'), ('MobileOne', 'latency'), ('EfficientFormerV2', 'macs')}


class Peer(NamedTuple):
    """A published model of another family.

    Attributes:
        family: Name of the family.
        model: Name in the family.
        top1: ImageNet-1K top-1, percent.
        latency: Of one image in Core ML, in ms.
        device: Device of the latency.
        macs: In G.
        resolution: Side of the image, in pixels.
        distilled: Whether it was trained with a teacher.
        source: Source of the figures.
    """

    family: str
    model: str
    top1: float
    latency: float
    device: str
    macs: float
    resolution: int
    distilled: bool
    source: str


def load_peers() -> list[Peer]:
    """Read the published figures of other families."""
    with PEERS.open(newline='') as file:
        return [Peer(row['family'], row['model'], float(row['top1']), float(row['latency_ms']), row['device'],
                     float(row['macs_g']), int(row['resolution']), row['distilled'] == 'yes', row['source'])
                for row in csv.DictReader(file)]


def family_points(rows: Sequence[Row], x: str, epochs: int) -> list[tuple[float, float, str]]:
    """Points of the distilled classifiers in the final paper.

    Args:
        rows: Any rows.
        x: ``'latency'`` in ms on an iPhone 12, or ``'macs'`` in G.
        epochs: Length of the training.

    Returns:
        x, top-1 and name of each point, sorted by x.
    """
    points = []
    for row in rows:
        if row.table != 'imagenet' or not row.distilled or row.epochs != epochs or '_' not in row.arch:
            continue
        position = row.macs / 1e9 if x == 'macs' else row.latencies[0].value
        points.append((position, row.result('Top 1 Accuracy'), row.arch.upper().replace('_', '.')))
    return sorted(points)


def draw_family(rows: Sequence[Row], path: Path, measured: dict[str, float] | None = None) -> None:
    """Draw top-1 against latency and against multiply-adds.

    Args:
        rows: The published models.
        path: The PNG to write.
        measured: Name of a classifier -> measured top-1, drawn as a cross.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(13, 6.5), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, x, label in zip(axes, ('latency', 'macs'), ('latency in ms, iPhone 12 (* 12 Pro), Core ML',
                                                          'multiply-adds in G'), strict=True):
        _draw_peers(axis, x)
        tops: dict[str, tuple[float, float]] = {}
        for epochs, colour in ((300, 'tab:red'), (450, 'darkred')):
            points = family_points(rows, x, epochs)
            axis.plot([p[0] for p in points], [p[1] for p in points], 'o-', color=colour, zorder=3,
                      label=f'RepViT, {epochs} epochs')
            tops |= {name: (position, top1) for position, top1, name in points}
        for name, place in tops.items():
            _name(axis, name, place, 'darkred', left=True)
        _draw_measured(axis, rows, x, measured or {})
        axis.set_xlabel(label)
        axis.margins(x=0.08, y=0.05)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('ImageNet-1K top-1, %')
    axes[1].legend(loc='lower right', fontsize=8)
    figure.savefig(path, dpi=100, format='png')


def _draw_peers(axis: Any, x: str) -> None:
    peers = load_peers()
    families = list(dict.fromkeys(peer.family for peer in peers))
    for family, colour, marker in zip(families, ('tab:blue', 'tab:green', 'tab:orange', 'tab:purple'), 's^Dv',
                                      strict=True):
        chosen = [peer for peer in peers if peer.family == family]
        places = [peer.latency if x == 'latency' else peer.macs for peer in chosen]
        notes = [f'{chosen[0].resolution} px'] * (chosen[0].resolution != 224)
        notes += ['no teacher'] * (not chosen[0].distilled)
        star = '*' * (chosen[0].device == 'iPhone 12 Pro')
        axis.plot(places, [peer.top1 for peer in chosen], f'{marker}--', color=colour, alpha=0.8, markersize=5,
                  label=f'{family}{star}' + (f' ({", ".join(notes)})' if notes else ''))
        for place, peer in zip(places, chosen, strict=True):
            _name(axis, peer.model, (place, peer.top1), colour, left=(family, x) in _LEFT)


def _name(axis: Any, text: str, place: tuple[float, float], colour: str, left: bool) -> None:
    from matplotlib.patheffects import withStroke
    offset, side = ((-6, 3), 'right') if left else ((5, -10), 'left')
    axis.annotate(text, place, offset, textcoords='offset points', ha=side, color=colour, fontsize=8, zorder=5,
                  path_effects=[withStroke(linewidth=2.5, foreground='white')])


def _draw_measured(axis: Any, rows: Sequence[Row], x: str, measured: dict[str, float]) -> None:
    points = [(row.macs / 1e9 if x == 'macs' else row.latencies[0].value, measured[row.name]) for row in rows
              if row.name in measured and row.latencies]
    if points:
        axis.plot(*zip(*points, strict=True), 'kx', markersize=8, zorder=4, label='measured here')
