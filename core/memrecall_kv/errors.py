"""Every error this library raises on purpose, each with a remedy.

```
MemRecallError
├─ ConfigError (ValueError)
├─ InputError (ValueError)
├─ MissingDependencyError (ImportError)
├─ UnsupportedModelError
├─ BankError
│  ├─ BankFormatError
│  ├─ FingerprintMismatchError
│  ├─ BlockCorruptError
│  ├─ BankLockedError
│  ├─ BankMovedError
│  └─ BankFullError
├─ ContextOverflowError
├─ ReasonerOutputError
├─ RemoteError
│  ├─ AccessDeniedError
│  ├─ ServerBusyError
│  └─ ServerUnreachableError
└─ TrainingError
   └─ NonFiniteLossError
```

The tree above, the classes below and `docs/errors.md` are kept equal by a test.
"""


class MemRecallError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong: what was expected and what was got.
        hint: What to do about it, one sentence; printed after the message.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message followed by the hint."""
        return f"{self.message} {self.hint}"


class ConfigError(MemRecallError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class InputError(MemRecallError, ValueError):
    """A caller's text, file or tensor cannot be used as given."""


class MissingDependencyError(MemRecallError, ImportError):
    """An optional package is not installed; the hint names the extra."""


class UnsupportedModelError(MemRecallError):
    """The backbone's keys and values cannot be stored as memory blocks."""


class BankError(MemRecallError):
    """A memory bank cannot be read or written."""


class BankFormatError(BankError):
    """The directory is no bank, or its format version is unknown to this release."""


class FingerprintMismatchError(BankError):
    """The bank was made by another backbone, compressor or setting."""


class BlockCorruptError(BankError):
    """A stored block's checksum, shape or dtype is not what the catalogue says."""


class BankLockedError(BankError):
    """Another process is writing to the bank."""


class BankMovedError(BankError):
    """The bank's path leads to another directory than when it was opened; nothing there was touched."""


class BankFullError(BankError):
    """The disk has no room for what was to be stored; nothing acknowledged was lost."""


class ContextOverflowError(MemRecallError):
    """Question, working memory and memory tokens do not fit the backbone's window."""


class ReasonerOutputError(MemRecallError):
    """The reasoner's text does not follow the protocol.

    Args:
        message: What was expected.
        hint: What to do.
        text: The text that could not be used.
    """

    def __init__(self, message: str, hint: str, text: str) -> None:
        super().__init__(message, hint)
        self.text = text


class RemoteError(MemRecallError):
    """A server failed, or what answered in its place is none of ours; what a local call raises too, it raises itself.

    Args:
        message: What was expected and what was got.
        hint: What to do.
        status: Of HTTP; `None` if there was no answer.
    """

    def __init__(self, message: str, hint: str, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status


class AccessDeniedError(RemoteError):
    """A server does not know the API key, or the key does not open what was asked for."""


class ServerBusyError(RemoteError):
    """A server takes on no more, or not so many requests at once; nothing was done.

    Args:
        message: As for `RemoteError`.
        hint: As there.
        status: As there.
        retry_after: Seconds after which it asks to be asked again; `None` if it did not say.
    """

    def __init__(self, message: str, hint: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint, status)
        self.retry_after = retry_after


class ServerUnreachableError(RemoteError):
    """A server cannot be reached, is not trusted, or fell silent."""


class TrainingError(MemRecallError):
    """Training cannot go on."""


class NonFiniteLossError(TrainingError):
    """A loss became infinite or not a number; the message names the last good checkpoint."""
