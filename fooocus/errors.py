"""The error tree: every way in which the program can say no, each with a sentence and a remedy.

::

    FooocusError
    +-- RequestError        a field of a request is wrong; names the field
    +-- ConfigError         settings are wrong; lists every wrong one at once
    +-- ModelError          something about model files
    |   +-- MissingModel        a named file is not there
    |   +-- UnreadableModel     the bytes are not a model this program opens (pickle, HTML, truncated, ...)
    |   +-- UnsupportedModel    a model of another family or kind (SD 1.5, a LoRA given as a checkpoint, ...)
    |   +-- MismatchedModel     right family, but tensors are missing, unexpected or misshapen
    |   +-- IncompatibleLora    no tensor of a LoRA fits the chosen model
    +-- RenderError         a picture could not be finished
    |   +-- DeviceOutOfMemory   no memory plan was small enough
    |   +-- BrokenPicture       the result holds NaN or infinity
    +-- StorageError        a file could not be written (disk full, read-only folder, ...)
    +-- WorkerError         the worker process died or could not start
    +-- AlreadyRunning      another page uses the same data folder
    +-- Stopped             the person asked to stop; not a fault
    +-- PauseAsked          the person asked to pause; not a fault

``sentence`` says what is wrong in words for the person, ``remedy`` what to do about it. The page and the command line
print both; nothing else needs to be known about an error to show it.
"""

from __future__ import annotations


class FooocusError(Exception):
    """Base of every error that is meant for the person. Anything else that is raised is a defect of the program."""

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(f"{sentence} {remedy}".strip())
        self.sentence = sentence
        self.remedy = remedy

    @property
    def code(self) -> str:
        """The class name, stable enough to be matched by tests, scripts and the page."""
        return type(self).__name__


class RequestError(FooocusError):
    """A field of a request is wrong. ``field`` is its name in :class:`fooocus.request.Request`."""

    def __init__(self, field: str, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence, remedy)
        self.field = field


class ConfigError(FooocusError):
    """Settings are wrong. ``problems`` holds one line per wrong setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("Some settings are wrong: " + " ".join(problems), "Correct them and start again.")
        self.problems = problems


class ModelError(FooocusError):
    """Something is wrong with a model file."""


class MissingModel(ModelError):
    """A named model file is not there."""


class UnreadableModel(ModelError):
    """The bytes are not a model that this program opens."""


class UnsupportedModel(ModelError):
    """The file is a model, but of a family or kind that does not fit here."""


class MismatchedModel(ModelError):
    """The family is right but tensors are missing, unexpected or misshapen."""


class IncompatibleLora(ModelError):
    """No tensor of a LoRA fits the chosen model."""


class RenderError(FooocusError):
    """A picture could not be finished."""


class DeviceOutOfMemory(RenderError):
    """No memory plan was small enough for the device."""


class BrokenPicture(RenderError):
    """The result holds NaN or infinity."""


class StorageError(FooocusError):
    """A file could not be written."""


class WorkerError(FooocusError):
    """The worker process died or could not start."""


class AlreadyRunning(FooocusError):
    """Another page process uses the same data folder."""


class Stopped(FooocusError):
    """The person asked to stop. Raised inside the worker to leave the run; never shown as a fault."""


class PauseAsked(FooocusError):
    """The person asked to pause. Raised inside the worker to leave the run where it is; never shown as a fault."""
