"""Official weights by name: downloaded once, verified, converted to the zoo's key names and cached."""
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..utils.version import __version__
from .cache import FORMAT, Cache, WeightsError, write_to_cache
from .checkpoint import read_checkpoint, state_dict_of
from .convert import KeyMap, check_all, fit_state_dict
from .fetch import address, fetch, fetchable, hub_file, remove
from .sources import Source, load, source


def resolve(
        name_tag: str, build: Callable[[], nn.Module], key_map: KeyMap | None,
        folder: str | Path | None = None) -> Path:
    """Return a local safetensors file of a model's official weights, with the zoo's key names.

    The first call downloads the official file, verifies it (by the hash in the table of sources, or else that of its
    first use), converts it strictly and caches the result; later calls need no network.

    Args:
        name_tag: ``model.tag``.
        build: Function that creates the model of the weights, on any device; only called for a conversion.
        key_map: Map from the reference's key names to the zoo's.
        folder: The cache folder, by default :func:`zoo.weights.cache.cache_folder`.

    Returns:
        Path of the converted file.

    Raises:
        WeightsError: The weights are not available, are damaged, or cannot be written to the cache.
        ValueError: The file is not a checkpoint, would run code, or does not fit the model.
    """
    origin, cache = source(name_tag), Cache(folder)
    kept = cache.converted(name_tag, origin.location, origin.sha256)
    if kept is None:
        with cache.lock(name_tag):
            kept = cache.converted(name_tag, origin.location, origin.sha256)  # another process may have converted it
            if kept is None:
                kept = _make(origin, cache, build, key_map)
    return kept


def cfg_entries(name_tag: str) -> dict[str, Any]:
    """Return entries of timm's pretrained cfg from the table of sources; {} if a model is not in the table.

    timm lists models with an address as pretrained. It never downloads from it, because :func:`resolve` comes first.
    """
    origin = load().get(name_tag)
    if origin is None:
        return {}
    entries = dict(
        num_classes=origin.num_classes, input_size=(3, *origin.size), crop_pct=origin.crop, crop_mode=origin.crop_mode,
        interpolation=origin.interpolation, mean=origin.mean, std=origin.std)
    if origin.license != 'unknown':
        entries.update(license=origin.license.lower())
    if origin.kind == 'hub':
        repo, file, revision = hub_file(origin.location)
        entries.update(hf_hub_id=f'{repo}@{revision}' if revision else repo, hf_hub_filename=file)
    elif fetchable(origin):
        entries.update(url=address(origin))
    return entries


def _make(origin: Source, cache: Cache, build: Callable[[], nn.Module], key_map: KeyMap | None) -> Path:
    """Download and convert the official file."""
    known = origin.sha256 or cache.recorded(origin.location)
    path, digest = fetch(origin, cache.downloads, known)
    try:
        state = state_dict_of(read_checkpoint(path))
        model = build()
        state = fit_state_dict(state, model, key_map)
        check_all(state, model)
    except ValueError:
        if known is None:  # not known to be the right file
            remove(path)
        raise
    size = path.stat().st_size
    kept = cache.converted_path(origin.name)
    metadata = provenance(origin.name, address(origin), digest, origin.license)
    write_to_cache(kept, lambda file: save(state, file, metadata))
    cache.record(origin.name, origin.location, digest, size)
    if origin.kind != 'hub':
        remove(path)
    return kept


def provenance(name_tag: str, place: str, sha256: str, license: str) -> dict[str, str]:
    """Return the metadata of converted weights: address, SHA-256 and licence of the official file, versions."""
    return dict(
        format='pt', model=name_tag, source=place, source_sha256=sha256, license=license, zoo_version=__version__,
        zoo_format=str(FORMAT), note='converted, not retrained')


def save(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The file cannot be written; also for a full disk, for which safetensors has its own error.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    path.touch()
    mode = path.stat().st_mode  # by the umask; safetensors makes its files readable by the owner only
    try:
        save_file({key: value.detach().clone().contiguous() for key, value in state.items()}, str(path), metadata)
    except SafetensorError as e:
        number = re.search(r'os error (\d+)', str(e))
        if number is None:
            raise WeightsError(f'the converted weights cannot be written to {path.parent}: {e}') from None
        raise OSError(int(number.group(1)), str(e).partition('I/O error: ')[2].partition(' (os error')[0]) from None
    path.chmod(stat.S_IMODE(mode))
