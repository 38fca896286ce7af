"""The scope ``repvit_mm`` of mmengine's registries, which mmengine looks for in a module of this name.

What a base config ``repvit_mm::...`` defines is built under this scope. It holds nothing: RepViT itself is in
the root registries, and everything else in our configs is a toolbox's. So it lets every look-up through
to the scope around it, which is that of the toolbox in use.
"""
from contextlib import suppress
from importlib import import_module

import mmengine.registry
from mmengine.registry import DefaultScope, Registry

SCOPE = 'repvit_mm'


class SeeThroughRegistry(Registry):
    """A registry that finds what the registry of the scope around it finds."""

    def get(self, key: str) -> type | None:
        """Look a name up in the toolbox whose scope was current before this one, or in the root registry."""
        root = self.root
        for scope in reversed(DefaultScope._instance_dict.values()):
            if scope.scope_name != SCOPE:
                with suppress(ImportError):
                    import_module(f'{scope.scope_name}.registry')
                around = root._search_child(scope.scope_name)
                return (root if around is None else around).get(key)
        return root.get(key)


def register_scope() -> None:
    """Give each of mmengine's root registries a child of our scope, once."""
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, Registry) and SCOPE not in registry.children:
            SeeThroughRegistry(registry.name, parent=registry, scope=SCOPE)


register_scope()
