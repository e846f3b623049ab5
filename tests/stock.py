"""A process in which edgeprune can't be imported: a stock install."""

from __future__ import annotations

#: What such a program begins with.
WITHOUT_EDGEPRUNE = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'edgeprune':
            raise ImportError('edgeprune is not here')
sys.meta_path.insert(0, Block())
"""
