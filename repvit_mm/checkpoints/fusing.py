"""Fused checkpoints and models: bringing the one to the form of the other."""
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..errors import CheckpointError
from .formats import FoundBackbone

# Modules of the package that import this one are imported where they are needed.


def check_inference(model: nn.Module, source: str) -> None:
    """Check that ``model`` may take a fused checkpoint.

    Raises:
        CheckpointError: If it is in training mode: a fused model is for inference only.
    """
    if model.training:
        raise CheckpointError(f'{source} is fused, for inference only, and the model is in training mode: call '
                              'model.eval() first, and the model will be fused, too')


def is_fused_in_part(model: nn.Module, names: Iterable[str]) -> bool:
    """Whether a fused checkpoint has the BatchNorms of the toolboxes' own layers still.

    Args:
        model: What the checkpoint is for, not fused; in evaluation mode.
        names: Of the checkpoint's tensors, as the model has them.
    """
    from ..fusion import fuse
    toolbox_norms = fuse(model, own_only=True).state_dict().keys() - fuse(model).state_dict().keys()
    return not toolbox_norms.isdisjoint(names)


def fuse_tensors(tensors: Mapping[str, Tensor], found: FoundBackbone, backbone: nn.Module, fuse_head: bool,
                 source: str) -> dict[str, Tensor]:
    """Fuse the tensors of a checkpoint for a model that is fused.

    Args:
        tensors: Name -> tensor, in our names.
        found: The RepViT among them.
        backbone: The fused RepViT that they are for.
        fuse_head: Whether the classifier's are fused as well.
        source: Where they are from, for messages.

    Raises:
        CheckpointError: If they lack some.
    """
    from ..backbone import RepViT
    from ..fusion import fuse_layers
    if not isinstance(backbone, RepViT):
        raise CheckpointError(f'{source} is not fused, and the {type(backbone).__name__} in the model is')
    root = found.root
    inside = {name[len(root):]: value for name, value in tensors.items() if name.startswith(root)}
    stem = inside.get('stem.conv1.conv.weight')
    if stem is None:
        raise CheckpointError(f'{source} cannot be fused: it lacks {root}stem.conv1.conv.weight')
    unfused = RepViT(backbone.arch, stem.shape[1], backbone.out_indices, backbone.feature_tap,
                     norm_cfg=backbone.norm_cfg)
    _fill(unfused, inside, source)
    fused = {name: value for name, value in tensors.items() if not name.startswith(root)}
    fused.update({root + name: value for name, value in fuse_layers(unfused).state_dict().items()})
    return _fuse_heads(fused, root.removesuffix('backbone.'), source) if fuse_head else fused


def _fuse_heads(tensors: Mapping[str, Tensor], top: str, source: str) -> dict[str, Tensor]:
    """Fold the classifier's one or two layers into the mean of both."""
    from ..folding import fusion_dtype
    from ..layers import BNLinear
    folded, rest = [], dict(tensors)
    for layer in ('head.fc', 'head.fc_dist'):
        inside = {name: rest.pop(name) for name in tensors if name.startswith(f'{top}{layer}.')}
        weight = inside.get(f'{top}{layer}.linear.weight')
        if weight is None:  # not there, or fused already
            rest.update(inside)
            continue
        head = BNLinear(*reversed(weight.shape)).to(weight.dtype)
        _fill(head, {name[len(f'{top}{layer}.'):]: value for name, value in inside.items()}, source)
        folded.append([value.detach().to(weight) for value in head.folded(fusion_dtype(weight))])
    if folded:
        for name, values in zip(('weight', 'bias'), zip(*folded, strict=True), strict=True):
            rest[f'{top}head.fc.{name}'] = sum(values) / len(values)
    return rest


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f'{source} cannot be fused: {" ".join(str(error).split())[:300]}') from error
