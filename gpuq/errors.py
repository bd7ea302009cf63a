"""The one kind of error that is gpuq's own."""


class DeviceError(RuntimeError):
    """A device or instruction set was asked for that this machine, or this installation, does not have."""
