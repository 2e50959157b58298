"""As much of PyTorch as load.py uses, on a GPU that is a clock: a product takes
half a millisecond, one after the other."""

import time

__version__ = "0.0-fake"
float16 = "float16"
_KERNEL = 0.0005
_free = 0.0  # when the queue is empty


def manual_seed(_):
    pass


def randn(*_, **__):
    return object()


def matmul(_a, _b, out):
    global _free
    _free = max(_free, time.time()) + _KERNEL
    return out


class _Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = max(_free, time.time())

    def synchronize(self):
        time.sleep(max(0.0, self.time - time.time()))

    def elapsed_time(self, other):
        return (other.time - self.time) * 1000


class cuda:
    Event = _Event

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def device_count():
        return 1

    @staticmethod
    def set_device(_):
        pass

    @staticmethod
    def get_device_name(_):
        return "fake"
