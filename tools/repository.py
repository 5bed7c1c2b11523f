"""Where the repository is published, and how a link into it becomes an address; of the standard library alone.

``hatch_build.py`` (the package's metadata) and ``docs/conf.py`` (the site) use it. No address is written down: it is
that of the environment variable ``ZOO_REPOSITORY``, or, in a workflow of GitHub, that of the workflow's repository.
"""
import os
import re
from collections.abc import Mapping

LINK = re.compile(r'(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)')  # to a file, relative


def address(environ: Mapping[str, str] = os.environ) -> str | None:
    """The address of the repository, without a slash at its end; None if it is not known."""
    if environ.get('ZOO_REPOSITORY'):
        return environ['ZOO_REPOSITORY'].rstrip('/')
    if environ.get('GITHUB_SERVER_URL') and environ.get('GITHUB_REPOSITORY'):
        return f'{environ["GITHUB_SERVER_URL"]}/{environ["GITHUB_REPOSITORY"]}'
    return None


def urls(repository: str) -> dict[str, str]:
    """The links of ``[project.urls]``."""
    return {
        'Source': repository,
        'Documentation': f'{repository}/blob/main/docs/index.md',
        'Changelog': f'{repository}/blob/main/CHANGELOG.md',
        'Issues': f'{repository}/issues',
    }


def absolute(text: str, repository: str, ref: str = 'main') -> str:
    """Make the relative links of a Markdown file in the repository's root absolute.

    Args:
        text: The file.
        repository: Address of the repository.
        ref: Branch or tag that the links lead to.
    """
    return LINK.sub(lambda m: (
        f'{m["image"]}[{m["text"]}]({repository}/{"raw" if m["image"] else "blob"}/{ref}/{m["path"]})'), text)
