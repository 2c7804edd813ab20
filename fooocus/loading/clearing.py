"""Room on the device: who leaves it when another network, or the work itself, needs the memory."""

from __future__ import annotations

from collections.abc import Mapping

from fooocus.errors import DeviceOutOfMemory
from fooocus.families import graphs
from fooocus.loading.device import Device
from fooocus.loading.placement import Held, place_whole, send_home, settle
from fooocus.memory.plan import Berth


class Clearing:
    """Makes room on a device by sending home, of the networks in ``held``, those that rest; large ones last.

    ``held`` is its owner's and changes under it.
    """

    def __init__(self, device: Device, held: Mapping[tuple[object, ...], Held]) -> None:
        self._device, self._held = device, held

    def clear(self, wanted: int, spare: int = 0) -> None:
        """Drop graphs and send networks home until ``wanted`` bytes are free, as far as the device can tell and there
        are any; for ``spare`` bytes more only networks leave that are not to stay by the plan."""
        while (free := self.free_bytes()) is not None and free < wanted + spare:
            urgent = free < wanted
            if not (urgent and self._drop_oldest_graphs()) and not self._send_oldest_home(stays=urgent):
                return

    def free_bytes(self) -> int | None:
        """Return what is free on the device; None where nobody can tell.

        What graphs of resting networks keep for themselves is not; those of one in use keep it for its own work.
        """
        free = self._device.free_bytes()
        if free is None:
            return None
        return free - sum(held.idle_bytes for held in self._held.values() if not held.users)

    def drop_graphs(self) -> bool:
        """Let go of all recorded graphs; return whether that gave memory back."""
        found = [held for held in self._held.values() if held.idle_bytes]
        for held in found:
            graphs.release(held.network.module)
        if found:
            self._device.release()
        return bool(found)

    def place(self, held: Held, work_bytes: int, spare: int = 0) -> None:
        """Have a network whole on the device, and ``work_bytes`` free beside it; others leave until it fits.

        ``spare`` is as for :meth:`clear`.

        Raises :class:`~fooocus.errors.DeviceOutOfMemory` when there is no room even without them.
        """
        if held.home is not None:
            self.clear(work_bytes, spare)  # what came since it was placed may have taken that
            return
        self.clear(held.size_bytes + work_bytes - held.device_bytes, spare)  # a part may have been sent ahead
        while not place_whole(held, self._device):
            if not self._send_oldest_home():
                raise _too_little(held.size_bytes)

    def settle(self, held: Held, berth: Berth, ring_bytes: int, work_bytes: int | None, spare: int = 0) -> None:
        """Take the device's memory for a network at home that streams, as :meth:`place` does.

        ``work_bytes`` None is for the processor, where it takes none.
        """
        if work_bytes is not None:
            beside = held.stream.beside_bytes if held.stream is not None else 0
            self.clear(berth.resident_bytes + ring_bytes + beside + work_bytes - held.device_bytes, spare)
        while not settle(held, self._device, berth, ring_bytes):
            if not self._send_oldest_home():
                raise _too_little(berth.resident_bytes + ring_bytes)

    def everything(self) -> bool:
        """Send every network that is not in use away from the device; return whether that may have helped."""
        found = False
        while self._send_oldest_home():
            found = True
        self._device.release()
        return found

    def _drop_oldest_graphs(self) -> bool:
        recorded = [held for held in self._held.values() if held.idle_bytes and not held.users]
        if not recorded:
            return False
        graphs.release(min(recorded, key=lambda held: held.used).network.module)
        self._device.release()
        return True

    def _send_oldest_home(self, *, stays: bool = True) -> bool:
        """Send home what is missed least: encoders before UNets, which are large, and among those what was not used for
        the longest time; with ``stays`` at last also what is to stay by the plan."""
        resting = [held for held in self._held.values() if held.placed and not held.users]
        resting = [held for held in resting if stays or not held.stays]
        if not resting:
            return False
        send_home(min(resting, key=lambda held: (held.stays, held.network.kind == "unet", held.used)), self._device)
        return True


def _too_little(wanted: int) -> DeviceOutOfMemory:
    return DeviceOutOfMemory(
        f"The graphics card has too little free memory for {wanted / 2**30:.1f} GB of weights.",
        "Close other programs that use it, or start with --device cpu.",
    )
