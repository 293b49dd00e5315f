"""The stager for files that are already where tasks run."""

from flowcore.plugins.api import File, Staging, component


@component
class NoOpFileStaging(Staging):
    """Accepts ``file:`` URLs and paths, and moves nothing: all tasks see one file system."""

    def can_stage_in(self, file: File) -> bool:
        """Return whether the file's scheme is ``file``."""
        return file.scheme == "file"

    def can_stage_out(self, file: File) -> bool:
        """Return whether the file's scheme is ``file``."""
        return file.scheme == "file"
