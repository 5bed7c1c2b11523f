"""Decodes image files, the same way in every command: upright, 8 bits per channel, in one mode."""
import functools
import os
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ...utils.errors import Unreadable, format_error

BITS, SAMPLE_FORMAT, SIGNED = 258, 339, 2  # tags of TIFF, and a value of the latter
SIXTEEN_BITS = ('PNG', 'PPM')  # formats whose 32-bit mode in Pillow holds 16 bits
OVERSHOOT = 1.25  # resampling leaves floats a little outside their range


@functools.cache
def endings() -> frozenset[str]:
    """Endings of the files that Pillow reads as images by itself, lower case and with the dot."""
    Image.init()

    def is_image(kind: str) -> bool:
        factory = Image.OPEN[kind][0]  # a class, but for JPEG, which may turn out to be another format
        stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return not stub and Image.MIME.get(kind, 'image/').startswith('image/')

    return frozenset(
        ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN and is_image(kind))


def decode(source: str | os.PathLike | BinaryIO, mode: str | None = 'RGB') -> Image.Image:
    """Decode an image, rotate it as its EXIF data say, and convert it.

    Deeper grey images are scaled to 8 bits by their bit depth. Formats of 32-bit numbers do not tell their range: it is
    taken to be the smallest of 8, 16 and 32 bits (or, for floats, 1) that holds all values.

    Args:
        source: A file, or its content.
        mode: PIL mode; None for the image's own.

    Raises:
        Unreadable: The message is the reason, in one line, without the file's name.
    """
    try:
        if isinstance(source, (str, os.PathLike)) and not stat.S_ISREG(os.stat(source).st_mode):
            raise OSError('not a regular file')  # a named pipe would be waited for
        with Image.open(source) as image:
            image.load()
            return prepared(image, mode)
    except UnidentifiedImageError:
        reason = 'not a known image format'
    except Exception as e:  # Pillow and its plug-ins raise a dozen types for damaged, huge and unsupported files
        reason = format_error(e)
    raise Unreadable(reason)


def prepared(image: Image.Image, mode: str | None = 'RGB') -> Image.Image:
    """The part of :func:`decode` after decoding; the image itself is turned in place."""
    _turn(image)
    as_deep = mode in ('F', 'I') or (mode or '').startswith('I;')
    return (image if as_deep else _to_8_bits(image)).convert(mode)


def _turn(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF data say nothing; the pixels are there already
        pass


def _to_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(('I', 'F')):
        return image
    values, tags = np.asarray(image), getattr(image, 'tag_v2', {})
    bits, signed = tags.get(BITS, (0,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if image.mode == 'F':
        ranges = [1, 2 ** 8 - 1, 2 ** 16 - 1, 2 ** 32 - 1]
    elif image.mode != 'I' or image.format in SIXTEEN_BITS or bits == 16:
        ranges = [2 ** (min(bits or 16, 16) - (signed and image.mode == 'I')) - 1]
    else:
        if bits == 32 and not signed:
            values = values.view(np.uint32)
        ranges = [2 ** 8 - 1, 2 ** 16 - 1, 2 ** (32 if values.dtype == np.uint32 else 31) - 1]
    values = values.astype(np.float32)
    top = float(values.max(initial=0, where=np.isfinite(values)))
    slack = OVERSHOOT if image.mode == 'F' else 1
    limit = next((limit for limit in ranges if top <= slack * limit), top)
    scaled = np.nan_to_num(np.clip(values / limit, 0, 1)) * 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
