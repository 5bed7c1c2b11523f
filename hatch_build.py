"""Metadata of the package that depend on where the repository is published: its links, and those in README."""
import os
import runpy
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme`` and, if the address of the repository is known, ``urls``."""

    def update(self, metadata: dict) -> None:
        root = Path(self.root)
        tools = runpy.run_path(str(root / 'tools' / 'repository.py'))
        text, repository = (root / 'README.md').read_text(encoding='utf-8'), tools['address']()
        if repository:
            ref = os.environ.get('GITHUB_REF_NAME') if os.environ.get('GITHUB_REF_TYPE') == 'tag' else None
            text = tools['absolute'](text, repository, ref or 'main')
            metadata['urls'] = tools['urls'](repository)
        metadata['readme'] = {'content-type': 'text/markdown', 'text': text}
