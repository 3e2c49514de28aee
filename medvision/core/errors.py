"""The errors this package raises on purpose.

Each is a `MedvisionError`, so that a caller can tell a known failure from a bug, and also the builtin that a Python
programmer would expect. The message names the file, the value, and the known choices.
"""

import errno


class MedvisionError(Exception):
    """Any failure that the package foresaw and can explain."""


class UsageError(MedvisionError, ValueError):
    """A parameter or a combination of parameters that cannot mean anything."""


class UnknownNameError(MedvisionError, KeyError):
    """A name that a registry does not hold."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError would show its message in quotes


class UnreadableSourceError(MedvisionError, ValueError):
    """A file that cannot be opened as a source: absent, not an image, truncated, or of an unsupported kind."""


class SourceTooLargeError(UnreadableSourceError):
    """A file that claims dimensions beyond the limits, so that reading it would exhaust memory."""


class SpacingError(MedvisionError, ValueError):
    """A physical spacing that is missing, zero, absurd or anisotropic."""


class WindowUnreadableError(MedvisionError, OSError):
    """Pixels of one window that could not be decoded, after the file was reopened and the read retried once."""


class PixelsMissingError(WindowUnreadableError):
    """Pixels of one window that the file never held: a tile of zero bytes, where a scanner left glass out."""


class DeviceError(MedvisionError, RuntimeError):
    """A device that failed while it computed, such as one out of memory at a batch of a single window."""


class WeightsError(MedvisionError, ValueError):
    """Weights that are unsafe to load, or do not fit the network they were given for."""


class AnnotationError(MedvisionError, ValueError):
    """An annotation file that cannot be read or breaks its format's rules."""


class StoreError(MedvisionError, OSError):
    """A result that could not be written whole, or that does not match what it claims to be."""


_TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EBUSY", "EINTR", "ESTALE", "ETIMEDOUT"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
)


def is_transient(error: BaseException) -> bool:
    """Whether the system's reason for `error`, or for what caused it, may pass: a disk or network that did not answer.

    A corrupt file, a full disk or a wrong parameter is none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _TRANSIENT:
            return True
        cause = cause.__cause__
    return False
