"""Snapshots: a message as Engine.IO frames, taken at `emit`, and the acknowledgement's id put in at each attempt.

What is sent is never decoded and encoded again where that can be avoided: not every serializer gives back what it was
given, and the snapshot is what the user passed. How the id gets in depends on the serializer.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

from socketio import packet as socketio_packet

from reliable_emit.delivery import Frames, Unencoded, Unreadable


class Codec(Protocol):
    """Encodes messages as the wrapped client would."""

    def encode(self, event: str, arguments: tuple[Any, ...]) -> Frames:
        """Take the snapshot of a message.

        Raises:
            TypeError: The data cannot be encoded.
            ValueError: Likewise: it contains itself, or a number that the serializer has no room for.
        """

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot, without the event's name."""

    def check(self, frames: Frames) -> None:
        """Raise `TypeError` if this is no snapshot of this codec's; one that comes from storage may be another's."""

    def with_id(self, frames: Frames, ack_id: int | None) -> list[str | bytes]:
        """Return the frames to send; with an id they ask for an acknowledgement."""


def codec_for(packet_class: Any, namespace: str) -> Codec:
    """Return the codec for a client's ``packet_class``, so that its json module or serializer is respected."""
    match getattr(packet_class.encode, "__module__", None), getattr(packet_class.encode, "__qualname__", None):
        case "socketio.packet", "Packet.encode":
            return _TextCodec(packet_class, namespace)
        case "socketio.msgpack_packet", "MsgPackPacket.encode":
            return _MsgPackCodec(packet_class, namespace)
    return _AnyCodec(packet_class, namespace)


class _TextCodec:
    """The default protocol: ``2/namespace,["event",...]``, or ``51-["event",...]`` with attachments.

    The id belongs right before the bracket. The snapshot has no namespace in it, so the first bracket is that one.
    """

    def __init__(self, packet_class: Any, namespace: str) -> None:
        self._packet_class = packet_class
        self._prefix = "" if namespace == "/" else f"{namespace},"

    def encode(self, event: str, arguments: tuple[Any, ...]) -> Frames:
        encoded = _encode(self._packet_class, event, arguments, None)
        if isinstance(encoded, list):
            # A bytearray is passed on as it is; it could be changed before the message is sent.
            return tuple(bytes(frame) if isinstance(frame, bytearray) else frame for frame in encoded)
        return encoded  # type: ignore[no-any-return]

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        self.check(frames)
        head, *attachments = _encoded(frames)
        packet = self._packet_class(encoded_packet=head)
        for attachment in attachments:
            packet.add_attachment(attachment)
        return tuple(packet.data[1:])

    def check(self, frames: Frames) -> None:
        head = frames if isinstance(frames, str) else _encoded(frames)[0]
        if not isinstance(head, str) or head[:1] not in "25" or "[" not in head:
            raise TypeError(_ANOTHERS)

    def with_id(self, frames: Frames, ack_id: int | None) -> list[str | bytes]:
        if isinstance(frames, str):
            return [self._put_in(frames, ack_id)]
        head, *attachments = _encoded(frames)
        if not isinstance(head, str):
            raise TypeError(_ANOTHERS)
        return [self._put_in(head, ack_id), *attachments]

    def _put_in(self, text: str, ack_id: int | None) -> str:
        bracket = text.index("[")
        return f"{text[:bracket]}{self._prefix}{'' if ack_id is None else ack_id}{text[bracket:]}"


class _MsgPackCodec:
    """The msgpack serializer: one map of ``type``, ``data`` and ``nsp``, and the id, if there is one, at its end."""

    _THREE_ENTRIES, _FOUR_ENTRIES = b"\x83", b"\x84"

    def __init__(self, packet_class: Any, namespace: str) -> None:
        import msgpack  # noqa: PLC0415 - an extra of python-socketio's; who uses this serializer has it

        self._msgpack = msgpack
        self._packet_class = packet_class
        self._namespace = namespace

    def encode(self, event: str, arguments: tuple[Any, ...]) -> Frames:
        encoded = bytes(_encode(self._packet_class, event, arguments, self._namespace))
        if not encoded.startswith(self._THREE_ENTRIES):  # pragma: no cover - the layout since this serializer exists
            raise TypeError("this release of python-socketio packs messages in a way that is not known here")
        return encoded

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        self.check(frames)
        # Not with the packet class, which sends keys that are no text but does not read them.
        ext_hook = getattr(self._packet_class, "ext_hook", self._msgpack.ExtType)  # newer than the serializer itself
        packet = self._msgpack.loads(_encoded(frames)[0], ext_hook=ext_hook, strict_map_key=False)
        return tuple(packet["data"][1:])

    def check(self, frames: Frames) -> None:
        if not isinstance(frames, bytes) or not frames.startswith(self._THREE_ENTRIES):
            raise TypeError(_ANOTHERS)

    def with_id(self, frames: Frames, ack_id: int | None) -> list[str | bytes]:
        self.check(frames)
        (snapshot,) = _encoded(frames)
        if ack_id is None or isinstance(snapshot, str):
            return [snapshot]
        return [self._FOUR_ENTRIES + snapshot[1:] + self._msgpack.dumps("id") + self._msgpack.dumps(ack_id)]


class _AnyCodec:
    """A serializer of the user's, of which nothing is known, not even whether it reads what it writes.

    The snapshot is a copy of the arguments, encoded at each attempt.
    """

    def __init__(self, packet_class: Any, namespace: str) -> None:
        self._packet_class = packet_class
        self._namespace = namespace

    def encode(self, event: str, arguments: tuple[Any, ...]) -> Frames:
        _encode(self._packet_class, event, arguments, self._namespace)
        try:
            return Unencoded(event, copy.deepcopy(arguments))
        except Exception as error:
            raise TypeError(f"the data of {event!r} cannot be copied, nothing was queued: {error}") from error

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        return _unencoded(frames).arguments

    def check(self, frames: Frames) -> None:
        _unencoded(frames)

    def with_id(self, frames: Frames, ack_id: int | None) -> list[str | bytes]:
        snapshot = _unencoded(frames)
        encoded = _encode(self._packet_class, snapshot.event, snapshot.arguments, self._namespace, ack_id)
        return encoded if isinstance(encoded, list) else [encoded]


_ANOTHERS = "it was encoded by another serializer than the client's"


def _encoded(frames: Frames) -> tuple[str | bytes, ...]:
    if isinstance(frames, Unreadable):
        raise TypeError(frames.detail)
    if isinstance(frames, Unencoded):
        raise TypeError(_ANOTHERS)
    return (frames,) if isinstance(frames, str | bytes) else frames


def _unencoded(frames: Frames) -> Unencoded:
    if isinstance(frames, Unreadable):
        raise TypeError(frames.detail)
    if not isinstance(frames, Unencoded):
        raise TypeError(_ANOTHERS)
    return frames


def _encode(
    packet_class: Any, event: str, arguments: tuple[Any, ...], namespace: str | None, ack_id: int | None = None
) -> Any:
    try:
        return packet_class(socketio_packet.EVENT, data=[event, *arguments], namespace=namespace, id=ack_id).encode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raised = TypeError if isinstance(error, TypeError) else ValueError
        raise raised(
            f"the data of {event!r} cannot be encoded, nothing was queued: {error}. "
            f"Pass what the client's serializer knows: str, bytes, numbers, bool, None, lists, dicts"
        ) from error
